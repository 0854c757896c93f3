"""The line of those who wait for one model: who is next, who leaves, and who shares a failure."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path
from typing import Any

import pytest

from manager import waiting as module
from manager.errors import LoadFailed
from manager.lease import Lease
from manager.life import Life
from manager.waiting import Waiter, Waiting
from tests.manager.bench import FakeEngine, make_entry

ENTRY = make_entry(Path("/nowhere.gguf"))


class Clock:
    """Stands in for the time module; it goes only where a test moves it."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def make_life() -> Life:
    return Life(FakeEngine(1), ENTRY, {}, lambda: None)


@pytest.fixture
async def life() -> Life:
    return make_life()


def add(line: Waiting, priority: int = 0, life: Life | None = None) -> Waiter:
    return line.add(priority, life, evicts=True)


def serve(line: Waiting, life: Life) -> Lease:
    lease = Lease(life, ENTRY, None)
    waiter = line.next()
    assert waiter is not None
    waiter.future.set_result(lease)
    return lease


def served(line: Waiting, life: Life) -> list[Waiter]:
    """All of them, in the order in which they get their leases."""
    order = []
    while line:
        first = next(iter(line))
        lease = serve(line, life)
        assert first.future.result() is lease
        order.append(first)
    return order


# order


async def test_first_come_first_served_also_within_one_moment(life: Life, clock: Clock) -> None:
    line = Waiting()
    one, two, three = add(line), add(line), add(line)
    clock.now += 0.5
    four = add(line)
    assert len(line) == 4
    assert served(line, life) == [one, two, three, four]
    assert life.in_flight == 4
    assert len(line) == 0


@pytest.mark.parametrize(("later", "first"), [(2.75, True), (3.25, False)])
async def test_a_point_of_priority_counts_as_a_second_and_no_more(
    life: Life, clock: Clock, later: float, first: bool
) -> None:
    line = Waiting()
    usual = add(line)
    clock.now += later
    preferred = add(line, priority=3)
    assert served(line, life) == ([preferred, usual] if first else [usual, preferred])


async def test_a_stream_of_others_with_priority_starves_nobody(life: Life, clock: Clock) -> None:
    line = Waiting()
    usual = add(line)
    began = clock.now
    while clock.now - began < 30:
        clock.now += 1.0
        add(line, priority=10)
        if next(iter(line)) is usual:
            break
        serve(line, life)
    assert clock.now - began == 10


async def test_due_is_the_place_in_the_line_of_who_is_next(clock: Clock) -> None:
    line = Waiting()
    began = clock.now
    add(line)
    assert line.due == began
    add(line, priority=2)
    assert line.due == began - 2


async def test_what_is_known_of_one_who_waits_is_kept(life: Life) -> None:
    line = Waiting()
    waiter = line.add(0, life, evicts=False)
    assert (waiter.life, waiter.evicts) == (life, False)


# leaving


async def test_one_that_leaves_is_not_served(life: Life) -> None:
    line = Waiting()
    one, two, three = add(line), add(line), add(line)
    line.leave(two)
    assert served(line, life) == [one, three]
    assert not two.future.done()


async def test_a_lease_given_in_the_moment_of_leaving_goes_back(life: Life) -> None:
    line = Waiting()
    waiter = add(line)
    serve(line, life)
    assert life.in_flight == 1
    line.leave(waiter)
    assert life.in_flight == 0


async def test_one_that_is_leaving_is_passed_over() -> None:
    line = Waiting()
    leaving, stays = add(line), add(line)
    leaving.future.cancel()  # as its task does, which runs only later
    assert line.next() is stays
    assert line.next() is None


async def test_leaving_after_a_failure_does_nothing(life: Life) -> None:
    line = Waiting()
    waiter = add(line)
    line.fail(LoadFailed("it fell over"))
    line.leave(waiter)
    assert isinstance(waiter.future.exception(), LoadFailed)


# sharing an outcome


async def test_a_failure_is_of_those_alone_who_share_its_start(life: Life) -> None:
    line = Waiting()
    one, two = add(line), add(line)
    line.join(life)
    later, elsewhere = add(line), add(line, life=make_life())
    error = LoadFailed("it fell over")
    line.fail(error, life)
    assert one.future.exception() is two.future.exception() is error
    assert list(line) == [later, elsewhere]
    assert not later.future.done()
    assert not elsewhere.future.done()


async def test_who_waits_shares_the_last_start_that_it_joined(life: Life) -> None:
    line = Waiting()
    waiter = add(line, life=life)
    line.join(make_life())
    line.fail(LoadFailed("it fell over"), life)
    assert not waiter.future.done()


async def test_a_failure_without_a_start_is_everybodys(life: Life) -> None:
    line = Waiting()
    waiters = [add(line), add(line, life=life), add(line, priority=5)]
    error = LoadFailed("it fell over")
    line.fail(error)
    assert [waiter.future.exception() for waiter in waiters] == [error] * 3
    assert len(line) == 0


async def test_a_failure_reaches_the_others_where_one_is_leaving() -> None:
    line = Waiting()
    leaving, stays = add(line), add(line)
    leaving.future.cancel()
    line.fail(LoadFailed("it fell over"))
    assert stays.future.exception() is not None
    assert len(line) == 0


async def test_an_error_that_nobody_looks_at_is_no_complaint() -> None:
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    line = Waiting()
    add(line)
    line.fail(LoadFailed("it fell over"))
    gc.collect()
    assert complaints == []


async def test_who_steps_back_keeps_the_order_and_comes_after_those_who_came_before(clock: Clock) -> None:
    line, other = Waiting(), Waiting()
    second, first = add(line), add(line, priority=5)
    clock.now += 1
    add(other)
    clock.now += 1
    line.step_back()
    assert list(line) == [first, second]
    assert line.due > other.due
