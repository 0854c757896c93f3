"""The service's last lines in memory."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Literal

import pytest

from manager.log import AccessLog, logging_to
from manager.log_lines import ANSWERING, Answering, note, stamp
from manager.log_recent import MOST, LogLine, RecentLog
from manager.settings_sections import LogSettings


def line(message: str) -> LogLine:
    return LogLine(0.0, "INFO", "x", message)


def answered(name: str) -> str:
    """The line of a request that was answered."""
    return f"2026-11-22T05:51:34.000Z ACCESS request={name} key=- GET '/' status=200 ms=0.1\n"


def tail(recent: RecentLog, count: int = 9, *, access: bool = True) -> list[LogLine]:
    return [one.line for one in recent.tail(count, access=access)[0]]


def test_last_lines_are_kept_and_numbered() -> None:
    recent = RecentLog()
    recent.add([line(str(number)) for number in range(MOST - 1)])
    recent.add([line("a"), line("b")])
    kept, total = recent.since(0)
    assert (len(kept), total, recent.total) == (MOST, MOST + 1, MOST + 1)
    assert [(one.n, one.line.message) for one in (kept[0], kept[-1])] == [(2, "1"), (MOST + 1, "b")]
    assert [one.message for one in tail(recent, 1)] == ["b"]
    assert recent.tail(0) == recent.since(total) == ([], total)
    assert len(tail(recent, 10**9)) == MOST
    recent.add([line(str(number)) for number in range(3 * MOST)])
    assert (recent.total, len(tail(recent, 10**9))) == (4 * MOST + 1, MOST)


def test_lines_of_requests_push_out_each_other_and_no_record() -> None:
    recent = RecentLog()
    recent.add([line("first")])
    recent.add([answered(str(number)) for number in range(2 * MOST)])
    recent.add([line("last")])
    kept, total = recent.since(0)
    assert [one.n for one in kept] == [1, *range(MOST + 2, 2 * MOST + 3)]
    assert [kept[0].line.message, kept[1].line.request, kept[-1].line.message] == ["first", str(MOST), "last"]
    assert total == 2 * MOST + 2
    assert [one.request for one in tail(recent, 2)] == [str(2 * MOST - 1), None]
    assert [one.message for one in tail(recent, access=False)] == ["first", "last"]
    assert [one.n for one in recent.since(1, access=False)[0]] == [total]


def test_the_line_of_a_request_is_read_once() -> None:
    recent = RecentLog()
    recent.add([answered("r1")])
    (first,) = tail(recent)
    (again,) = tail(recent)
    assert again is first


def test_records_of_any_thread_have_their_request_and_model() -> None:
    stream = io.StringIO()
    with logging_to(stream, "info") as ends:
        answering = ANSWERING.set(Answering("r1"))
        logging.getLogger("manager.x").info("model=%s state=%s", "m", "ready")
        ANSWERING.reset(answering)
        with ThreadPoolExecutor(1) as thread:
            thread.submit(logging.getLogger("manager.y").warning, "file %s\nmore", "a\udc80").result()
        logging.getLogger("manager.y").debug("below the level")
    first, second = tail(ends.recent)
    assert first[1:] == ("INFO", "manager.x", "model=m state=ready", "r1", "m")
    assert second[1:] == ("WARNING", "manager.y", "file a\\udc80\nmore", None, None)
    assert f"{first.text}\n{second.text}\n" == stream.getvalue()


@pytest.mark.parametrize("millis", range(0, 1000, 37))
def test_stamps_that_are_read_make_the_same_stamps(millis: int) -> None:
    written = f"2026-11-22T05:51:34.{millis:03d}Z"
    assert stamp(datetime.fromisoformat(written).timestamp()) == written


def test_traceback_is_part_of_the_message() -> None:
    with logging_to(io.StringIO(), "info") as ends:
        try:
            raise ValueError("oops")
        except ValueError:
            logging.getLogger("x").exception("broke")
    (told,) = tail(ends.recent)
    assert told.message.startswith("broke\nTraceback")
    assert told.message.endswith("ValueError: oops")


@pytest.mark.parametrize("form", ["text", "json"])
def test_lines_of_requests_are_read_in_either_form(form: Literal["text", "json"]) -> None:
    stream = io.StringIO()
    access = AccessLog()
    with logging_to(stream, "info", LogSettings(folder=None, format=form)) as ends:
        access.write_as(form, ends)
        access.add("r1", "GET", "/a b/\udc80ü", 200, 0.0123, "k1")
        access.add("r2", "POST", "/x", 499, 2.0, "-")
        access.add("r3", "GET", "/ ms=1 model=forged", 404, 0.0, "-")
        access.add("r4", "POST", "/x", 200, 0.0, "-", "org/a model")
        asyncio.run(flush(access))
    first, second, third, fourth = tail(ends.recent)
    assert first[1:] == ("INFO", "access", r"key=k1 GET '/a b/\udc80ü' status=200 ms=12.3", "r1", None)
    assert second[1:] == ("INFO", "access", "key=- POST '/x' status=499 ms=2000.0", "r2", None)
    assert third[3:] == ("key=- GET '/ ms=1 model=forged' status=404 ms=0.0", "r3", None)
    assert fourth[3:] == ("key=- POST '/x' status=200 ms=0.0 model=org/a model", "r4", "org/a model")
    assert 1.7e9 < first.time < 1e10
    if form == "text":
        assert "".join(f"{one.text}\n" for one in (first, second, third, fourth)) == stream.getvalue()
    else:
        assert second.text.endswith("Z ACCESS request=r2 key=- POST '/x' status=499 ms=2000.0")


@pytest.mark.parametrize("form", ["text", "json"])
def test_that_lines_were_dropped_is_read_too(form: str) -> None:
    recent = RecentLog()
    recent.add([note(form, 1.5, "access", "lines dropped=3")])
    assert tail(recent) == [LogLine(1.5, "WARNING", "access", "lines dropped=3")]
    assert tail(recent)[0].text == "1970-01-01T00:00:01.500Z WARNING access lines dropped=3"


async def test_an_access_log_without_a_log_of_the_service_keeps_lines_too() -> None:
    recent = RecentLog()
    access = AccessLog(io.StringIO(), recent)
    access.add("r1", "GET", "/", 200, 0.0, "-")
    assert recent.total == 0
    await flush(access)
    assert [one.request for one in tail(recent)] == ["r1"]


async def flush(access: AccessLog) -> None:
    """As at the end of the service."""
    task = asyncio.create_task(access.run())
    await asyncio.sleep(0)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_who_waits_hears_of_a_line_of_another_thread() -> None:
    recent = RecentLog()
    recent.add([line("old")])
    waits = [asyncio.create_task(recent.wait(1)) for _ in range(3)]
    await asyncio.sleep(0)
    assert not any(wait.done() for wait in waits)
    await asyncio.to_thread(recent.add, [line("new")])
    async with asyncio.timeout(5):
        await asyncio.gather(*waits)
        await recent.wait(1)  # it is there already
    assert recent._loop is None
    await asyncio.to_thread(recent.add, [line("nobody waits")])


async def test_who_waits_for_records_sleeps_through_lines_of_requests() -> None:
    recent = RecentLog()
    recent.add([line("old")])
    records, everything = (asyncio.create_task(recent.wait(1, access=access)) for access in (False, True))
    await asyncio.sleep(0)
    recent.add([answered("r1")])
    async with asyncio.timeout(5):
        await everything
    assert not records.done()
    recent.add([line("new")])
    async with asyncio.timeout(5):
        await records


async def test_who_has_left_is_forgotten() -> None:
    recent = RecentLog()
    wait = asyncio.create_task(recent.wait(0))
    await asyncio.sleep(0)
    wait.cancel()
    await asyncio.wait({wait})
    assert recent._loop is None


def test_a_loop_that_has_ended_holds_up_nobody() -> None:
    recent = RecentLog()
    loop = asyncio.new_event_loop()
    loop.close()
    recent._loop = loop
    recent.add([line("one")])
    assert recent.total == 1
