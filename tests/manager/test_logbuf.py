"""What LogBuffer keeps, and how it is followed."""

from __future__ import annotations

import asyncio

from manager.logbuf import LogBuffer
from tests.manager.bench import soon, turn


def test_lines_are_counted_when_they_are_complete() -> None:
    log = LogBuffer()
    assert log.feed(b"one\ntw") == ["one"]
    assert log.total == 1
    assert log.feed(b"o\r\nthree\n") == ["two", "three"]
    assert log.total == 3


def test_line_that_never_ends_is_cut() -> None:
    log = LogBuffer(max_line=10)
    for _ in range(100):
        log.feed(b"x" * 7)
    assert log.tail() == ("x" * 10,)
    log.feed(b"\n")
    assert log.since(0) == (["x" * 10], 1)


def test_tail_has_the_unfinished_line_and_no_line_is_asked_for_by_zero() -> None:
    log = LogBuffer()
    log.feed(b"one\ntwo\nthr")
    assert log.tail(2) == ("two", "thr")
    assert log.tail(0) == ()


def test_since_tells_only_what_is_new_and_where_to_go_on() -> None:
    log = LogBuffer()
    log.feed(b"one\ntwo\n")
    assert log.since(0) == (["one", "two"], 2)
    assert log.since(1) == (["two"], 2)
    assert log.since(2) == ([], 2)
    assert log.since(9) == ([], 2)


def test_since_of_a_slow_reader_shows_by_its_number_what_is_lost() -> None:
    log = LogBuffer(max_lines=3)
    log.feed(b"".join(b"%d\n" % number for number in range(1, 11)))
    assert log.since(4) == (["8", "9", "10"], 10)


async def test_wait_ends_with_the_next_complete_line_for_everybody() -> None:
    log = LogBuffer()
    log.feed(b"one\n")
    waits = [asyncio.create_task(log.wait(1)) for _ in range(2)]
    await turn()
    log.feed(b"tw")
    await turn()
    assert not any(wait.done() for wait in waits)
    log.feed(b"o\n")
    await soon(asyncio.gather(*waits))
    waiting = asyncio.create_task(log.wait(2))
    await turn()
    assert not waiting.done()
    log.feed(b"three\n")
    await soon(waiting)


async def test_wait_for_what_is_there_does_not_wait() -> None:
    log = LogBuffer()
    log.feed(b"one\n")
    await soon(log.wait(0))


async def test_wait_that_is_given_up_leaves_the_others_waiting() -> None:
    log = LogBuffer()
    one, other = (asyncio.create_task(log.wait(0)) for _ in range(2))
    await turn()
    one.cancel()
    await asyncio.wait({one})
    assert not other.done()
    log.feed(b"line\n")
    await soon(other)


async def test_close_completes_the_last_line_and_ends_every_wait() -> None:
    log = LogBuffer()
    log.feed(b"one\nlast words")
    waiting = asyncio.create_task(log.wait(5))
    await turn()
    log.close()
    await soon(waiting)
    assert log.since(1) == (["last words"], 2)
    await soon(log.wait(2))


def test_a_tee_gets_all_lines_those_from_before_it_too() -> None:
    log = LogBuffer()
    log.feed(b"one\ntw")
    heard: list[list[str]] = []
    log.tee(heard.append)
    log.feed(b"o\nthree\nfo")
    log.feed(b"u")
    log.close()
    assert heard == [["one"], ["two", "three"], ["fou"]]
