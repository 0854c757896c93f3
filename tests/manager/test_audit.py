"""What administrators did, as the file tells it."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from manager import audit as module
from manager.audit import Audit
from manager.errors import ConfigError
from tests.manager.bench import until

EVENT = {"actor": "0a1b2c3d", "action": "POST /admin/models/{id}/load", "target": "alpha", "status": 200}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "audit.log"


@pytest.fixture
def audit(path: Path) -> Iterator[Audit]:
    audit = Audit(path)
    yield audit
    audit.close()


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()]


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_line_has_the_time_in_utc_and_the_fields_as_given(audit: Audit, path: Path) -> None:
    before = datetime.now(UTC)
    audit.add(EVENT)
    audit.close()
    (line,) = lines(path)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
    assert abs((datetime.fromisoformat(line["time"]) - before).total_seconds()) < 5
    assert list(line) == ["time", *EVENT]
    assert {name: line[name] for name in EVENT} == EVENT


async def test_line_is_on_disk_soon_and_written_by_another_thread(
    audit: Audit, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []
    write = os.write

    def noted(handle: int, data: bytes) -> int:
        threads.append(threading.current_thread().name)
        return write(handle, data)

    monkeypatch.setattr(os, "write", noted)
    audit.add(EVENT)
    await until(lambda: len(lines(path)) == 1)
    assert threads == ["audit"]


def test_close_writes_what_is_left_and_ends_the_thread(audit: Audit, path: Path) -> None:
    for number in range(500):
        audit.add({"number": number})
    audit.close()
    assert [line["number"] for line in lines(path)] == list(range(500))
    assert "audit" not in {thread.name for thread in threading.enumerate()}
    audit.close()


def test_what_comes_after_the_end_is_written_too(audit: Audit, path: Path) -> None:
    audit.add({"number": 1})
    audit.close()
    audit.add({"number": 2})
    audit.close()
    assert [line["number"] for line in lines(path)] == [1, 2]


def test_audit_that_notes_nothing_starts_no_thread(audit: Audit) -> None:
    assert "audit" not in {thread.name for thread in threading.enumerate()}


def test_write_is_on_disk_when_it_returns(audit: Audit, path: Path) -> None:
    audit.write({"actor": "command line"})
    assert [line["actor"] for line in lines(path)] == ["command line"]


def test_what_is_there_already_stays(audit: Audit, path: Path) -> None:
    audit.write({"number": 1})
    Audit(path).write({"number": 2})
    assert [line["number"] for line in lines(path)] == [1, 2]


@pytest.mark.parametrize("text", ["a\nb", "a\r\x1b[31m\x7f\x85\u2028b", "\udc80", 'quote " and \\', "Zoë 🦙"])
def test_every_text_stays_one_line_of_plain_ascii(audit: Audit, path: Path, text: str) -> None:
    audit.write({"target": text})
    written = path.read_bytes()
    assert written.count(b"\n") == 1
    assert all(0x20 <= byte < 0x7F for byte in written.rstrip(b"\n"))
    assert lines(path)[0]["target"] == text


def test_value_that_json_does_not_know_is_its_text(audit: Audit, path: Path) -> None:
    audit.write({"file": Path("/x"), "nothing": None, "set": {1}})
    assert {**lines(path)[0], "time": ""} == {"time": "", "file": "/x", "nothing": None, "set": "{1}"}


def test_value_is_cut_at_200_characters(audit: Audit, path: Path) -> None:
    audit.write({"whole": "x" * 200, "long": "🦙" * 201, "names": ["y" * 1000], "status": 404, "ok": True})
    (line,) = lines(path)
    assert line["whole"] == "x" * 200
    assert line["long"] == "🦙" * 199 + "…"
    assert line["names"] == "['" + "y" * 197 + "…"
    assert (line["status"], line["ok"]) == (404, True)


def test_file_is_for_its_owner_alone_whatever_the_umask(path: Path) -> None:
    before = os.umask(0)
    try:
        Audit(path)
    finally:
        os.umask(before)
    assert mode(path) == 0o600


def test_mode_that_somebody_chose_stays(audit: Audit, path: Path) -> None:
    path.chmod(0o640)
    Audit(path).write(EVENT)
    assert mode(path) == 0o640


def test_file_that_can_not_be_opened_is_a_mistake_in_the_settings(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"storage\.audit_file.*Is a directory"):
        Audit(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"file/audit\.log \(setting storage\.audit_file\): can't write: "):
        Audit(tmp_path / "file" / "audit.log")


def test_line_that_can_not_be_written_goes_to_the_log(
    audit: Audit, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.unlink()
    path.mkdir()
    audit.add({"target": "alpha"})
    audit.close()
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert '"target": "alpha"' in record.getMessage()
    path.rmdir()
    audit.add({"target": "beta"})
    audit.close()
    assert [line["target"] for line in lines(path)] == ["beta"]
    with pytest.raises(ConfigError):
        Audit(path.parent).write(EVENT)


def test_large_file_gives_way_to_a_new_one_and_five_stay(path: Path) -> None:
    audit = Audit(path, size_most=1)
    for number in range(8):
        audit.add({"number": number})
    audit.close()
    files = [path, *(path.with_name(f"audit.log.{number}") for number in range(1, 6))]
    assert [[line["number"] for line in lines(file)] for file in files] == [[7], [6], [5], [4], [3], [2]]
    assert set(path.parent.iterdir()) == set(files)
    assert {mode(file) for file in files} == {0o600}


def test_file_below_its_limit_stays(path: Path) -> None:
    audit = Audit(path)
    for number in range(100):
        audit.add({"number": number})
    audit.close()
    assert list(path.parent.iterdir()) == [path]
    assert module.SIZE_MOST == 10 * 1024 * 1024


def test_services_that_turn_one_file_over_lose_no_line(path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from manager.audit import Audit\n"
        "audit = Audit(Path(sys.argv[1]), size_most=20_000)\n"
        "for number in range(300): audit.add({'from': sys.argv[2], 'number': number, 'text': 'x' * 60})\n"
        "audit.close()"
    )
    services = [subprocess.Popen([sys.executable, "-c", code, str(path), name]) for name in "ab"]
    assert [service.wait(20) for service in services] == [0, 0]
    files = sorted(path.parent.iterdir(), reverse=True)  # the oldest first
    assert 4 <= len(files) <= 6
    told = [line for file in files for line in lines(file)]
    for name in "ab":
        assert [line["number"] for line in told if line["from"] == name] == list(range(300))


def test_line_that_waited_while_the_file_was_moved_away_is_in_the_new_one(audit: Audit, path: Path) -> None:
    with path.open("ab", buffering=0) as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        audit.add({"number": 1})
        time.sleep(0.05)  # in which it would open the file
        path.rename(path.with_name("moved"))
    audit.close()
    assert [line["number"] for line in lines(path)] == [1]
    assert path.with_name("moved").read_bytes() == b""


def test_file_that_was_moved_away_is_made_anew(audit: Audit, path: Path) -> None:
    audit.add({"number": 1})
    audit.close()
    path.rename(path.with_name("moved"))
    audit.add({"number": 2})
    audit.close()
    assert [line["number"] for line in lines(path)] == [2]
    assert [line["number"] for line in lines(path.with_name("moved"))] == [1]


def test_line_after_a_broken_one_is_whole(audit: Audit, path: Path) -> None:
    path.write_bytes(b'{"time": "2026-')
    audit.write({"number": 1})
    broken, whole = path.read_text().splitlines()
    assert broken == '{"time": "2026-'
    assert json.loads(whole)["number"] == 1


def test_place_that_is_no_file_can_be_written(tmp_path: Path) -> None:
    audit = Audit(Path(os.devnull))
    audit.write(EVENT)
    audit.add(EVENT)
    audit.close()


def test_lines_of_several_processes_stay_whole(audit: Audit, path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from manager.audit import Audit; audit = Audit(Path(sys.argv[1]))\n"
        "for number in range(200): audit.write({'from': sys.argv[2], 'text': 'x' * 500})"
    )
    others = [subprocess.Popen([sys.executable, "-c", code, str(path), name]) for name in "ab"]
    for _ in range(200):
        audit.add({"from": "here", "text": "x" * 500})
    assert [other.wait(20) for other in others] == [0, 0]
    audit.close()
    writers = [line["from"] for line in lines(path)]
    assert {name: writers.count(name) for name in set(writers)} == {"a": 200, "b": 200, "here": 200}


def test_line_waits_for_one_that_another_process_has_half_written(audit: Audit, path: Path) -> None:
    with path.open("ab", buffering=0) as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        other.write(b'{"from": ')
        audit.add({"from": "here"})
        time.sleep(0.05)  # in which it would be written
        other.write(b'"there"}\n')
    audit.close()
    assert [line["from"] for line in lines(path)] == ["there", "here"]
