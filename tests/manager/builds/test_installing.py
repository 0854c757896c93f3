from __future__ import annotations

import hashlib
import json
import shutil
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol

import pytest

from manager.builds.failure import BuildFailed
from manager.builds.installing import install
from manager.builds.kept import Build, builds
from manager.downloads import DownloadFailed
from manager.errors import ConfigError
from manager.settings import Settings
from tests.conftest import EMPTY_GGUF
from tests.fakes import write_binary
from tests.manager.builds.conftest import Watcher, program


class Install(Protocol):
    def __call__(self, source: str, sha256: str | None = None, *, smoke_test: bool = False, **more: Any) -> Build: ...


@pytest.fixture
def take(settings: Settings, watcher: Watcher, tmp_path: Path) -> Install:
    model = tmp_path / "model.gguf"
    model.write_bytes(EMPTY_GGUF)

    def call(source: str, sha256: str | None = None, *, smoke_test: bool = False, **more: Any) -> Build:
        return install(source, sha256, settings, watcher, (lambda: model) if smoke_test else None, **more)

    return call


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """As llama.cpp's releases are laid out: programs and libraries together, and links among these."""
    folder = tmp_path / "release" / "build" / "bin"
    program(folder / "llama-server", "echo 'version: 0.6.0-dev (build 4567, commit abc1234)'")
    program(folder / "ggml-rpc-server", "exit 0")
    (folder / "libggml-vulkan.so.0").write_bytes(b"code")
    (folder / "libggml-vulkan.so").symlink_to("libggml-vulkan.so.0")
    (folder.parent.parent / "LICENSE").write_text("MIT\n")
    return tmp_path / "release"


def pack(folder: Path, name: str) -> Path:
    path = folder.with_name(name)
    if name.endswith(".zip"):
        with zipfile.ZipFile(path, "w") as packed:
            for file in folder.rglob("*"):
                if file.is_file():
                    packed.writestr(str(file.relative_to(folder)), file.read_bytes())  # says nothing of modes
    else:
        with tarfile.open(path, "w:xz" if name.endswith("xz") else "w:gz") as tar:
            tar.add(folder, ".")
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("name", ["llama.zip", "llama.tar.gz", "llama.tar.xz"])
def test_release_gets_into_the_list_with_its_layout(
    name: str, release: Path, take: Install, settings: Settings
) -> None:
    archive = pack(release, name)
    made = take(str(archive), sha256(archive))
    assert (made.name, made.version, made.gpu) == ("b4567-vulkan-release", "b4567", "vulkan")
    assert made.binary == made.folder / "build" / "bin" / "llama-server"
    assert (made.binary.parent / "libggml-vulkan.so").read_bytes() == b"code"
    assert builds(made.folder.parent) == [made]
    assert json.loads((made.folder / "build.json").read_text())["source_sha256"] == sha256(archive)


def test_file_needs_no_checksum_but_is_held_to_one_that_is_given(release: Path, take: Install) -> None:
    archive = pack(release, "llama.zip")
    assert take(str(archive)).version == "b4567"
    with pytest.raises(ConfigError, match=sha256(archive)):
        take(str(archive), "0" * 64)


@pytest.mark.parametrize(
    ("source", "checksum", "says"),
    [
        ("https://example.org/llama.zip", None, "--sha256 is missing"),
        ("https://example.org/llama.zip", "abc", "64 hexadecimal digits"),
        ("nowhere.zip", None, r"nowhere\.zip: No such file"),
    ],
)
def test_mistakes_in_what_is_wanted_are_told(source: str, checksum: str | None, says: str, take: Install) -> None:
    with pytest.raises(ConfigError, match=says):
        take(source, checksum)


def test_version_is_that_of_the_file_where_the_server_says_none(release: Path, take: Install) -> None:
    program(release / "build/bin/llama-server", "echo 'version: 0.6.0-dev (build 0, commit unknown)'")
    assert take(str(pack(release, "llama-b4568-bin-ubuntu-x64.zip"))).version == "b4568"


