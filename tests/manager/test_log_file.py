"""LogFile: rotation, files that others move, and disks that are full."""

from __future__ import annotations

import logging
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from manager.log_file import LogFile


def texts(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_a_file_that_is_full_is_put_away_and_the_oldest_goes(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "main.log", max_size=8, keep=2)
    for number in range(4):
        log.write(f"{number} one\n{number}\n")
    assert texts(tmp_path) == {"main.log": "3 one\n3\n", "main.log.1": "2 one\n2\n", "main.log.2": "1 one\n1\n"}


def test_files_beyond_a_number_that_was_lowered_go_with_the_next_full_one(tmp_path: Path) -> None:
    for number in range(1, 6):
        (tmp_path / f"main.log.{number}").write_text(f"{number}\n")
    (tmp_path / "main.log.7").write_text("not ours\n")
    log = LogFile(tmp_path / "main.log", max_size=8, keep=2)
    log.write("1 new\n")
    log.write("2 new\n")
    assert texts(tmp_path) == {
        "main.log": "2 new\n",
        "main.log.1": "1 new\n",
        "main.log.2": "1\n",
        "main.log.7": "not ours\n",
    }


def test_with_none_to_keep_a_full_file_is_begun_anew(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "main.log", max_size=8, keep=0)
    log.write("1 one\n")
    log.write("2 two\n")
    assert texts(tmp_path) == {"main.log": "2 two\n"}


def test_a_batch_larger_than_a_file_is_spread_over_several_by_whole_lines(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "main.log", max_size=10, keep=9)
    log.write("".join(f"{number:03}\n" for number in range(5)) + "a line that is longer than a file\nend\n")
    assert texts(tmp_path) == {
        "main.log.4": "000\n001\n",
        "main.log.3": "002\n003\n",
        "main.log.2": "004\n",
        "main.log.1": "a line that is longer than a file\n",
        "main.log": "end\n",
    }


def test_what_is_there_stays_and_counts(tmp_path: Path) -> None:
    (tmp_path / "main.log").write_text("old\n")
    LogFile(tmp_path / "main.log", max_size=8, keep=1).write("new\n")
    LogFile(tmp_path / "main.log", max_size=8, keep=1).write("next\n")
    assert texts(tmp_path) == {"main.log.1": "old\nnew\n", "main.log": "next\n"}


def test_after_another_program_has_moved_the_file_away_a_new_one_is_begun(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "main.log", max_size=1024, keep=1)
    log.write("before\n")
    (tmp_path / "main.log").rename(tmp_path / "main.log-20260101")
    log.write("after\n")
    assert texts(tmp_path) == {"main.log-20260101": "before\n", "main.log": "after\n"}


def test_folder_and_file_are_for_their_owner_alone(tmp_path: Path) -> None:
    LogFile(tmp_path / "logs" / "main.log", max_size=1024, keep=1).write("one\n")
    assert stat.S_IMODE((tmp_path / "logs").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "logs" / "main.log").stat().st_mode) == 0o600


def test_no_line_of_several_threads_and_services_is_lost_or_broken(tmp_path: Path) -> None:
    logs = [LogFile(tmp_path / "main.log", max_size=2000, keep=50) for _ in range(2)]

    def write(name: int) -> None:
        for number in range(100):
            logs[name % 2].write(f"thread {name} line {number}\n")

    threads = [threading.Thread(target=write, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = "".join(texts(tmp_path).values()).splitlines()
    assert sorted(lines) == sorted(f"thread {name} line {number}" for name in range(4) for number in range(100))
    assert len(texts(tmp_path)) > 2


def test_a_full_disk_costs_lines_and_one_warning_until_there_is_room(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "main.log"
    path.symlink_to("/dev/full")
    log = LogFile(path, max_size=1024, keep=1)
    log.write("one\ntwo\n")
    log.write("three\n")
    (warned,) = caplog.messages
    assert warned == f"file={path} can't be written, its lines are lost: No space left on device"
    path.unlink()
    log.write("four\n")
    log.write("five\n")
    assert path.read_text() == "four\nfive\n"
    assert caplog.messages[1:] == [f"file={path} can be written again, lines lost=3"]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


def test_what_is_written_in_part_leaves_no_half_line(tmp_path: Path) -> None:
    """The limit of a file's size is met in the middle of a line, as a full disk would be."""
    script = f"""
import resource, signal
from pathlib import Path
from manager.log_file import LogFile
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
log = LogFile(Path({str(tmp_path / "main.log")!r}), 1024, 1)
log.write("whole\\n")
log.write("cut in two\\n")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)
    assert "can't be written, its lines are lost: File too large" in done.stderr
    assert texts(tmp_path) == {"main.log": "whole\n"}
