"""Files of the service's user, and what root does in the folders of that user, who may put links there."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from manager import key_file
from manager.audit import Audit
from manager.auth import KeyStore
from manager.errors import ConfigError
from manager.private_file import open_private, place_of, tighten
from manager.usage_store import make

USER = 65_534  # whose service it is


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    """A folder of root's."""
    folder = tmp_path / "etc"
    folder.mkdir()
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder of the service's user."""
    folder = tmp_path / "data"
    folder.mkdir()
    os.chown(folder, USER, USER)
    return folder


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="about what root does")


def test_new_file_is_for_its_owner_alone_in_a_new_folder(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file"
    os.close(open_private(path, os.O_RDWR))
    assert mode(path) == 0o600


def test_link_of_ones_own_is_followed_and_stays(tmp_path: Path) -> None:
    link = tmp_path / "audit.log"
    link.symlink_to(tmp_path / "elsewhere.log")
    Audit(link).write({"actor": "somebody"})
    assert link.is_symlink()
    assert (tmp_path / "elsewhere.log").read_text().count("somebody") == 1


def test_place_keeps_to_its_folder_whatever_happens_to_the_path(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with place_of(tmp_path / "data" / "keys.json") as place:
        (tmp_path / "data").rename(tmp_path / "moved")
        (tmp_path / "data").symlink_to(tmp_path)
        os.close(place.open(place.name, os.O_RDWR))
    assert (tmp_path / "moved" / "keys.json").exists()
    assert not (tmp_path / "keys.json").exists()


def test_place_follows_no_link_that_comes_after_the_look(tmp_path: Path) -> None:
    with place_of(tmp_path / "keys.json") as place:
        (tmp_path / "keys.json").symlink_to(tmp_path / "victim")
        with pytest.raises(OSError, match="symbolic link"):
            place.open(place.name, os.O_RDWR)
        with pytest.raises(FileExistsError):
            place.create(place.name, os.O_RDWR)
    assert not (tmp_path / "victim").exists()


def test_mode_is_tightened_on_files_alone(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    handle = os.open(tmp_path, os.O_RDONLY)
    try:
        assert tighten(handle, tmp_path) is None
    finally:
        os.close(handle)
    assert mode(tmp_path) == 0o755


@as_root
def test_files_that_root_makes_belong_to_the_owner_of_the_folder(data: Path) -> None:
    KeyStore(data / "keys.json").create("web", "", ["inference"])
    Audit(data / "audit.log").write({"actor": "command line"})
    make(data / "usage.sqlite")
    files = {file.name: (file.stat().st_uid, file.stat().st_gid, mode(file)) for file in data.iterdir()}
    names = ("keys.json", "keys.json.lock", "audit.log", "usage.sqlite")
    assert files == dict.fromkeys(names, (USER, USER, 0o600))


def audit(data: Path) -> None:
    Audit(data / "audit.log").write({"actor": "command line"})


def keys(data: Path) -> None:
    KeyStore(data / "keys.json").create("web", "", ["inference"])


def usage(data: Path) -> None:
    make(data / "usage.sqlite")


LINKS: list[tuple[str, Callable[[Path], None]]] = [
    ("audit.log", audit),
    ("keys.json", keys),
    ("keys.json.lock", keys),
    ("usage.sqlite", usage),
]


@as_root
@pytest.mark.parametrize(("name", "do"), LINKS)
def test_root_makes_nothing_where_a_link_of_the_user_leads(
    data: Path, etc: Path, name: str, do: Callable[[Path], None]
) -> None:
    (data / name).symlink_to(etc / "profile.sh")
    with pytest.raises(ConfigError, match=r"another user's|symbolic link"):
        do(data)
    assert list(etc.iterdir()) == []


@as_root
@pytest.mark.parametrize(("name", "do"), LINKS)
@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_root_changes_nothing_that_a_link_of_the_user_leads_to(
    data: Path, etc: Path, name: str, do: Callable[[Path], None], link: Callable[[Path, Path], None]
) -> None:
    victim = etc / "passwd"
    victim.write_text("root:x:0:0\n")
    victim.chmod(0o644)
    link(victim, data / name)
    with pytest.raises(ConfigError):
        do(data)
    status = victim.stat()
    assert (victim.read_text(), status.st_uid, status.st_gid, mode(victim)) == ("root:x:0:0\n", 0, 0, 0o644)
    assert list(etc.iterdir()) == [victim]


@as_root
def test_root_does_not_wait_for_a_pipe_of_the_user(data: Path) -> None:
    os.mkfifo(data / "audit.log")
    os.chown(data / "audit.log", USER, USER)
    with pytest.raises(ConfigError, match="root leaves it"):
        audit(data)


@as_root
def test_link_of_root_to_a_folder_of_the_user_is_no_way_back_to_root(data: Path, etc: Path) -> None:
    (etc / "audit.log").symlink_to(data / "audit.log")
    (data / "audit.log").symlink_to(etc / "profile.sh")
    with pytest.raises(ConfigError, match="another user's"):
        Audit(etc / "audit.log")
    assert not (etc / "profile.sh").exists()


@as_root
def test_link_to_a_key_file_of_the_same_user_works_for_root(data: Path, etc: Path) -> None:
    real = etc / "llamaherd.json"
    key_file.write(real, [])
    os.chown(real, USER, USER)
    (data / "keys.json").symlink_to(real)
    store = KeyStore(data / "keys.json")
    store.load()
    store.create("web", "", ["inference"])
    assert (data / "keys.json").is_symlink()
    assert (real.stat().st_uid, mode(real)) == (USER, 0o600)
    assert [key.name for key in key_file.read(real)[0]] == ["web"]


@as_root
def test_mode_of_a_key_file_of_somebody_else_stays(data: Path, etc: Path) -> None:
    real = etc / "llamaherd.json"
    key_file.write(real, [])
    os.chown(real, 1, 1)
    real.chmod(0o644)
    (data / "keys.json").symlink_to(real)
    KeyStore(data / "keys.json").load()
    assert mode(real) == 0o644


@as_root
def test_database_that_root_makes_can_be_used_by_its_user(data: Path) -> None:
    usage(data)
    with closing(sqlite3.connect(data / "usage.sqlite")) as connection:
        connection.execute("INSERT INTO usage VALUES (0, 'k', 'm', 1, 0, 0, 0, 0)")
        assert {file.stat().st_uid for file in data.iterdir()} == {USER}
