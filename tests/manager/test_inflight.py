"""The registry of requests, and how one of them is cancelled."""

from __future__ import annotations

import asyncio
import time

import pytest

from manager.inflight import InFlight, Running
from tests.manager.bench import soon, turn


def begin(inflight: InFlight, request_id: str = "one") -> Running:
    return inflight.begin(request_id, "m", "key", "/v1/chat/completions", True)


class Asked:
    """A request that waits until it is let go, in a task of its own as in the service."""

    def __init__(self, inflight: InFlight, request_id: str = "one") -> None:
        self.let_go = asyncio.Event()
        self.excused: bool | None = None
        self.left_over: int | None = None  # cancels that the task would still count at its end
        self.task = asyncio.create_task(self._live(inflight, request_id))

    async def _live(self, inflight: InFlight, request_id: str) -> str:
        running = begin(inflight, request_id)
        task = asyncio.current_task()
        assert task is not None
        try:
            await self.let_go.wait()
            return "done"
        except asyncio.CancelledError:
            self.excused = running.excuse()
            if not self.excused:
                raise
            return "cancelled"
        finally:
            inflight.end(running)
            self.left_over = task.cancelling()


async def test_a_request_is_listed_from_its_begin_to_its_end() -> None:
    inflight = InFlight()
    before = time.time()
    running = begin(inflight)
    assert list(inflight) == [running]
    assert (running.id, running.model, running.key, running.route) == ("one", "m", "key", "/v1/chat/completions")
    assert before <= running.started <= time.time()
    assert (running.state, running.first_byte_at, running.sent, running.stream) == ("waiting", None, 0, True)
    inflight.end(running)
    assert (list(inflight), len(inflight)) == ([], 0)


async def test_it_runs_from_the_lease_on_and_its_first_byte_has_a_date() -> None:
    running = begin(InFlight())
    running.leased_at = running.began + 1.0
    running.first_at = running.began + 2.5
    assert running.state == "running"
    assert running.first_byte_at == pytest.approx(running.started + 2.5)


async def test_a_list_may_be_walked_while_requests_end() -> None:
    inflight = InFlight()
    both = [begin(inflight), begin(inflight)]
    for running in inflight:
        inflight.end(running)
    assert [running.sent for running in both] == [0, 0]
    assert len(inflight) == 0


async def test_cancel_ends_every_request_of_that_id_and_no_other() -> None:
    inflight = InFlight()
    first, twin, other = Asked(inflight), Asked(inflight), Asked(inflight, "other")
    await turn()
    assert inflight.cancel("one")
    assert await soon(first.task) == await soon(twin.task) == "cancelled"
    assert [running.id for running in inflight] == ["other"]
    other.let_go.set()
    assert await soon(other.task) == "done"


async def test_an_id_that_nobody_has_is_not_found_nor_is_one_that_has_ended() -> None:
    inflight = InFlight()
    asked = Asked(inflight)
    await turn()
    asked.let_go.set()
    await soon(asked.task)
    assert not inflight.cancel("one")
    assert not inflight.cancel("nobody")


async def test_a_client_that_leaves_is_no_cancel() -> None:
    asked = Asked(InFlight())
    await turn()
    asked.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(asked.task)
    assert asked.excused is False


@pytest.mark.parametrize("client_first", [True, False])
async def test_a_client_that_leaves_in_the_same_moment_counts_more_than_the_cancel(client_first: bool) -> None:
    inflight = InFlight()
    asked = Asked(inflight)
    await turn()
    if client_first:
        asked.task.cancel()
    inflight.cancel("one")
    if not client_first:
        asked.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(asked.task)
    assert asked.excused is False


async def test_a_second_cancel_changes_nothing_and_the_task_goes_on_clean() -> None:
    inflight = InFlight()
    asked = Asked(inflight)
    await turn()
    assert inflight.cancel("one")
    assert inflight.cancel("one")
    assert await soon(asked.task) == "cancelled"
    assert asked.left_over == 0


async def test_a_cancel_in_the_moment_of_the_answer_leaves_nothing_behind() -> None:
    inflight = InFlight()
    asked = Asked(inflight)
    await turn()
    asked.let_go.set()  # it will wake up with an answer
    assert inflight.cancel("one")
    assert await soon(asked.task) == "cancelled"
    assert asked.left_over == 0
    assert len(inflight) == 0


async def test_a_cancel_that_another_error_was_faster_than_does_not_reach_the_tasks_next_wait() -> None:
    inflight = InFlight()
    begun = asyncio.Event()

    async def live() -> int:
        running = begin(inflight)
        try:
            begun.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass  # as a clean-up that fails with an error of its own does
        finally:
            inflight.end(running)
        async with asyncio.timeout(5):
            await asyncio.sleep(0)
        task = asyncio.current_task()
        assert task is not None
        return task.cancelling()

    task = asyncio.create_task(live())
    await soon(begun.wait())
    inflight.cancel("one")
    assert await soon(task) == 0
