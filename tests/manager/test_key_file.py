from __future__ import annotations

import json
import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from manager import key_file
from manager.errors import ConfigError
from manager.key_file import ApiKey

KEY = ApiKey("0123abcd", "web", "für alle", "ab" * 32, frozenset({"inference"}), 1_700_000_000.0, 1_800_000_000.0, None)
RECORD: dict[str, Any] = {
    "id": "0123abcd",
    "name": "web",
    "description": "für alle",
    "digest": "ab" * 32,
    "scopes": ["inference"],
    "created": "2023-11-14T22:13:20Z",
    "expires": "2027-01-15T08:00:00Z",
    "last_used": None,
    "priority": 0,
}


def write_text(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    return path


def test_file_has_utc_times_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    key_file.write(path, [KEY])
    assert json.loads(path.read_text(encoding="utf-8")) == {"keys": [RECORD]}
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    version = key_file.write(tmp_path / "keys.json", [KEY])
    assert key_file.read(tmp_path / "keys.json") == ((KEY,), version)


def test_priority_is_written_and_read(tmp_path: Path) -> None:
    key_file.write(tmp_path / "keys.json", [replace(KEY, priority=-100)])
    assert key_file.read(tmp_path / "keys.json")[0] == (replace(KEY, priority=-100),)


def test_key_of_a_file_that_knows_no_priority_has_none(tmp_path: Path) -> None:
    record = {name: value for name, value in RECORD.items() if name != "priority"}
    path = write_text(tmp_path / "keys.json", json.dumps({"keys": [record]}))
    assert key_file.read(path)[0] == (KEY,)


def test_times_with_another_zone_are_understood(tmp_path: Path) -> None:
    record = RECORD | {"created": "2023-11-15T00:13:20+02:00"}
    path = write_text(tmp_path / "keys.json", json.dumps({"keys": [record]}))
    assert key_file.read(path)[0] == (KEY,)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("", "Invalid JSON"),
        ('{"keys": [\n{"id": }', "line 2 column 8"),
        ("[]", "object"),
        ("{}", "keys: Field required"),
        ('{"keys": [], "more": 1}', "more: Extra inputs"),
        (json.dumps({"keys": [RECORD, RECORD | {"digest": "secret"}]}), "keys.1.digest: String should match"),
        (json.dumps({"keys": [RECORD | {"digest": "AB" * 32}]}), "keys.0.digest"),
        (json.dumps({"keys": [RECORD | {"id": "../../etc"}]}), "keys.0.id"),
        (json.dumps({"keys": [RECORD | {"scopes": ["root"]}]}), "keys.0.scopes.0"),
        (json.dumps({"keys": [RECORD | {"created": "yesterday"}]}), "keys.0.created"),
        (json.dumps({"keys": [RECORD | {"created": "2023-11-14T22:13:20"}]}), "keys.0.created"),
        (json.dumps({"keys": [RECORD | {"expires": True}]}), "keys.0.expires"),
        (json.dumps({"keys": [RECORD | {"priority": 101}]}), "keys.0.priority"),
        (json.dumps({"keys": [RECORD | {"priority": -101}]}), "keys.0.priority"),
        (json.dumps({"keys": [RECORD | {"priority": "1"}]}), "keys.0.priority"),
        (json.dumps({"keys": [RECORD, RECORD | {"digest": "cd" * 32}]}), "keys.1.id"),
        (json.dumps({"keys": [RECORD, RECORD | {"id": "ffffffff"}]}), "keys.1.digest"),
    ],
)
def test_mistake_is_named_with_file_and_place(tmp_path: Path, text: str, place: str) -> None:
    path = write_text(tmp_path / "keys.json", text)
    with pytest.raises(ConfigError, match=f"^{re.escape(str(path))}: .*{re.escape(place)}") as caught:
        key_file.read(path)
    assert "secret" not in caught.value.message
    assert caught.value.message.count("\n") == 0


def test_text_that_is_no_utf8_is_a_mistake(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_bytes(b'{"keys": [\xff]}')
    path.chmod(0o600)
    with pytest.raises(ConfigError, match=re.escape(str(path))):
        key_file.read(path)


def test_folder_in_place_of_the_file_is_a_mistake(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    with pytest.raises(ConfigError, match="directory"):
        key_file.read(tmp_path)


def test_file_that_others_can_read_is_tightened_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_text(tmp_path / "keys.json", '{"keys": []}')
    path.chmod(0o644)
    with caplog.at_level(logging.WARNING):
        key_file.read(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert "mode=644" in caplog.text
    assert str(path) in caplog.text


def test_link_to_the_file_stays_a_link(tmp_path: Path) -> None:
    real = write_text(tmp_path / "real.json", '{"keys": []}')
    link = tmp_path / "keys.json"
    link.symlink_to(real)
    key_file.write(link, [KEY])
    assert link.is_symlink()
    assert key_file.read(real)[0] == (KEY,)
