"""Unpacks archives of others: files, folders and links that stay inside, and nothing else.

Written by hand rather than with `extractall`, whose filters Python 3.11.2 does not have.
"""

from __future__ import annotations

import errno
import lzma
import posixpath
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Final, Protocol

from manager.errors import ConfigError, HerdError

ENDINGS: Final = (".zip", ".tar.gz", ".tgz", ".tar.xz")
_LINK_MOST: Final = 4096  # bytes of a link's target: PATH_MAX
# Of the modules that read archives. RuntimeError is an encrypted member, or a compression that is not known; ValueError
# a name or a number that can't be.
_UNREADABLE: Final = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    RuntimeError,
    ValueError,
)


@dataclass(frozen=True, slots=True)
class Member:
    """One entry. `kind`: file, folder, link, or the name of what is never unpacked; `size` in bytes."""

    path: str
    kind: str
    size: int = 0
    executable: bool = False
    target: str = ""


class Archive(Protocol):
    """An archive that is open for reading."""

    members: list[Member]

    def open(self, member: Member) -> IO[bytes]: ...


class _Tar:
    def __init__(self, file: tarfile.TarFile) -> None:
        self._file = file
        self._infos = {info.name: info for info in file}
        self.members = [_of_tar(info) for info in self._infos.values()]

    def open(self, member: Member) -> IO[bytes]:
        content = self._file.extractfile(self._infos[member.path])
        assert content is not None  # noqa: S101  only called for files
        return content


class _Zip:
    def __init__(self, file: zipfile.ZipFile) -> None:
        self._file = file
        self.members = [self._member(info) for info in file.infolist()]

    def _member(self, info: zipfile.ZipInfo) -> Member:
        mode = info.external_attr >> 16
        if stat.S_ISLNK(mode):
            if info.file_size > _LINK_MOST:
                return Member(info.filename, "link that is too long")
            return Member(info.filename, "link", target=self._file.read(info).decode("utf-8", "replace"))
        kind = "folder" if info.is_dir() else "file"
        return Member(info.filename, kind, info.file_size, bool(mode & 0o111))

    def open(self, member: Member) -> IO[bytes]:
        return self._file.open(member.path)


def _of_tar(info: tarfile.TarInfo) -> Member:
    kinds = {"file": info.isreg(), "folder": info.isdir(), "link": info.issym(), "hard link": info.islnk()}
    kind = next((kind for kind, it_is in kinds.items() if it_is), "device or pipe")
    return Member(info.name, kind, info.size if info.isreg() else 0, bool(info.mode & 0o111), info.linkname)


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """A .zip or .tar file, by what is in it. Raises ConfigError where it is neither, or damaged. Blocks."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as packed:
                yield _Zip(packed)
        else:
            with tarfile.open(path) as tar:
                yield _Tar(tar)
    except _UNREADABLE as error:
        raise _unreadable(path, error) from error
    except OSError as error:
        if error.errno is not None:
            raise  # of the disk; gzip and bzip2 say so of damaged data, without a number
        raise _unreadable(path, error) from error


def unpack(archive: Archive, below: str, folder: Path) -> None:
    """Put what lies below a folder of the archive ("" for all of it) into an empty folder. Blocks.

    Raises ConfigError for a member that would reach outside, or that is no file, folder or link; then what was unpacked
    so far is left for the caller, who discards the folder. HerdError where it does not fit on the disk.
    """
    members = [(relative, each) for each in archive.members if (relative := _relative(each.path, below))]
    links = {relative: member for relative, member in members if member.kind == "link"}
    for relative, member in members:
        _check(relative, member)
        if any(str(parent) in links for parent in PurePosixPath(relative).parents):
            raise _refused(member, "it lies behind a link")
    needed = sum(member.size for _, member in members)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise HerdError(f"Unpacking needs {needed // 10**6 + 1} MB in {folder}, and {free // 10**6} MB are free.")
    for relative, member in sorted(members, key=lambda each: each[1].kind == "link"):  # nothing goes through a link
        try:
            _put(archive, member, folder / relative)
        except (FileExistsError, NotADirectoryError):
            raise _refused(member, "its name is taken by another member") from None
    root = folder.resolve()
    for relative, member in links.items():
        # A link through another link may lead elsewhere than its text says.
        if _is_circle(folder / relative):
            raise _refused(member, "it leads in a circle")
        if not (folder / relative).resolve().is_relative_to(root):
            raise _refused(member, f"it leads outside, to {member.target}")


def _put(archive: Archive, member: Member, path: Path) -> None:
    if member.kind == "folder":
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if member.kind == "link":
        path.symlink_to(member.target)
        return
    with archive.open(member) as packed, path.open("xb") as file:
        shutil.copyfileobj(packed, file, 1 << 20)
    path.chmod(0o755 if member.executable else 0o644)


def _is_circle(link: Path) -> bool:
    try:
        link.stat()
    except OSError as error:
        return error.errno == errno.ELOOP
    return False


def _relative(path: str, below: str) -> str:
    """The path below that folder; empty for what is not in it, and for the folder itself."""
    path = path.removeprefix("./").rstrip("/")
    if not below:
        return "" if path in ("", ".") else path
    return path.removeprefix(f"{below}/") if path.startswith(f"{below}/") else ""


def _check(relative: str, member: Member) -> None:
    if _outside(relative) or "\\" in relative or "\0" in relative:
        raise _refused(member, "it would lie outside")
    if member.kind not in ("file", "folder", "link"):
        raise _refused(member, f"it is a {member.kind}")
    if member.kind == "link":
        target = posixpath.normpath(posixpath.join(posixpath.dirname(relative), member.target))
        if "\0" in member.target:
            raise _refused(member, "its target is no path")
        if not member.target or posixpath.isabs(member.target) or target == ".." or target.startswith("../"):
            raise _refused(member, f"it leads outside, to {member.target}")


def _outside(relative: str) -> bool:
    path = PurePosixPath(relative)
    return path.is_absolute() or ".." in path.parts


def _unreadable(path: Path, error: Exception) -> ConfigError:
    return ConfigError(f"{path} is no archive that can be read ({', '.join(ENDINGS)}): {error}")


def _refused(member: Member, why: str) -> ConfigError:
    return ConfigError(f"The archive holds {member.path!r}, which is not unpacked: {why}. Is it the right archive?")
