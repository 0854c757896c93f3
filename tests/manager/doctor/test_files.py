from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from manager.auth import KeyStore
from manager.doctor import Level
from tests.manager.doctor.conftest import Look
from tests.manager.tls.pki import authority, issue

EVERYWHERE = "0.0.0.0"  # noqa: S104  nothing listens


@pytest.fixture
def keys(tmp_path: Path) -> Callable[..., Path]:
    """Make a key of this name in the file of keys, expired where that is wanted."""
    path = tmp_path / "data" / "keys.json"

    def make(name: str, *, expired: bool = False) -> Path:
        store = KeyStore(path, clock=lambda: time.time() - 1000)
        store.create(name, "", ("inference",), expires=time.time() - 500 if expired else None)
        return path

    return make


def test_folders_that_are_there_or_can_be_made_are_fine(look: Look, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    found = look("files")
    assert found["storage.data_folder"].text == str(tmp_path / "data")
    assert found["log.folder"].text.endswith("applogs (will be made)")
    assert "log.folder" not in look("files", log={"folder": ""})


def test_file_in_the_place_of_a_folder_is_an_error_of_its_setting(look: Look, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = look("files", log={"folder": tmp_path / "file" / "logs"})["log.folder"]
    assert (found.level, found.text) == (Level.ERROR, f"{tmp_path / 'file'} is no folder.")
    assert "move it away" in str(found.advice)
    found = look("files", log={"folder": "/dev/null/logs"})["log.folder"]
    assert (found.text, found.advice) == ("/dev/null is no folder.", "set log.folder to a folder")


def test_run_folder_that_others_may_look_into_is_a_warning(look: Look, short_folder: Path) -> None:
    folder = short_folder / "run"
    folder.mkdir(mode=0o700)
    assert look("files")["storage.run_folder"].level is Level.OK
    folder.chmod(0o755)
    found = look("files")["storage.run_folder"]
    assert (found.level, found.advice) == (Level.WARNING, f"chmod 700 {folder}")


def test_keys_are_counted_and_expired_ones_named(look: Look, keys: Callable[..., Path]) -> None:
    assert look("files")["keys"].level is Level.NOTE
    path = keys("old", expired=True)
    found = look("files")
    assert (found["keys"].level, found["expired keys"].text) == (Level.WARNING, "old")
    keys("alice")
    found = look("files")
    assert (found["keys"].level, found["keys"].text) == (Level.OK, f"2 in {path}, mode 600")


def test_file_of_keys_that_others_can_read_is_a_warning_and_left_as_it_is(
    look: Look, keys: Callable[..., Path]
) -> None:
    path = keys("alice")
    path.chmod(0o644)
    for area in ("files", "certificates"):
        found = look(area)
        assert path.stat().st_mode & 0o777 == 0o644
        if area == "files":
            assert (found["keys"].level, found["keys"].advice) == (Level.WARNING, f"chmod 600 {path}")
        else:
            assert found["not looked at"].text == f"others can read {path}."


def test_file_of_keys_with_a_mistake_is_an_error(look: Look, keys: Callable[..., Path]) -> None:
    keys("alice").write_text('{"keys": [{}]}')
    found = look("files")["keys"]
    assert found.level is Level.ERROR
    assert "keys.json: keys.0.id" in found.text


# certificates


def test_without_https_on_loopback_all_is_fine(look: Look) -> None:
    assert {one.level for one in look("certificates").values()} == {Level.OK}


def test_what_the_start_would_refuse_is_an_error(look: Look, keys: Callable[..., Path]) -> None:
    found = look("certificates", server={"host": EVERYWHERE})["exposure"]
    assert (found.level, "no API key is stored" in found.text) == (Level.ERROR, True)
    keys("alice")
    found = look("certificates", server={"host": EVERYWHERE})["exposure"]
    assert "keys would travel over plain HTTP" in found.text


def test_certificate_is_told_with_its_names_and_its_end(look: Look, tmp_path: Path, keys: Callable[..., Path]) -> None:
    keys("alice")
    ca = authority("Our CA")
    issued = issue("llm.lan", ca)
    folder = tmp_path / "ssl"
    folder.mkdir()
    (folder / "llm.lan-crt.pem").write_bytes(issued.pem + ca.pem)
    key = folder / "llm.lan-key.pem"
    key.write_bytes(issued.key_pem)
    key.chmod(0o600)
    tls = {"host": "llm.lan", "folder": folder}
    found = look("certificates", tls=tls, server={"host": EVERYWHERE})
    assert found["HTTPS"].level is Level.OK, found
    assert found["HTTPS"].text.startswith("llm.lan, until 20")
    assert found["exposure"].text == f"on {EVERYWHERE}, keys: 1"


def test_files_that_are_missing_or_end_soon_are_told(look: Look, tmp_path: Path) -> None:
    folder = tmp_path / "ssl"
    folder.mkdir()
    tls = {"host": "llm.lan", "folder": folder}
    found = look("certificates", tls=tls)["HTTPS"]
    assert (found.level, found.advice) == (Level.ERROR, "'llamaherd tls check' shows what was read")
    ca = authority("Our CA")
    issued = issue("llm.lan", ca, ends=3.0)
    (folder / "llm.lan-crt.pem").write_bytes(issued.pem + ca.pem)
    (folder / "llm.lan-key.pem").write_bytes(issued.key_pem)
    (folder / "llm.lan-key.pem").chmod(0o600)
    found = look("certificates", tls=tls)["HTTPS"]
    assert found.level is Level.WARNING
    assert "The certificate expires on" in found.text
