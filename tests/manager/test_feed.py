"""What Feed promises its readers, and those that come back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable

import pytest

from manager.feed import Event, EventsLost, Feed, Reader, status_dict
from manager.state import ModelState, ModelStatus
from tests.manager.bench import soon, turn


def say(feed: Feed, *numbers: int) -> None:
    for number in numbers:
        feed.publish("count", {"n": number})


def numbers(events: Iterable[Event | None] | None) -> list[int]:
    return [event.data["n"] for event in events or () if event is not None]


async def taken(reader: Reader, count: int) -> list[int]:
    return numbers([await soon(reader.next()) for _ in range(count)])


async def test_every_reader_gets_every_event_in_order_with_ids_that_rise() -> None:
    feed = Feed()
    with feed.subscribe() as one, feed.subscribe() as other:
        say(feed, 1, 2, 3)
        assert await taken(one, 3) == [1, 2, 3]
        events = [await soon(other.next()) for _ in range(3)]
    boots, counts = zip(*(event.id.split("-") for event in events if event), strict=True)
    assert len(set(boots)) == 1
    assert counts == ("1", "2", "3")
    assert numbers(events) == [1, 2, 3]


async def test_waiting_reader_is_woken() -> None:
    feed = Feed()
    with feed.subscribe() as reader:
        waiting = asyncio.create_task(reader.next())
        await turn()
        say(feed, 7)
        assert numbers([await soon(waiting)]) == [7]


async def test_reader_gets_nothing_of_before() -> None:
    feed = Feed()
    say(feed, 1)
    with feed.subscribe() as reader:
        assert reader.missed is None
        say(feed, 2)
        assert await taken(reader, 1) == [2]


async def test_reader_that_comes_back_misses_nothing_and_gets_nothing_twice() -> None:
    feed = Feed()
    say(feed, 1, 2)
    known = feed.last_id
    say(feed, 3, 4)
    with feed.subscribe(known) as reader:
        say(feed, 5)
        assert numbers(reader.missed) == [3, 4]
        assert await taken(reader, 1) == [5]


async def test_every_id_that_is_still_kept_can_be_resumed_from() -> None:
    feed = Feed(keep=3)
    ids = [feed.last_id]
    for number in range(1, 6):
        say(feed, number)
        ids.append(feed.last_id)
    missed = []
    for one in ids:
        with feed.subscribe(one) as reader:
            missed.append(None if reader.missed is None else numbers(reader.missed))
    assert missed == [None, None, [3, 4, 5], [4, 5], [5], []]


@pytest.mark.parametrize(
    "id_",
    ["", "nonsense", "{boot}", "{boot}-", "{boot}-x", "{boot}-²", "{boot}--1", "{boot}-4", "{boot}-" + "9" * 5000],
)
async def test_id_that_was_never_given_can_not_be_resumed_from(id_: str) -> None:
    feed = Feed()
    say(feed, 1, 2, 3)
    boot = feed.last_id.split("-")[0]
    with feed.subscribe(id_.format(boot=boot)) as reader:
        assert reader.missed is None


async def test_id_of_another_life_can_not_be_resumed_from() -> None:
    old, new = Feed(), Feed()
    say(old, 1)
    say(new, 1)
    with new.subscribe(old.last_id) as reader:
        assert reader.missed is None


async def test_reader_that_is_too_slow_is_told_so_until_it_skips() -> None:
    feed = Feed(keep=3)
    with feed.subscribe() as slow, feed.subscribe() as quick:
        for number in range(1, 6):
            say(feed, number)
            assert await taken(quick, 1) == [number]
        for _ in range(2):
            with pytest.raises(EventsLost):
                await soon(slow.next())
        slow.skip()
        say(feed, 6)
        assert await taken(slow, 1) == [6]


async def test_reader_that_lost_a_single_event_is_told_so() -> None:
    feed = Feed(keep=3)
    with feed.subscribe() as reader:
        say(feed, 1, 2, 3, 4)
        with pytest.raises(EventsLost):
            await soon(reader.next())


async def test_reader_that_is_just_not_too_slow_loses_nothing() -> None:
    feed = Feed(keep=3)
    with feed.subscribe() as reader:
        say(feed, 1, 2, 3)
        assert await taken(reader, 1) == [1]
        say(feed, 4)
        assert await taken(reader, 3) == [2, 3, 4]


async def test_next_without_an_event_times_out_and_loses_none() -> None:
    feed = Feed()
    with feed.subscribe() as reader:
        with pytest.raises(TimeoutError):
            await reader.next(timeout=0.001)
        say(feed, 1)
        assert await taken(reader, 1) == [1]


async def test_cancelled_next_loses_no_event() -> None:
    feed = Feed()
    with feed.subscribe() as reader:
        waiting = asyncio.create_task(reader.next())
        await turn()
        say(feed, 1)
        waiting.cancel()
        await asyncio.wait({waiting})
        assert await taken(reader, 1) == [1]


async def test_close_ends_readers_after_what_they_have() -> None:
    feed = Feed()
    with feed.subscribe() as reader, feed.subscribe() as idle:
        waiting = asyncio.create_task(idle.next())
        await turn()
        say(feed, 1)
        feed.close()
        assert await taken(reader, 1) == [1]
        assert await soon(reader.next()) is None
        assert numbers([await soon(waiting)]) == [1]
        assert await soon(idle.next()) is None


async def test_reader_of_a_closed_feed_gets_what_it_missed_and_ends() -> None:
    feed = Feed()
    known = feed.last_id
    say(feed, 1)
    feed.close()
    with feed.subscribe(known) as reader:
        assert numbers(reader.missed) == [1]
        assert await soon(reader.next()) is None


async def test_feed_is_heard_while_there_is_a_reader_and_a_while_after() -> None:
    feed = Feed()
    assert not feed.heard()
    with feed.subscribe():
        assert feed.heard()
    assert feed.heard()
    forgetful = Feed(remembered=0.0)
    with forgetful.subscribe():
        assert forgetful.heard()
    assert not forgetful.heard()


async def test_what_nobody_heard_counts_as_missed() -> None:
    feed = Feed(remembered=0.0)
    with feed.subscribe() as reader:
        say(feed, 1)
        await taken(reader, 1)
        known = feed.last_id
    with feed.subscribe(known) as reader:
        assert reader.missed == ()
    feed.heard()
    with feed.subscribe(known) as reader:
        assert reader.missed is None
    known = feed.last_id
    say(feed, 2)
    with feed.subscribe(known) as reader:
        assert numbers(reader.missed) == [2]


def test_status_is_told_as_json_with_the_error_of_a_failed_model_only() -> None:
    status = ModelStatus(
        "m", ModelState.FAILED, 5.0, failures=2, error="bent", error_code="x", exit_code=-9, retry_at=7.0
    )
    told = json.loads(json.dumps(status_dict(status)))
    assert (told["name"], told["state"], told["failures"]) == ("m", "failed", 2)
    assert told["last_error"] == {"message": "bent", "code": "x", "exit_code": -9, "at": 5.0, "retry_at": 7.0}
    loaded = ModelStatus("m", ModelState.READY, 5.0, memory={"host": 3}, measured={"host": 2}, pid=9)
    told = json.loads(json.dumps(status_dict(loaded)))
    assert told["memory"] == {"expected": {"host": 3}, "measured": {"host": 2}}
    assert (told["pid"], told["last_error"]) == (9, None)
