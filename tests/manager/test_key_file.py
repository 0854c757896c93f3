from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
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
OTHER = RECORD | {"id": "ffffffff", "digest": "ef" * 32}
ROTATED = {"former": "cd" * 32, "former_until": "2026-01-15T08:00:00Z"}


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


def test_limits_and_former_key_are_written_and_read(tmp_path: Path) -> None:
    limited = replace(
        KEY,
        models=frozenset({"smollm2", "qwen"}),
        requests_per_minute=60,
        tokens_per_day=10**12,
        at_once=1,
        former="cd" * 32,
        former_until=1_768_464_000.0,
    )
    key_file.write(tmp_path / "keys.json", [limited])
    limits = {"models": ["qwen", "smollm2"], "requests_per_minute": 60, "tokens_per_day": 10**12, "at_once": 1}
    assert json.loads((tmp_path / "keys.json").read_text(encoding="utf-8")) == {"keys": [RECORD | limits | ROTATED]}
    assert key_file.read(tmp_path / "keys.json")[0] == (limited,)


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
        (json.dumps({"keys": [RECORD | {"created": "1969-12-31T23:59:59Z"}]}), "keys.0.created: must be a time"),
        (json.dumps({"keys": [RECORD | {"expires": "9999-12-31T00:00:00Z"}]}), "keys.0.expires: must be a time"),
        (json.dumps({"keys": [RECORD | {"models": []}]}), "keys.0.models"),
        (json.dumps({"keys": [RECORD | {"models": ["a", ""]}]}), "keys.0.models.1"),
        (json.dumps({"keys": [RECORD | {"models": ["a\n"]}]}), "keys.0.models.0: must be printable"),
        (json.dumps({"keys": [RECORD | {"models": "a"}]}), "keys.0.models"),
        (json.dumps({"keys": [RECORD | {"requests_per_minute": 0}]}), "keys.0.requests_per_minute"),
        (json.dumps({"keys": [RECORD | {"requests_per_minute": 1_000_001}]}), "keys.0.requests_per_minute"),
        (json.dumps({"keys": [RECORD | {"tokens_per_day": True}]}), "keys.0.tokens_per_day"),
        (json.dumps({"keys": [RECORD | {"tokens_per_day": 10**12 + 1}]}), "keys.0.tokens_per_day"),
        (json.dumps({"keys": [RECORD | {"at_once": 1.0}]}), "keys.0.at_once"),
        (json.dumps({"keys": [RECORD | {"at_once": 10_001}]}), "keys.0.at_once"),
        (json.dumps({"keys": [RECORD | ROTATED | {"former": "secret"}]}), "keys.0.former"),
        (json.dumps({"keys": [RECORD | {"former": "cd" * 32}]}), "keys.0: former and former_until belong together"),
        (json.dumps({"keys": [RECORD | ROTATED | {"former": None}]}), "keys.0: former and former_until"),
        (json.dumps({"keys": [RECORD | ROTATED | {"former": "ab" * 32}]}), "keys.0.former: the file has the same"),
        (json.dumps({"keys": [RECORD | ROTATED, OTHER | {"digest": "cd" * 32}]}), "keys.1.digest"),
        (json.dumps({"keys": [RECORD, OTHER | ROTATED | {"former": "ab" * 32}]}), "keys.1.former"),
        (json.dumps({"keys": [RECORD | ROTATED, OTHER | ROTATED]}), "keys.1.former"),
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


def test_file_that_only_its_owner_can_tighten_is_read_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_text(tmp_path / "keys.json", '{"keys": []}')
    path.chmod(0o644)

    def refused(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "fchmod", refused)
    assert key_file.read(path)[0] == ()
    assert "its owner has to" in caplog.text


def test_mode_of_a_file_that_is_no_key_file_stays(tmp_path: Path) -> None:
    path = write_text(tmp_path / "keys.json", "root:x:0:0")
    path.chmod(0o644)
    with pytest.raises(ConfigError):
        key_file.read(path)
    assert path.stat().st_mode & 0o777 == 0o644


def test_link_to_the_file_stays_a_link(tmp_path: Path) -> None:
    real = write_text(tmp_path / "real.json", '{"keys": []}')
    link = tmp_path / "keys.json"
    link.symlink_to(real)
    key_file.write(link, [KEY])
    assert link.is_symlink()
    assert key_file.read(real)[0] == (KEY,)


def test_file_is_for_its_owner_alone_whatever_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    before = os.umask(0)
    try:
        with key_file.locked(path, 1):
            key_file.write(path, [KEY])
    finally:
        os.umask(before)
    assert {file.name: file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == dict.fromkeys(
        ("keys.json", "keys.json.lock"), 0o600
    )


def test_end_of_the_process_before_the_new_file_has_its_name_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    key_file.write(path, [KEY])
    before = path.read_bytes()
    code = (
        "import os, signal, sys; from pathlib import Path; from manager.auth import KeyStore\n"
        "os.replace = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)\n"
        "KeyStore(Path(sys.argv[1])).create('more', '', ['inference'])\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, check=False)
    assert (ended.returncode, ended.stderr) == (-signal.SIGKILL, b"")
    assert path.read_bytes() == before
    with key_file.locked(path, 1):  # the lock is free again
        key_file.write(path, [])
    assert key_file.read(path)[0] == ()


def test_two_names_of_a_file_have_one_lock(tmp_path: Path) -> None:
    link = tmp_path / "link.json"
    link.symlink_to(tmp_path / "keys.json")
    with (
        key_file.locked(link, 1),
        pytest.raises(ConfigError, match="another process has held the lock"),
        key_file.locked(tmp_path / "keys.json", 0.01),
    ):
        pass


def test_file_that_is_replaced_again_within_a_tick_of_the_clock_has_another_version(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    key_file.write(path, [KEY])
    os.utime(path, ns=(0, 2**62))  # whenever the next ones are written, the clock has not reached that
    read = key_file.version(path)
    versions = [key_file.write(path, [KEY]) for _ in range(5)]
    times = [version.mtime_ns for version in (read, *versions) if version is not None]
    assert times == sorted(set(times))
    assert len(times) == 6
