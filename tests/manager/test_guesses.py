"""Guesses: wrong keys of one address are answered later and later, and take no memory while they wait."""

from __future__ import annotations

import asyncio

import pytest

from manager.errors import RateLimited
from manager.guesses import FREE, MOST_DELAY, WAITING, Guesses


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits that were asked for; none of them is waited."""
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    return waits


async def test_the_first_mistakes_are_answered_at_once_and_the_next_later_and_later(slept: list[float]) -> None:
    door = Guesses()
    for _ in range(FREE):
        await door.slow_down("203.0.113.5")
    assert slept == []
    for _ in range(8):
        await door.slow_down("203.0.113.5")
    assert slept == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0]
    assert max(slept) == MOST_DELAY


async def test_every_address_is_counted_by_itself_and_a_network_of_ipv6_as_one(slept: list[float]) -> None:
    door = Guesses()
    for number in range(FREE + 1):
        await door.slow_down(f"203.0.113.{number}")
    assert slept == []
    for number in range(FREE + 1):
        await door.slow_down(f"2001:db8::{number:x}")
    assert len(slept) == 1


async def test_few_wait_and_the_others_are_turned_away() -> None:
    door = Guesses()
    for _ in range(FREE):
        await door.slow_down("203.0.113.5")
    waiting = [asyncio.create_task(door.slow_down("203.0.113.5")) for _ in range(WAITING)]
    await asyncio.sleep(0)
    with pytest.raises(RateLimited) as refusal:
        await door.slow_down("203.0.113.5")
    assert refusal.value.retry_after == MOST_DELAY
    await door.slow_down("203.0.113.6")  # others are not held up
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    # Whoever left does not take a place any more: this one waits again, and is not turned away.
    again = asyncio.create_task(door.slow_down("203.0.113.5"))
    done, _ = await asyncio.wait({again}, timeout=0.01)
    assert not done
    again.cancel()
    await asyncio.wait({again})
