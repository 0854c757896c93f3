"""What EventBus promises its subscribers."""

from __future__ import annotations

import asyncio

import pytest

from manager.events import EventBus, Subscription
from tests.manager.bench import soon, turn


async def taken(subscription: Subscription[int], count: int) -> list[int | None]:
    return [await soon(subscription.next()) for _ in range(count)]


async def test_snapshot_after_subscribing_and_then_the_events_miss_nothing() -> None:
    bus: EventBus[int] = EventBus()
    state = 0

    def change() -> None:
        nonlocal state
        state += 1
        bus.publish(state)

    change()
    with bus.subscribe() as feed:
        snapshot = state
        change()
        change()
        assert snapshot == 1
        assert await taken(feed, 2) == [2, 3]


async def test_every_subscriber_gets_every_event_in_order() -> None:
    bus: EventBus[int] = EventBus()
    with bus.subscribe() as one, bus.subscribe() as two:
        for number in range(5):
            bus.publish(number)
        assert await taken(one, 5) == await taken(two, 5) == [0, 1, 2, 3, 4]


async def test_waiting_subscriber_is_woken() -> None:
    bus: EventBus[int] = EventBus()
    with bus.subscribe() as feed:
        waiting = asyncio.create_task(feed.next())
        await turn()
        bus.publish(1)
        assert await soon(waiting) == 1


async def test_slow_subscriber_loses_its_oldest_events_and_they_are_counted() -> None:
    bus: EventBus[int] = EventBus(queue_size=3)
    with bus.subscribe() as slow, bus.subscribe() as quick:
        for number in range(5):
            bus.publish(number)
            assert await soon(quick.next()) == number
        assert slow.dropped == 2
        assert quick.dropped == 0
        assert await taken(slow, 3) == [2, 3, 4]


async def test_next_without_an_event_times_out_and_loses_none() -> None:
    bus: EventBus[int] = EventBus()
    with bus.subscribe() as feed:
        with pytest.raises(TimeoutError):
            await feed.next(timeout=0.001)
        bus.publish(1)
        assert await soon(feed.next(timeout=0.001)) == 1


async def test_cancelled_next_loses_no_event() -> None:
    bus: EventBus[int] = EventBus()
    with bus.subscribe() as feed:
        waiting = asyncio.create_task(feed.next())
        await turn()
        bus.publish(1)
        waiting.cancel()
        await asyncio.wait({waiting})
        assert await soon(feed.next()) == 1


async def test_close_ends_a_feed_after_what_it_has() -> None:
    bus: EventBus[int] = EventBus()
    with bus.subscribe() as feed, bus.subscribe() as idle:
        waiting = asyncio.create_task(idle.next())
        await turn()
        bus.publish(1)
        bus.close()
        assert await taken(feed, 3) == [1, None, None]
        assert await soon(waiting) == 1
        assert await soon(idle.next()) is None


async def test_feed_of_a_closed_bus_ends_at_once() -> None:
    bus: EventBus[int] = EventBus()
    bus.close()
    with bus.subscribe() as feed:
        assert await soon(feed.next()) is None


async def test_subscriber_that_left_gets_nothing_more() -> None:
    bus: EventBus[int] = EventBus()
    with bus.subscribe() as feed:
        pass
    bus.publish(1)
    with pytest.raises(TimeoutError):
        await feed.next(timeout=0.001)
