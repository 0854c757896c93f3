"""Where log lines and access lines go."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import os
import re
import select
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import pytest

from manager import log as module
from manager import log_queue
from manager.errors import ConfigError
from manager.log import AccessLog, logging_to
from manager.log_lines import ANSWERING, Answering
from manager.log_queue import Console
from manager.settings_sections import LogSettings
from tests.manager.bench import turn


@pytest.fixture(autouse=True)
def _root_is_put_back() -> object:
    root = logging.getLogger()
    before = root.level, list(root.handlers)
    yield
    assert (root.level, root.handlers) == before


def test_lines_have_time_level_logger_and_message_and_are_written_by_the_end() -> None:
    stream = io.StringIO()
    with logging_to(stream, "info"):
        logging.getLogger("manager.x").info("model=%s state=%s", "m", "ready")
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO manager\.x model=m state=ready\n", stream.getvalue()
    )


def test_lines_below_the_level_are_left_out() -> None:
    stream = io.StringIO()
    with logging_to(stream, "warning"):
        logging.getLogger("x").info("quiet")
        logging.getLogger("x").warning("loud")
    assert "loud" in stream.getvalue()
    assert "quiet" not in stream.getvalue()


def test_traceback_is_kept() -> None:
    stream = io.StringIO()
    with logging_to(stream, "info"):
        try:
            raise ValueError("oops")
        except ValueError:
            logging.getLogger("x").exception("broke")
    assert "ValueError: oops" in stream.getvalue()
    assert "Traceback" in stream.getvalue()


def test_lines_are_written_by_another_thread() -> None:
    threads: list[str] = []

    class Stream(io.StringIO):
        def write(self, text: str) -> int:
            threads.append(threading.current_thread().name)
            return super().write(text)

    with logging_to(Stream(), "info"):
        logging.getLogger("x").info("one")
    assert threads
    assert threading.current_thread().name not in threads


def test_no_message_looks_like_a_line_of_its_own_or_moves_the_cursor() -> None:
    stream = io.StringIO()
    with logging_to(stream, "info"):
        logging.getLogger("x").info("%s", "a\tb\x1b[2J\r\0\x7f\x9b ü\n2026-01-01T00:00:00.000Z INFO x forged\nend")
    _, message = stream.getvalue().split(" x ", 1)
    assert message == ("a\tb\\x1b[2J\\x0d\\x00\\x7f\\x9b ü\n    2026-01-01T00:00:00.000Z INFO x forged\n    end\n")


def test_nothing_is_sent_after_the_end() -> None:
    stream = io.StringIO()
    with logging_to(stream, "info"):
        pass
    logging.getLogger("x").warning("too late")
    assert stream.getvalue() == ""


# Streams that take nothing


def test_a_stream_that_fails_tells_later_what_it_lacks_and_the_file_lacks_nothing(tmp_path: Path) -> None:
    class FullOnce(io.StringIO):
        full = True

        def write(self, text: str) -> int:
            if self.full:
                self.full = False
                raise OSError(28, "No space left on device")
            return super().write(text)

    stream = FullOnce()
    with logging_to(stream, "info", LogSettings(folder=tmp_path)):
        logging.getLogger("x").info("one\nmore of it")
        logging.getLogger("x").info("two")
    assert [line.split("Z ")[1] for line in stream.getvalue().splitlines()] == [
        "INFO x two",
        "WARNING manager.log_queue to standard error: lines dropped=2",
    ]
    lines = (tmp_path / "main.log").read_text().splitlines()
    assert [line.split("Z ")[-1] for line in lines] == ["INFO x one", "    more of it", "INFO x two"]


@pytest.fixture
def unread() -> Iterator[TextIO]:
    """A pipe that is full and that nobody reads; at the end its reader goes."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * select.PIPE_BUF)
    os.set_blocking(writer, True)
    with os.fdopen(writer, "w") as stream:
        yield stream
        os.close(reader)
        for thread in threading.enumerate():
            if thread.name == "console":
                thread.join(5)
                assert not thread.is_alive()


def test_neither_the_files_nor_the_end_wait_for_a_stream_that_nobody_reads(
    unread: TextIO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CONSOLE_ENDS_WITHIN", 0.01)
    log = AccessLog()
    with logging_to(unread, "info", LogSettings(folder=tmp_path)) as ends:
        log.write_as("text", ends)
        logging.getLogger("x").info("one")
        log.add("r1", "GET", "/ping", 200, 0.0, "-")
        asyncio.run(ended(log))
        logging.getLogger("x").info("two")
    lines = (tmp_path / "main.log").read_text().splitlines()
    assert sorted(line.split("Z ")[1][:17] for line in lines) == ["ACCESS request=r1", "INFO x one", "INFO x two"]


def test_what_a_stream_does_not_take_in_time_is_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_queue, "HELD_MOST", 0)
    gate = threading.Event()

    class Slow(io.StringIO):
        def write(self, text: str) -> int:
            gate.wait(5)
            return super().write(text)

    stream = Slow()
    console = Console(stream, "text")
    console.write("one\n")
    console.write("two\nthree\n")
    gate.set()
    console.close(5)
    one, told = stream.getvalue().splitlines()
    assert one == "one"
    assert told.endswith("to standard error: lines dropped=2")


