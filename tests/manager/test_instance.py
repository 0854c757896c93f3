"""The invariants of a model's life, with real processes where the process is the point, else with fake engines."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from manager import backoff as backoff_module
from manager import instance as instance_module
from manager import lease as lease_module
from manager import life as life_module
from manager.engines import UpstreamRequest
from manager.errors import InsufficientMemory, LoadAborted, LoadFailed, LoadTimeout, ShuttingDown, UpstreamError
from manager.lease import Lease
from manager.state import TRANSITIONS, ModelState
from tests.manager.bench import FakeBench, is_running, lines_of, make_entry, soon, turn, watched
from tests.manager.conftest import LlamaFakes, MakeFakeBench

STOPPED, STARTING, READY, DRAINING, STOPPING, FAILED = ModelState


class Clock:
    """Stands in for the time module where lives are timed; it goes only where a test moves it."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for timed in (backoff_module, instance_module, lease_module, life_module):
        monkeypatch.setattr(timed, "time", clock)
    return clock


def begin(bench: Any, timeout: float = 10.0) -> asyncio.Task[Lease]:
    return asyncio.create_task(bench.instance.lease(timeout))


async def test_an_engine_that_breaks_before_it_lives_leaves_nothing_behind(
    make_bench: MakeFakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make_bench()
    with monkeypatch.context() as patched:
        patched.setattr(bench.instance, "_make_engine", lambda _: object())  # it has no log
        with pytest.raises(AttributeError, match="log"):
            bench.instance.begin()
    assert (bench.instance.life, bench.instance.status().state) == (None, STOPPED)
    (await soon(bench.instance.lease(10))).release()


# 1. Only the instance's own task writes its state, and only by moves that exist.


async def test_feed_shows_every_state_of_a_life_in_order(llama: LlamaFakes) -> None:
    bench = llama.bench()
    (await soon(bench.instance.lease(10))).release()
    await soon(bench.instance.unload())
    assert bench.states == [STARTING, READY, DRAINING, STOPPING, STOPPED]


async def test_feed_shows_a_failed_start_in_order(llama: LlamaFakes) -> None:
    bench = llama.bench(exit_on_start={"code": 3, "lines": ["error: no such thing"]})
    with pytest.raises(LoadFailed):
        await soon(bench.instance.lease(10))
    await bench.reaches(FAILED)
    assert bench.states == [STARTING, STOPPING, FAILED]


async def test_status_tells_pid_and_load_time_of_what_runs(llama: LlamaFakes) -> None:
    bench = llama.bench()
    with await soon(bench.instance.lease(10)):
        status = bench.instance.status()
        assert status.pid == int(lines_of(llama.starts)[-1])
        assert status.load_seconds is not None
        assert 0 < status.load_seconds < 10
        assert status.in_flight == 1
        assert any("model loaded" in line for line in status.log_tail)


@pytest.mark.parametrize(
    ("state", "to"), [(state, to) for state in ModelState for to in ModelState if to not in TRANSITIONS[state]]
)
async def test_move_that_does_not_exist_raises(make_bench: MakeFakeBench, state: ModelState, to: ModelState) -> None:
    instance = make_bench().instance
    instance._state = state
    with pytest.raises(RuntimeError, match=f"can't go from {state} to {to}"):
        instance._move(to)
    assert instance.state is state
    instance._state = STOPPED


async def test_long_load_is_published_again_and_again(
    make_bench: MakeFakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(life_module, "PROGRESS_EVERY", 0.005)
    bench = make_bench()
    bench.plans = [{"hold_start": True}]
    waiting = begin(bench)
    await bench.published(4)
    assert bench.states == [STARTING]
    bench.engines[0].may_start.set()
    (await soon(waiting)).release()


async def test_fault_of_an_engine_fails_the_life_and_stops_it(make_bench: MakeFakeBench) -> None:
    bench = make_bench()
    bench.plans = [{"error": ZeroDivisionError("oops")}]
    with pytest.raises(LoadFailed, match="ZeroDivisionError"):
        await soon(bench.instance.lease(10))
    await bench.reaches(FAILED)
    assert bench.engines[0].stopped


async def test_fault_of_a_stop_does_not_keep_a_model_from_settling(
    make_bench: MakeFakeBench, caplog: pytest.LogCaptureFixture
) -> None:
    bench = make_bench()
    bench.plans = [{"stop_error": ZeroDivisionError("oops")}]
    (await soon(bench.instance.lease(10))).release()
    await soon(bench.instance.unload())
    assert bench.states == [STARTING, READY, DRAINING, STOPPING, STOPPED]
    assert "could not be stopped cleanly" in caplog.text
    (await soon(bench.instance.lease(10))).release()


# 2. A load belongs to the instance.


async def test_many_leases_at_once_start_one_process(llama: LlamaFakes) -> None:
    bench = llama.bench()
    leases = await soon(asyncio.gather(*(bench.instance.lease(10) for _ in range(20))))
    assert len(lines_of(llama.starts)) == 1
    assert bench.instance.in_flight == 20
    for lease in leases:
        lease.release()
    assert bench.instance.in_flight == 0


async def test_caller_who_leaves_does_not_end_the_load(llama: LlamaFakes, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    bench = llama.bench(gate=gate)
    first, second = begin(bench), begin(bench)
    await bench.reaches(STARTING)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    gate.touch()
    (await soon(second)).release()
    assert len(lines_of(llama.starts)) == 1


async def test_load_goes_on_when_every_caller_has_left(make_bench: MakeFakeBench) -> None:
    bench = make_bench()
    bench.plans = [{"hold_start": True}]
    waiting = begin(bench)
    await bench.reaches(STARTING)
    waiting.cancel()
    await asyncio.wait({waiting})
    bench.engines[0].may_start.set()
    await bench.reaches(READY)
    assert bench.instance.in_flight == 0


async def test_released_lease_counts_once_and_has_no_engine(make_bench: MakeFakeBench) -> None:
    bench = make_bench()
    lease = await soon(bench.instance.lease(10))
    lease.release()
    lease.release()
    assert bench.instance.in_flight == 0
    with pytest.raises(RuntimeError, match="released"):
        _ = lease.engine


async def test_lease_tells_that_its_engine_ended(make_bench: MakeFakeBench) -> None:
    bench = make_bench()
    lease = await soon(bench.instance.lease(10))
    asking = asyncio.create_task(lease.engine_lost())
    await turn()
    assert not asking.done()
    bench.engines[0].exit()
    assert await soon(asking)
    lease.release()
    assert not await soon(lease.engine_lost())


async def test_lease_of_a_running_engine_is_not_lost(
    make_bench: MakeFakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "LOSS_SEEN_WITHIN", 0.001)
    bench = make_bench()
    with await soon(bench.instance.lease(10)) as lease:
        assert not await soon(lease.engine_lost())


# 3. Between "it is READY" and "in flight" there is no await.


async def test_ready_model_is_leased_without_giving_way(make_bench: MakeFakeBench) -> None:
    bench = make_bench()
    (await soon(bench.instance.lease(10))).release()
    ran: list[str] = []
    asyncio.get_running_loop().call_soon(ran.append, "another task")
    with await bench.instance.lease(10):
        assert bench.instance.in_flight == 1
        assert not ran


async def test_waiter_that_wakes_too_late_gets_the_next_life(
    make_bench: MakeFakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backoff_module, "FIRST", 0.001)
    bench = make_bench()
    bench.plans = [{"hold_start": True}]
    waiting = begin(bench)
    await bench.reaches(STARTING)
    # It exits in the same turn of the loop in which it becomes ready: before the waiter has run, it is gone.
    bench.engines[0].exit()
    bench.engines[0].may_start.set()
    with await soon(waiting) as lease:
        assert lease.engine is bench.engines[-1]
        assert not bench.engines[-1].stopped


# 4. Every settled outcome wakes every waiter.


async def test_failed_load_wakes_every_waiter_with_its_reason(llama: LlamaFakes) -> None:
    bench = llama.bench(exit_during_load={"after": 0.05, "code": 1, "lines": ["error: the tensors are odd"]})
    waiting = [begin(bench) for _ in range(10)]
    await soon(asyncio.wait(waiting))
    for task in waiting:
        with pytest.raises(LoadFailed, match="the tensors are odd"):
            task.result()
    assert len(lines_of(llama.starts)) == 1


async def test_unload_during_a_load_wakes_every_waiter(make_bench: MakeFakeBench) -> None:
    bench = make_bench()
    bench.plans = [{"hold_start": True}]
    waiting = [begin(bench) for _ in range(5)]
    await bench.reaches(STARTING)
    await soon(bench.instance.unload())
    for task in waiting:
        with pytest.raises(LoadAborted):
            await task
    assert bench.states == [STARTING, STOPPING, STOPPED]
    assert bench.engines[0].start_cancelled
    assert bench.engines[0].stopped


async def test_load_that_takes_too_long_wakes_every_waiter(llama: LlamaFakes) -> None:
    bench = llama.bench(load=0.3, never_ready=True)
    waiting = [begin(bench) for _ in range(5)]
    with pytest.raises(LoadTimeout):
        await soon(asyncio.wait_for(waiting[0], 10))
    for task in waiting[1:]:
        with pytest.raises(LoadTimeout):
            await task
    status = await bench.reaches(FAILED)
    assert status.error_code == "model_loading"
    assert not any(is_running(int(pid)) for pid in lines_of(llama.starts))


async def test_impatient_caller_gets_load_timeout_and_the_load_goes_on(make_bench: MakeFakeBench) -> None:
    bench = make_bench()
    bench.plans = [{"hold_start": True}]
    with pytest.raises(LoadTimeout) as caught:
        await soon(bench.instance.lease(0.01))
    assert caught.value.retry_after is not None
    assert bench.instance.state is STARTING
    bench.engines[0].may_start.set()
    await bench.reaches(READY)


# 5. A lease while it drains or stops gets a fresh start; at shutdown ShuttingDown.


async def test_lease_during_drain_gets_fresh_start(llama: LlamaFakes) -> None:
    bench = llama.bench()
    first = await soon(bench.instance.lease(10))
    old = bench.instance.status().pid
    unloading = asyncio.create_task(bench.instance.unload())
    await bench.reaches(DRAINING)
    late = begin(bench)
    await turn()
    assert not late.done()
    first.release()
    with await soon(late):
        assert bench.instance.status().pid != old
    await soon(unloading)
    assert bench.instance.state is READY


@pytest.mark.parametrize("unload_again", [False, True])
async def test_lease_during_stopping_gets_fresh_start(make_bench: MakeFakeBench, unload_again: bool) -> None:
    bench = make_bench()
    (await soon(bench.instance.lease(10))).release()
    bench.engines[0].may_stop.clear()
    first_unload = asyncio.create_task(bench.instance.unload())
    await bench.reaches(STOPPING)
    late = begin(bench)
    await turn()
    # Somebody who asks to unload what is stopping already means that, and not what comes after it.
    second_unload = asyncio.create_task(bench.instance.unload() if unload_again else turn())
    await turn()
    bench.engines[0].may_stop.set()
    with await soon(late) as lease:
        assert lease.engine is bench.engines[1]
    await soon(first_unload)
    await soon(second_unload)
    assert bench.instance.state is READY


async def test_new_lease_while_an_aborted_load_stops_gets_fresh_start(make_bench: MakeFakeBench) -> None:
    bench = make_bench()
    bench.plans = [{"hold_start": True}]
    aborted = begin(bench)
    await bench.reaches(STARTING)
    bench.engines[0].may_stop.clear()
    unloading = asyncio.create_task(bench.instance.unload())
    await bench.reaches(STOPPING)
    late = begin(bench)
    await turn()
    bench.engines[0].may_stop.set()
    with await soon(late) as lease:
        assert lease.engine is bench.engines[1]
    with pytest.raises(LoadAborted):
        await aborted
    await unloading


@pytest.mark.parametrize("state", [STARTING, READY, DRAINING, STOPPING])
async def test_lease_at_shutdown_gets_shutting_down(make_bench: MakeFakeBench, state: ModelState) -> None:
    bench = make_bench()
    bench.plans = [{"hold_start": state is STARTING}]
    waiting = [begin(bench)]
    held: Lease | None = None
    if state is STARTING:
        await bench.reaches(STARTING)
    else:
        held = await soon(asyncio.wait_for(waiting.pop(), 5))
    bench.engines[0].may_stop.clear()
    unloading = asyncio.create_task(bench.instance.unload() if state in {DRAINING, STOPPING} else turn())
    if held and state is STOPPING:
        held.release()
    await bench.reaches(state)
    if state is not READY:
        waiting.append(begin(bench))
        await turn()
    closing = asyncio.create_task(bench.instance.close())
    await turn()
    assert bench.instance.try_lease() is None
    waiting.append(begin(bench))
    bench.engines[0].may_stop.set()
    await soon(closing)
    waiting.append(begin(bench))
    for task in waiting:
        with pytest.raises(ShuttingDown):
            await soon(task)
    await unloading
    assert len(bench.engines) == 1
    assert bench.instance.state is STOPPED


async def test_nothing_is_leased_between_shutdown_and_the_stop(make_bench: MakeFakeBench) -> None:
    bench = make_bench()
    (await soon(bench.instance.lease(10))).release()
    closing = asyncio.create_task(bench.instance.close())
    await asyncio.sleep(0)
    assert bench.instance.state is READY  # the life has not run since
    assert bench.instance.try_lease() is None
    await soon(closing)


async def test_nothing_starts_after_shutdown_out_of_a_backoff(make_bench: MakeFakeBench) -> None:
    bench = make_bench()
    bench.plans = [{"error": LoadFailed("no")}]
    with pytest.raises(LoadFailed):
        await soon(bench.instance.lease(10))
    await bench.reaches(FAILED)
    waiting = begin(bench)
    await turn()
    await soon(bench.instance.close())
    with pytest.raises(ShuttingDown):
        await soon(waiting)
    assert len(bench.engines) == 1


async def test_close_does_not_wait_for_what_is_in_flight(make_bench: MakeFakeBench) -> None:
    bench = make_bench()
    with await soon(bench.instance.lease(10)):
        await soon(bench.instance.close())
        assert bench.instance.state is STOPPED


# 6. STOPPED and FAILED mean that nothing is left but the log's tail.


@pytest.mark.parametrize("end", ["unload", "crash"])
async def test_settled_means_nothing_is_left_but_the_log(llama: LlamaFakes, tmp_path: Path, end: str) -> None:
    bench = llama.bench(fork_grandchild=tmp_path / "grandchild", die_mid_stream=0)
    with await soon(bench.instance.lease(10)) as lease:
        pid = bench.instance.status().pid
        assert pid is not None
        assert len(list(llama.run_folder.path.iterdir())) == 2  # the socket and the record
        with watched(int(lines_of(tmp_path / "grandchild")[0])) as grandchild:
            if end == "crash":
                await crash(lease)
            else:
                lease.release()
                await soon(bench.instance.unload())
            await bench.reaches(FAILED if end == "crash" else STOPPED)
            assert grandchild.ends()
    assert not is_running(pid)
    assert list(llama.run_folder.path.iterdir()) == []
    status = bench.instance.status()
    assert status.pid is None
    assert any("model loaded" in line for line in status.log_tail)


async def crash(lease: Lease) -> None:
    """Make a request that the fake dies of."""
    with pytest.raises(UpstreamError):
        async with lease.engine.open(UpstreamRequest("POST", "/v1/chat/completions", b'{"messages": []}')) as answer:
            await answer.read()


async def test_crash_of_a_ready_model_fails_it_with_its_signal(llama: LlamaFakes) -> None:
    bench = llama.bench(die_mid_stream=0)
    with await soon(bench.instance.lease(10)) as lease:
        await crash(lease)
        status = await bench.reaches(FAILED)
    assert status.exit_code == -9
    assert status.error_code == "upstream_closed"
    assert bench.states == [STARTING, READY, STOPPING, FAILED]


# 7. One kill.


async def test_many_unloads_make_one_stop(llama: LlamaFakes) -> None:
    bench = llama.bench(ignore_sigterm=True, grace=0.1)
    (await soon(bench.instance.lease(10))).release()
    await soon(asyncio.gather(*(bench.instance.unload() for _ in range(10)), bench.instance.close()))
    assert bench.states == [STARTING, READY, DRAINING, STOPPING, STOPPED]
    assert not is_running(int(lines_of(llama.starts)[0]))


async def test_many_who_stop_an_instance_stop_its_engine_once(make_bench: MakeFakeBench) -> None:
    bench = make_bench()
    (await soon(bench.instance.lease(10))).release()
    await soon(asyncio.gather(*(bench.instance.unload() for _ in range(10))))
    assert bench.engines[0].stops == 1


async def test_unload_of_what_is_not_loaded_does_nothing(make_bench: MakeFakeBench) -> None:
    bench = make_bench()
    await soon(bench.instance.unload())
    assert bench.statuses == []


async def test_drain_waits_for_what_is_in_flight(make_bench: MakeFakeBench) -> None:
    bench = make_bench()
    leases = [await soon(bench.instance.lease(10)) for _ in range(2)]
    unloading = asyncio.create_task(bench.instance.unload())
    await bench.reaches(DRAINING)
    leases[0].release()
    await turn()
    assert bench.instance.state is DRAINING
    leases[1].release()
    await soon(unloading)
    assert bench.engines[0].stopped


async def test_stuck_drain_ends_at_its_limit(make_bench: MakeFakeBench) -> None:
    bench = make_bench(drain=0.01)
    with await soon(bench.instance.lease(10)):
        await soon(bench.instance.unload())
        assert bench.instance.state is STOPPED
        assert bench.engines[0].stopped


async def test_exit_while_it_drains_is_no_failure(make_bench: MakeFakeBench) -> None:
    bench = make_bench()
    with await soon(bench.instance.lease(10)):
        unloading = asyncio.create_task(bench.instance.unload())
        await bench.reaches(DRAINING)
        bench.engines[0].exit()
        await soon(unloading)
    assert bench.states[-2:] == [STOPPING, STOPPED]


# 8. FAILED keeps what happened, and when it may be tried again.


async def test_failed_keeps_error_exit_code_log_and_retry_time(llama: LlamaFakes) -> None:
    bench = llama.bench(exit_on_start={"code": 3, "lines": ["error: out of luck"]})
    with pytest.raises(LoadFailed) as caught:
        await soon(bench.instance.lease(10))
    status = await bench.reaches(FAILED)
    assert status.error == caught.value.message
    assert "out of luck" in caught.value.message
    assert status.error_code == "model_load_failed"
    assert status.exit_code == 3
    assert "out of luck" in status.log_tail[-1]
    assert status.retry_at is not None
    assert 0 < status.retry_at - time.time() <= 1.0
    assert caught.value.retry_after == 1.0


async def test_backoff_doubles_with_each_failure(make_bench: MakeFakeBench, clock: Clock) -> None:
    bench = make_bench()
    assert await delays(bench, clock, 4) == [1, 2, 4, 8]


async def test_fifth_failure_in_a_row_is_the_last_until_somebody_loads_it(
    make_bench: MakeFakeBench, clock: Clock
) -> None:
    bench = make_bench()
    await delays(bench, clock, 4)
    clock.now += 8
    bench.plans = [{"error": LoadFailed("no luck")}]
    with pytest.raises(LoadFailed):
        await soon(bench.instance.lease(10))
    assert (await bench.reaches(FAILED)).retry_at is None
    clock.now += 1e9
    for _ in range(100):  # a storm of clients that try again starts nothing
        with pytest.raises(LoadFailed, match="no luck It failed 5 times in a row") as caught:
            await soon(bench.instance.lease(10))
        assert caught.value.should_retry is False
    assert len(bench.engines) == 5
    await soon(bench.instance.load(10, None))
    assert bench.instance.status().failures == 0


async def test_failed_model_is_tried_again_when_its_entry_changed(
    make_bench: MakeFakeBench, clock: Clock, tmp_path: Path
) -> None:
    bench = make_bench()
    await delays(bench, clock, 3)
    bench.instance.renew(make_entry(tmp_path / "better.gguf"), restart=True)
    with await soon(bench.instance.lease(10)):
        assert len(bench.engines) == 4


async def test_lease_in_a_long_backoff_fails_at_once_with_the_time_left(
    make_bench: MakeFakeBench, clock: Clock
) -> None:
    bench = make_bench()
    await delays(bench, clock, 3)
    clock.now += 1
    with pytest.raises(LoadFailed, match="no luck") as caught:
        await soon(bench.instance.lease(10))
    assert caught.value.retry_after == 3
    assert len(bench.engines) == 3


async def test_lease_in_the_backoff_of_a_lasting_failure_says_so(make_bench: MakeFakeBench, clock: Clock) -> None:
    bench = make_bench()
    await delays(bench, clock, 2, error=LoadFailed("no file", should_retry=False))
    with pytest.raises(LoadFailed, match="no file") as caught:
        await soon(bench.instance.lease(10))
    assert caught.value.should_retry is False
    assert caught.value.retry_after is None


async def test_lease_in_the_backoff_of_a_want_of_memory_says_so(make_bench: MakeFakeBench, clock: Clock) -> None:
    bench = make_bench()
    await delays(bench, clock, 2, error=InsufficientMemory("too large"))
    with pytest.raises(InsufficientMemory, match="too large"):
        await soon(bench.instance.lease(10))


async def test_backoff_starts_again_after_a_healthy_minute(make_bench: MakeFakeBench, clock: Clock) -> None:
    bench = make_bench()
    await delays(bench, clock, 4)
    clock.now += 100
    (await soon(bench.instance.lease(10))).release()
    clock.now += 61
    bench.engines[-1].exit()
    status = await bench.reaches(FAILED)
    assert status.retry_at == clock.now + 1


async def test_answered_request_gives_a_clean_slate(make_bench: MakeFakeBench, clock: Clock) -> None:
    bench = make_bench()
    await delays(bench, clock, 4)
    clock.now += 8
    with await soon(bench.instance.lease(10)) as lease:
        lease.served()
    assert bench.instance.status().failures == 0
    bench.engines[-1].exit()
    assert (await bench.reaches(FAILED)).retry_at == clock.now + 1


async def test_backoff_goes_on_after_a_short_life(make_bench: MakeFakeBench, clock: Clock) -> None:
    bench = make_bench()
    await delays(bench, clock, 3)
    clock.now += 100
    (await soon(bench.instance.lease(10))).release()
    clock.now += 59
    bench.engines[-1].exit()
    status = await bench.reaches(FAILED)
    assert status.retry_at == clock.now + 8


async def test_healthy_minute_counts_where_it_ended_with_an_unload(make_bench: MakeFakeBench, clock: Clock) -> None:
    bench = make_bench()
    await delays(bench, clock, 4)
    clock.now += 100
    (await soon(bench.instance.lease(10))).release()
    clock.now += 61
    await soon(bench.instance.unload())
    assert await delays(bench, clock, 1) == [1]


async def test_explicit_load_ignores_backoff(make_bench: MakeFakeBench, clock: Clock) -> None:
    bench = make_bench()
    await delays(bench, clock, 4)
    await soon(bench.instance.load(10, "pirate"))
    assert bench.instance.state is READY
    assert bench.instance.personality == "pirate"
    assert bench.states[-5:] == [STOPPING, FAILED, STOPPED, STARTING, READY]


async def test_explicit_load_ignores_the_backoff_of_a_load_that_just_failed(
    make_bench: MakeFakeBench, clock: Clock
) -> None:
    bench = make_bench()
    await delays(bench, clock, 4)
    clock.now += 8
    bench.plans = [{"error": LoadFailed("no luck"), "hold_stop": True}]
    with pytest.raises(LoadFailed):
        await soon(bench.instance.lease(10))
    assert bench.instance.state is STOPPING  # who waited hears of it before it has settled
    loading = asyncio.create_task(bench.instance.load(10, None))
    await turn()
    bench.engines[-1].may_stop.set()
    await soon(loading)
    assert bench.instance.state is READY


async def test_short_backoff_is_waited_out(make_bench: MakeFakeBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff_module, "FIRST", 0.05)
    bench = make_bench()
    bench.plans = [{"error": LoadFailed("no luck")}]
    with pytest.raises(LoadFailed):
        await soon(bench.instance.lease(10))
    status = await bench.reaches(FAILED)
    with await soon(bench.instance.lease(10)):
        assert status.retry_at is not None
        assert time.time() >= status.retry_at - 0.001
    assert len(bench.engines) == 2


async def test_waiters_of_one_backoff_share_the_next_start(
    make_bench: MakeFakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backoff_module, "FIRST", 0.02)
    bench = make_bench()
    bench.plans = [{"error": LoadFailed("first")}, {"error": LoadFailed("second")}]
    with pytest.raises(LoadFailed):
        await soon(bench.instance.lease(10))
    await bench.reaches(FAILED)
    for result in await soon(asyncio.gather(*(bench.instance.lease(10) for _ in range(5)), return_exceptions=True)):
        assert isinstance(result, LoadFailed)
        assert result.message == "second"
    assert len(bench.engines) == 2


async def test_lease_in_a_backoff_is_served_by_an_explicit_load(
    make_bench: MakeFakeBench, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backoff_module, "FIRST", 30.0)
    monkeypatch.setattr(backoff_module, "PATIENCE", 30.0)
    bench = make_bench()
    await delays(bench, clock, 1)
    waiting = begin(bench, timeout=60)
    await turn()
    await soon(bench.instance.load(10, None))
    with await soon(waiting) as lease:
        assert lease.engine is bench.engines[1]


async def test_unload_of_a_failed_model_forgets_the_failure(make_bench: MakeFakeBench, clock: Clock) -> None:
    bench = make_bench()
    await delays(bench, clock, 3)
    await soon(bench.instance.unload())
    status = bench.instance.status()
    assert (status.state, status.error, status.exit_code, status.retry_at) == (STOPPED, None, None, None)
    assert await delays(bench, clock, 1) == [1]


async def test_new_entry_counts_from_the_next_life_on(make_bench: MakeFakeBench, tmp_path: Path) -> None:
    bench = make_bench()
    old = bench.instance.entry
    with await soon(bench.instance.lease(10)) as lease:
        bench.instance.entry = make_entry(tmp_path / "new.gguf")
        assert lease.entry is old


async def delays(bench: FakeBench, clock: Clock, count: int, error: LoadFailed | None = None) -> list[float]:
    """Let that many starts fail, each as soon as it may be tried; what each had to wait for the next."""
    found = []
    for _ in range(count):
        retry_at = bench.instance.status().retry_at
        clock.now = max(clock.now, retry_at or 0)
        bench.plans = [{"error": error or LoadFailed("no luck")}]
        with pytest.raises(LoadFailed):
            await soon(bench.instance.lease(10))
        status = await bench.reaches(FAILED)
        assert status.retry_at is not None
        found.append(status.retry_at - clock.now)
    return found


# Idle models


async def test_idle_model_is_unloaded_after_its_time_to_live(make_bench: MakeFakeBench) -> None:
    bench = make_bench(idle=0.01)
    (await soon(bench.instance.lease(10))).release()
    await bench.reaches(STOPPED)
    assert bench.states == [STARTING, READY, DRAINING, STOPPING, STOPPED]


async def test_model_that_nobody_used_after_its_load_is_unloaded_too(make_bench: MakeFakeBench) -> None:
    bench = make_bench(idle=0.01)
    await soon(bench.instance.load(10, None))
    await bench.reaches(STOPPED)


async def test_lease_in_flight_keeps_a_model_whatever_its_time_to_live(make_bench: MakeFakeBench) -> None:
    bench = make_bench(idle=0.01)
    with await soon(bench.instance.lease(10)):
        await asyncio.sleep(0.1)  # ten times its time to live
        assert bench.instance.state is READY
    await bench.reaches(STOPPED)


@pytest.mark.parametrize("fields", [{"pinned": True}, {"ttl": 1000.0}])
async def test_entry_wins_over_the_general_time_to_live(make_bench: MakeFakeBench, fields: dict[str, Any]) -> None:
    bench = make_bench(idle=0.01)
    bench.instance.entry = replace(bench.instance.entry, **fields)
    (await soon(bench.instance.lease(10))).release()
    await asyncio.sleep(0.1)
    assert bench.instance.state is READY


async def test_personality_of_the_load_stays_through_an_idle_unload(make_bench: MakeFakeBench) -> None:
    bench = make_bench(idle=0.01)
    await soon(bench.instance.load(10, "pirate"))
    await bench.reaches(STOPPED)
    with await soon(bench.instance.lease(10)) as lease:
        assert lease.personality == "pirate"


async def test_personality_of_the_load_stays_through_a_crash(
    make_bench: MakeFakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backoff_module, "FIRST", 0.001)
    bench = make_bench()
    await soon(bench.instance.load(10, "pirate"))
    bench.engines[0].exit()
    await bench.reaches(FAILED)
    with await soon(bench.instance.lease(10)) as lease:
        assert lease.personality == "pirate"


@pytest.mark.parametrize("idle", [None, 0.01])
async def test_unload_forgets_the_personality_loaded_or_not(make_bench: MakeFakeBench, idle: float | None) -> None:
    bench = make_bench(idle=idle)
    await soon(bench.instance.load(10, "pirate"))
    if idle is not None:
        await bench.reaches(STOPPED)
    await soon(bench.instance.unload())
    with await soon(bench.instance.lease(10)) as lease:
        assert lease.personality is None


async def test_request_during_an_idle_unload_gets_a_fresh_start(make_bench: MakeFakeBench) -> None:
    bench = make_bench(idle=0.01)
    bench.plans = [{"hold_stop": True}]
    (await soon(bench.instance.lease(10))).release()
    await bench.reaches(STOPPING)
    waiting = begin(bench)
    await turn()
    bench.engines[0].may_stop.set()
    with await soon(waiting) as lease:
        assert lease.engine is bench.engines[1]
