from __future__ import annotations

import io
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from manager.builds.archive import open_archive, unpack
from manager.errors import ConfigError, HerdError

Member = tuple[str, bytes | str | None]  # a file's content, a link's target, or a folder


def write_tar(path: Path, members: list[Member]) -> Path:
    with tarfile.open(path, "w:xz" if path.suffix == ".xz" else "w:gz") as file:
        for name, what in members:
            info = tarfile.TarInfo(name)
            if isinstance(what, bytes):
                info.size, info.mode = len(what), 0o4755
                file.addfile(info, io.BytesIO(what))
            else:
                info.type = tarfile.DIRTYPE if what is None else tarfile.SYMTYPE
                info.linkname = what or ""
                file.addfile(info)
    return path


def write_zip(path: Path, members: list[Member]) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, what in members:
            info = zipfile.ZipInfo(f"{name}/" if what is None else name)
            kind = stat.S_IFLNK if isinstance(what, str) else stat.S_IFREG
            info.external_attr = (kind | 0o4755) << 16
            file.writestr(info, what or b"")
    return path


WRITERS = pytest.mark.parametrize(
    ("write", "name"), [(write_tar, "a.tar.gz"), (write_tar, "a.tar.xz"), (write_zip, "a.zip")]
)
Write = Callable[[Path, list[Member]], Path]


def unpacked(archive: Path, folder: Path, below: str = "") -> Path:
    folder.mkdir()
    with open_archive(archive) as opened:
        unpack(opened, below, folder)
    return folder


@WRITERS
def test_files_folders_and_links_within_are_unpacked(write: Write, name: str, tmp_path: Path) -> None:
    members: list[Member] = [("top", None), ("top/lib.so", "lib.so.1"), ("top/lib.so.1", b"code"), ("top/a/b", b"text")]
    out = unpacked(write(tmp_path / name, members), tmp_path / "out")
    assert (out / "top/lib.so").readlink() == Path("lib.so.1")
    assert (out / "top/lib.so").read_bytes() == b"code"
    assert (out / "top/a/b").read_bytes() == b"text"
    assert stat.S_IMODE((out / "top/a/b").stat().st_mode) == 0o755  # setuid is nobody's to give


@WRITERS
def test_only_what_is_below_the_wanted_folder_is_unpacked(write: Write, name: str, tmp_path: Path) -> None:
    members: list[Member] = [
        ("a/llama.cpp/x", b"1"),
        ("a/llama.cpp-other/y", b"2"),
        ("../z", b"3"),
        ("a/setup.py", b""),
    ]
    out = unpacked(write(tmp_path / name, members), tmp_path / "out", "a/llama.cpp")
    assert [str(path.relative_to(out)) for path in out.rglob("*")] == ["x"]


@WRITERS
@pytest.mark.parametrize(
    ("members", "why"),
    [
        ([("../evil", b"x")], "would lie outside"),
        ([("a/../../evil", b"x")], "would lie outside"),
        ([("/evil", b"x")], "would lie outside"),
        ([("link", "/etc"), ("a", b"x")], "leads outside"),
        ([("link", "../evil")], "leads outside"),
        ([("a/link", "../../evil")], "leads outside"),
        ([("out", ".."), ("out/evil", b"x")], "leads outside|behind a link"),
        ([("here", "."), ("here/evil", b"x")], "behind a link"),
        ([("here", "."), ("up", "here/..")], "leads outside"),
        ([("a", "b"), ("b", "a")], "leads in a circle"),
        ([("a", b"x"), ("a/b", b"x")], "taken by another"),
        ([("a", b"x"), ("./a", b"y")], "taken by another"),
    ],
)
def test_what_would_reach_outside_is_refused_and_nothing_is_written_there(
    write: Write, name: str, members: list[Member], why: str, tmp_path: Path
) -> None:
    archive = write(tmp_path / name, members)
    before = {path.name for path in tmp_path.iterdir()}
    with pytest.raises(ConfigError, match=why):
        unpacked(archive, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == before | {"out"}
    assert not Path("/evil").exists()


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_hard_links_pipes_and_devices_are_refused(kind: bytes, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as file:
        info = tarfile.TarInfo("x")
        info.type, info.linkname = kind, "/etc/passwd"
        file.addfile(info)
    with pytest.raises(ConfigError, match=r"it is a (hard link|device or pipe)"):
        unpacked(tmp_path / "a.tar.gz", tmp_path / "out")


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"no archive at all"])
@WRITERS
def test_damaged_archive_is_told(write: Write, name: str, damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    archive = write(tmp_path / name, [("a", bytes(range(256)) * 400)])
    archive.write_bytes(damage(archive.read_bytes()))
    with pytest.raises(ConfigError, match="no archive that can be read"):
        unpacked(archive, tmp_path / "out")


@pytest.mark.parametrize(("field", "value"), [(6, 1), (8, 99)])  # flags: encrypted; a compression of the future
def test_zip_that_python_can_not_read_is_told(field: int, value: int, tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "a.zip", [("a", b"x")])
    data = bytearray(archive.read_bytes())
    for mark, more in ((b"PK\3\4", 0), (b"PK\1\2", 2)):
        data[data.index(mark) + field + more] = value
    archive.write_bytes(data)
    with pytest.raises(ConfigError, match="no archive that can be read"):
        unpacked(archive, tmp_path / "out")


def test_damaged_bzip2_is_told(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_BZIP2) as file:
        file.writestr("a", bytes(1000))
    archive.write_bytes(archive.read_bytes().replace(b"BZh9", b"BZx9"))
    with pytest.raises(ConfigError, match="no archive that can be read"):
        unpacked(archive, tmp_path / "out")


def test_link_whose_target_is_no_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="its target is no path"):
        unpacked(write_zip(tmp_path / "a.zip", [("a", "b\0c")]), tmp_path / "out")


def test_what_does_not_fit_on_the_disk_is_not_begun(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("a", b"x")
        file.filelist[0].file_size = 10**15
    with pytest.raises(HerdError, match="MB are free"):
        unpacked(tmp_path / "a.zip", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