def test_a_line_that_was_written_in_part_is_ended_before_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    takes = iter([7, 0])  # bytes, as a disk that gets full
    written = bytearray()

    def write(_: int, data: bytes) -> int:
        taken = next(takes, len(data))
        if not taken:
            raise OSError(28, "No space left on device")
        written.extend(data[:taken])
        return taken

    with (tmp_path / "stream").open("w") as stream:
        monkeypatch.setattr(os, "write", write)
        console = Console(stream, "json")
        console.write("one\ntwo\nthree\n")
        console.write("four\n")
        console.close(5)
        monkeypatch.undo()
    *lines, told = written.decode().splitlines()
    assert lines == ["one", "two", "four"]
    assert json.loads(told)["message"] == "to standard error: lines dropped=2"


# JSON


def written_as_json(stream: io.StringIO) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = [json.loads(line) for line in stream.getvalue().splitlines()]
    for line in lines:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("time"))
    return lines


JSON = LogSettings(format="json", folder=None)


def test_a_line_of_json_has_level_logger_message_and_the_model_that_it_is_about() -> None:
    stream = io.StringIO()
    with logging_to(stream, "info", JSON):
        logging.getLogger("x").info("pid=%d bytes=%s\n%s", 7, None, "\udcff ü")
        logging.getLogger("x").warning("model=%s state=%s", "some model", "ready")
    assert written_as_json(stream) == [
        {"level": "INFO", "logger": "x", "message": "pid=7 bytes=None\n\udcff ü"},
        {"level": "WARNING", "logger": "x", "message": "model=some model state=ready", "model": "some model"},
    ]


def test_a_traceback_is_a_field_of_its_line() -> None:
    stream = io.StringIO()
    with logging_to(stream, "info", JSON):
        try:
            raise ValueError("oops")
        except ValueError:
            logging.getLogger("x").exception("broke")
    (line,) = written_as_json(stream)
    assert line["message"] == "broke"
    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith("ValueError: oops")


def test_an_access_line_of_json_has_its_parts_as_fields() -> None:
    stream = io.StringIO()
    log = AccessLog()
    with logging_to(stream, "info", JSON) as ends:
        log.write_as("json", ends)
        log.add("r1", "POST", '/a"b\n\udcff', 200, 0.01234, "k1")
        log.add("r2", "GET", "/ping", 401, 0.0, "-")
        log.add("r3", "POST", "/infill", 200, 0.001, "-", "a model")
        asyncio.run(ended(log))
    common = {"level": "INFO", "logger": "access"}
    assert written_as_json(stream) == [
        {**common, "request": "r1", "key": "k1", "method": "POST", "path": '/a"b\n\udcff', "status": 200, "ms": 12.3},
        {**common, "request": "r2", "key": None, "method": "GET", "path": "/ping", "status": 401, "ms": 0.0},
        common
        | {"request": "r3", "key": None, "method": "POST", "path": "/infill", "status": 200, "ms": 1.0}
        | {"model": "a model"},
    ]


# request ids


@contextmanager
def answering(request_id: str) -> Iterator[None]:
    """As it is around a request."""
    mark = Answering(request_id)
    token = ANSWERING.set(mark)
    try:
        yield
    finally:
        mark.id = None
        ANSWERING.reset(token)


def test_a_line_tells_the_request_that_is_answered_and_none_outside_of_one() -> None:
    text, objects = io.StringIO(), io.StringIO()
    for stream, settings in ((text, LogSettings(folder=None)), (objects, JSON)):
        with logging_to(stream, "info", settings):
            with answering("r1"):
                logging.getLogger("x").info("within")
            logging.getLogger("x").info("without")
    within, without = text.getvalue().splitlines()
    assert within.endswith("Z INFO x request=r1 within")
    assert without.endswith("Z INFO x without")
    assert [line.get("request") for line in written_as_json(objects)] == ["r1", None]


def test_what_a_request_has_begun_tells_its_id_until_it_is_answered() -> None:
    stream = io.StringIO()

    async def work(began: asyncio.Event, answered: asyncio.Event) -> None:
        logging.getLogger("x").info("while")
        await asyncio.to_thread(logging.getLogger("x").info, "in a thread")
        began.set()
        await answered.wait()
        logging.getLogger("x").info("after")

    async def request() -> None:
        began, answered = asyncio.Event(), asyncio.Event()
        with answering("r1"):
            task = asyncio.create_task(work(began, answered))
            await began.wait()
        answered.set()
        await task

    with logging_to(stream, "info"):
        asyncio.run(request())
    told = [line.split(" x ")[1] for line in stream.getvalue().splitlines()]
    assert told == ["request=r1 while", "request=r1 in a thread", "after"]