def test_archive_without_a_server_is_told(release: Path, take: Install, settings: Settings) -> None:
    shutil.move(release / "build/bin/llama-server", release / "build/bin/llama-cli")
    with pytest.raises(ConfigError, match="holds no program llama-server"):
        take(str(pack(release, "llama.zip")))


def test_server_of_another_system_is_told(release: Path, take: Install) -> None:
    (release / "build/bin/llama-server").write_bytes(b"MZ\0\0")
    with pytest.raises(BuildFailed, match="for another system"):
        take(str(pack(release, "llama.tar.gz")))


def test_server_that_ends_with_an_error_is_told_with_what_it_says(release: Path, take: Install, folder: Path) -> None:
    program(release / "build/bin/llama-server", "echo \"libc.so.6: version 'GLIBC_2.99' not found\" >&2; exit 1")
    with pytest.raises(BuildFailed, match=r"(?s)for another system.*GLIBC_2\.99"):
        take(str(pack(release, "llama.tar.gz")))
    assert builds(folder) == []


def test_other_archive_is_not_taken_for_the_one_of_that_name(release: Path, take: Install, watcher: Watcher) -> None:
    first = pack(release, "v1.tar.gz")
    made = take(str(first), name="mine")
    assert take(str(first), name="mine") == made
    assert "is there already" in watcher.said[-1]
    (release / "LICENSE").write_text("MIT, 2026\n")
    second = pack(release, "v2.tar.gz")
    with pytest.raises(ConfigError, match=r"made otherwise \(source\).*--name.*--force"):
        take(str(second), name="mine")
    with pytest.raises(ConfigError, match="made otherwise"):  # and nothing is fetched for it
        take("http://127.0.0.1:1/v2.tar.gz", sha256(second), name="mine")
    assert take(str(second), name="mine", again=True).made_at > made.made_at


def test_odd_name_is_refused_before_anything_is_fetched(take: Install, watcher: Watcher) -> None:
    with pytest.raises(ConfigError, match="--name"):
        take("http://127.0.0.1:1/llama.zip", "0" * 64, name="bad/name")
    assert watcher.said == []


def test_release_is_tried_before_it_is_kept(release: Path, take: Install, watcher: Watcher, folder: Path) -> None:
    binary = release / "build/bin"
    write_binary(binary)
    made = take(str(pack(release, "llama-b1.zip")), smoke_test=True, name="mine")
    assert made.name == "mine"
    assert watcher.said[-1].startswith("It works")
    write_binary(binary, exit_on_start={"code": 1, "lines": ["E no such library"]})
    with pytest.raises(BuildFailed, match="no such library"):
        take(str(pack(release, "llama-b2.zip")), smoke_test=True, name="mine", again=True)
    assert builds(folder) == [made]
    assert {path.name for path in folder.iterdir()} == {"mine", ".lock"}


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """A server of the files of tmp_path."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_release_is_fetched_by_its_url_and_checked(release: Path, take: Install, address: str, folder: Path) -> None:
    archive = pack(release, "llama.zip")
    with pytest.raises(DownloadFailed):
        take(f"{address}/llama.zip", "0" * 64)
    assert {path.name for path in folder.iterdir()} == {".lock"}
    made = take(f"{address}/llama.zip?x=1", sha256(archive).upper())
    assert (made.version, made.source) == ("b4567", f"{address}/llama.zip")


def test_secrets_of_an_address_are_neither_told_nor_kept(
    release: Path, take: Install, address: str, watcher: Watcher
) -> None:
    archive = pack(release, "llama.zip")
    made = take(f"{address}/llama.zip?X-Sig=hush".replace("//", "//user:hunter2@"), sha256(archive))
    seen = "\n".join([*watcher.said, (made.folder / "build.json").read_text()])
    assert f"{address}/llama.zip" in seen
    assert "hunter2" not in seen
    assert "hush" not in seen
