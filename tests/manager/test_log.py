"""Where log lines and access lines go."""

from __future__ import annotations

import asyncio
import io
import logging
import re
import threading

import pytest

from manager import log as module
from manager.log import AccessLog, logging_to
from tests.manager.bench import turn, until


@pytest.fixture(autouse=True)
def _root_level_is_put_back() -> object:
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield
    assert root.handlers == handlers
    root.setLevel(level)


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


def test_nothing_is_sent_after_the_end() -> None:
    stream = io.StringIO()
    with logging_to(stream, "info"):
        pass
    logging.getLogger("x").warning("too late")
    assert stream.getvalue() == ""


# access lines


async def ended(log: AccessLog) -> None:
    """Run it and end it, as the service does."""
    task = asyncio.create_task(log.run())
    await turn()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_access_line_tells_request_key_path_status_and_time() -> None:
    stream = io.StringIO()
    log = AccessLog(stream)
    log.add("r1", "POST", "/v1/chat/completions", 200, 0.0123, "k1")
    await ended(log)
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z ACCESS request=r1 key=k1 POST '/v1/chat/completions' "
        r"status=200 ms=12\.3\n",
        stream.getvalue(),
    )


async def test_a_stream_that_fails_ends_neither_the_log_nor_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FLUSH_EVERY", 0.001)
    tries: list[str] = []
    twice = asyncio.Event()
    loop = asyncio.get_running_loop()

    class Full(io.StringIO):
        def write(self, text: str) -> int:
            tries.append(text)
            if len(tries) == 1:
                raise OSError(28, "No space left on device")
            loop.call_soon_threadsafe(twice.set)
            return len(text)

    log = AccessLog(Full())
    task = asyncio.create_task(log.run())
    async with asyncio.timeout(5):
        log.add("r1", "GET", "/", 200, 0.0, "-")
        await until(lambda: tries)
        log.add("r2", "GET", "/", 200, 0.0, "-")
        await twice.wait()
    assert "access lines dropped=1" in "".join(tries[1:])
    task.cancel()
    await asyncio.wait({task})


async def test_path_cannot_forge_a_line() -> None:
    stream = io.StringIO()
    log = AccessLog(stream)
    log.add("r1", "GET", "/a\n2026-01-01T00:00:00.000Z ACCESS request=forged", 404, 0.0, "-")
    await ended(log)
    assert len(stream.getvalue().splitlines()) == 1


async def test_lines_are_written_in_batches_while_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FLUSH_EVERY", 0.001)
    flushed = asyncio.Event()
    loop = asyncio.get_running_loop()

    class Stream(io.StringIO):
        def flush(self) -> None:
            loop.call_soon_threadsafe(flushed.set)

    stream = Stream()
    log = AccessLog(stream)
    task = asyncio.create_task(log.run())
    for number in range(3):
        log.add(f"r{number}", "GET", "/", 200, 0.0, "-")
    async with asyncio.timeout(5):
        await flushed.wait()
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