# files


def test_files_have_the_same_lines_as_the_stream_and_a_model_those_about_it(tmp_path: Path) -> None:
    stream = io.StringIO()
    with logging_to(stream, "info", LogSettings(folder=tmp_path / "logs")):
        logging.getLogger("x").info("no model=%s at the beginning", "m")
        logging.getLogger("x").info("model=%s state=%s", "m", "ready")
    lines = stream.getvalue().splitlines(keepends=True)
    assert (tmp_path / "logs" / "main.log").read_text() == "".join(lines)
    assert (tmp_path / "logs" / "m.log").read_text() == lines[1]


def test_a_folder_that_can_not_be_made_costs_one_warning_and_no_line_on_the_stream(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file")
    stream = io.StringIO()
    with logging_to(stream, "info", LogSettings(folder=tmp_path / "logs")):
        logging.getLogger("x").info("model=%s one", "m")
        logging.getLogger("x").info("two")
    warned, *lines = stream.getvalue().splitlines()
    assert f"file={tmp_path / 'logs' / 'main.log'} can't be written, its lines are lost: File exists" in warned
    assert [line.split(" x ")[1] for line in lines if " x " in line] == ["model=m one", "two"]
    assert stream.getvalue().count("main.log") == 1
    assert (tmp_path / "logs").read_text() == "a file"


@pytest.mark.parametrize(
    ("error", "last"),
    [(ConfigError("models.json: no such model"), "CRITICAL manager.log ended: models.json: no such model"),
     (ValueError("oops"), "ValueError: oops")],
)  # fmt: skip
def test_what_ends_the_service_is_told_by_the_file_alone(tmp_path: Path, error: Exception, last: str) -> None:
    stream = io.StringIO()

    def serve() -> None:
        with logging_to(stream, "info", LogSettings(folder=tmp_path)):
            logging.getLogger("x").info("before")
            raise error

    with pytest.raises(type(error)):
        serve()
    assert stream.getvalue().splitlines()[1:] == []
    lines = (tmp_path / "main.log").read_text().splitlines()
    assert lines[0] + "\n" == stream.getvalue()
    assert lines[-1].endswith(last)


# access lines


async def ended(log: AccessLog) -> None:
    """Run it and end it, as the service does."""
    task = asyncio.create_task(log.run())
    await turn()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_access_line_tells_request_key_path_status_time_and_model() -> None:
    stream = io.StringIO()
    log = AccessLog(stream)
    log.add("r1", "POST", "/v1/chat/completions", 200, 0.0123, "k1", "qwen")
    await ended(log)
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z ACCESS request=r1 key=k1 POST '/v1/chat/completions' "
        r"status=200 ms=12\.3 model=qwen\n",
        stream.getvalue(),
    )


def test_access_lines_go_to_the_file_too(tmp_path: Path) -> None:
    stream = io.StringIO()
    log = AccessLog()
    with logging_to(stream, "info", LogSettings(folder=tmp_path)) as ends:
        log.write_as("text", ends)
        log.add("r1", "GET", "/ping", 200, 0.0, "-")
        asyncio.run(ended(log))
    assert "request=r1" in stream.getvalue()
    assert (tmp_path / "main.log").read_text() == stream.getvalue()


async def test_path_cannot_forge_a_line() -> None:
    stream = io.StringIO()
    log = AccessLog(stream)
    log.add("r1", "GET", "/a\n2026-01-01T00:00:00.000Z ACCESS request=forged", 404, 0.0, "-")
    await ended(log)
    assert len(stream.getvalue().splitlines()) == 1


async def test_lines_are_written_in_batches_while_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FLUSH_EVERY", 0.001)
    written = asyncio.Event()
    loop = asyncio.get_running_loop()

    class Stream(io.StringIO):
        def write(self, text: str) -> int:
            loop.call_soon_threadsafe(written.set)
            return super().write(text)

    stream = Stream()
    log = AccessLog(stream)
    task = asyncio.create_task(log.run())
    for number in range(3):
        log.add(f"r{number}", "GET", "/", 200, 0.0, "-")
    async with asyncio.timeout(5):
        await written.wait()
    assert [line.split("request=")[1][:2] for line in stream.getvalue().splitlines()] == ["r0", "r1", "r2"]
    task.cancel()
    await asyncio.wait({task})


async def test_lines_that_can_not_be_written_in_time_are_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PENDING_MOST", 2)
    stream = io.StringIO()
    log = AccessLog(stream)
    for number in range(5):
        log.add(f"r{number}", "GET", "/", 200, 0.0, "-")
    await ended(log)
    assert len(stream.getvalue().splitlines()) == 3
    assert stream.getvalue().endswith("access lines dropped=3\n")
