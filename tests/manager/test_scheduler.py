"""Which models run when not all of them fit: over fake engines and a ledger that says what a test says."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any, Protocol

import pytest

from manager import life
from manager.catalog import Catalog
from manager.errors import InsufficientMemory, LoadFailed, LoadTimeout, ModelNotFound
from manager.lease import Lease
from manager.memory_ledger import Admitted, Room
from manager.state import ModelState
from tests.conftest import MakeSettings
from tests.manager.bench import ENTRIES, FakeLedger, PoolBench, soon, turn, until

GIB = 1 << 30


class MakePool(Protocol):
    def __call__(
        self, *, sizes: Any = None, there: int | None = 10, entries: Any = None, **scheduling: Any
    ) -> PoolBench: ...


@pytest.fixture
async def make_pool(make_settings: MakeSettings) -> AsyncIterator[MakePool]:
    """Pools with room for 10 bytes and models of 6, in which nobody lingers for long."""
    async with AsyncExitStack() as stack:

        def make(*, sizes: Any = None, there: int | None = 10, entries: Any = None, **scheduling: Any) -> PoolBench:
            times = {"batch_window": 0.05, "linger": 0.001, **scheduling}
            settings = make_settings(limits={"wait_timeout": 8.0}, scheduling=times)
            ledger = FakeLedger(sizes or dict.fromkeys("abc", 6), there)
            bench = PoolBench(settings, Catalog(entries or ENTRIES), ledger)
            stack.push_async_callback(close, bench)
            return bench

        yield make


async def close(bench: PoolBench) -> None:
    for engines in bench.engines.values():
        for engine in engines:
            engine.may_start.set()
            engine.may_stop.set()
    await soon(bench.pool.close())


def entries(**changes: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(replace(entry, **changes.get(entry.name, {})) for entry in ENTRIES)


# room


async def test_models_that_fit_stay_together(make_pool: MakePool) -> None:
    bench = make_pool(sizes={"a": 5, "b": 5})
    await bench.use("a")
    await bench.use("b")
    assert set(bench.pool.loaded) == {"a", "b"}


async def test_an_idle_model_goes_for_one_that_is_wanted(make_pool: MakePool) -> None:
    bench = make_pool()
    await bench.use("a")
    await bench.use("b")
    assert bench.pool.loaded == ("b",)
    assert bench.pool.status("a").evictions == 1
    assert bench.engines["a"][0].stopped


async def test_a_model_that_had_to_go_tells_for_whom_until_it_is_loaded_again(make_pool: MakePool) -> None:
    bench = make_pool()
    before = time.time()
    await bench.use("a")
    assert bench.pool.status("a").evicted is None
    await bench.use("b")
    evicted = bench.pool.status("a").evicted
    assert evicted is not None
    assert (evicted.wanted, before <= evicted.at <= time.time()) == ("b", True)
    await bench.use("a")
    await bench.pool.unload("a")
    assert bench.pool.status("a").evicted is None, "its last life ended otherwise"


async def test_memory_is_back_before_the_next_load_begins(make_pool: MakePool) -> None:
    bench = make_pool()
    bench.plans["a"] = {"hold_stop": True}
    await bench.use("a")
    asked = bench.ask("b")
    await bench.reaches("a", ModelState.STOPPING)
    await turn()
    assert bench.started == ["a"]
    bench.engines["a"][0].may_stop.set()
    with await soon(asked):
        assert bench.started == ["a", "b"]


class LateLedger(FakeLedger):
    """What a process had is missing for some looks after it has gone, as with a GPU's driver."""

    looks = 0
    loaded = 1

    async def room(self, running: Mapping[str, Admitted], *, recent: bool = False) -> Room:
        if self.looks and len(running) < self.loaded:
            self.looks -= 1
            return Room({"host": 4}, {"host": 10}, {})
        return await super().room(running)


async def test_memory_that_comes_back_late_is_waited_for(make_settings: MakeSettings) -> None:
    ledger = LateLedger(dict.fromkeys("ab", 6), 10)
    bench = PoolBench(make_settings(scheduling={"linger": 0.001}), ledger=ledger)
    await bench.use("a")
    ledger.looks = 3
    await bench.use("b")
    assert ledger.looks == 0
    assert bench.pool.loaded == ("b",)
    await close(bench)


async def test_nobody_else_goes_while_memory_is_on_its_way_back(make_settings: MakeSettings) -> None:
    ledger = LateLedger({"a": 3, "b": 3, "c": 5}, 10)
    bench = PoolBench(make_settings(scheduling={"linger": 0.001}), ledger=ledger)
    await bench.use("a")
    await bench.use("b")
    ledger.looks, ledger.loaded = 3, 2
    await bench.use("c")
    assert ledger.looks == 0
    assert len(bench.pool.loaded) == 2
    await close(bench)


async def test_what_a_model_has_grown_by_is_given_back_when_it_goes(make_pool: MakePool) -> None:
    bench = make_pool(sizes={"a": 3, "b": 9})
    await bench.use("a")
    bench.ledger.held = {"a": {"host": 8}}  # of ten that are there it has eight now
    await bench.use("b")
    assert bench.pool.loaded == ("b",)


async def test_memory_that_others_took_is_not_waited_for(make_pool: MakePool) -> None:
    bench = make_pool()
    bench.ledger.there, bench.ledger.most = 4, 10
    with pytest.raises(InsufficientMemory, match="does not fit now") as caught:
        await soon(bench.pool.lease(bench.entry("a")))
    assert caught.value.should_retry is None
    bench.ledger.there = 10
    await bench.use("a")


async def test_what_can_never_fit_is_refused_at_once_with_the_numbers(make_pool: MakePool) -> None:
    bench = make_pool(sizes={"a": 6, "b": 80 * GIB}, there=24 * GIB)
    await bench.use("a")
    with pytest.raises(
        InsufficientMemory, match=r"'b' does not fit: it needs 80.00 GiB of host, .* 24.00 GiB"
    ) as caught:
        await soon(bench.pool.lease(bench.entry("b")))
    assert caught.value.should_retry is False
    assert bench.pool.loaded == ("a",)  # nobody went in vain
    assert bench.pool.state("b") is ModelState.STOPPED


async def test_what_a_model_has_where_it_was_not_expected_is_given_back_too(make_pool: MakePool) -> None:
    bench = make_pool(sizes={"b": 9})
    await bench.use("a")
    bench.ledger.held = {"a": {"host": 8}}
    await bench.use("b")
    assert bench.pool.loaded == ("b",)


async def test_models_without_a_process_are_counted_by_what_their_engines_measure(make_pool: MakePool) -> None:
    bench = make_pool(sizes={"a": 3, "b": 3})
    bench.plans |= {"a": {"in_process": True, "memory": {"host": 5}}, "b": {"in_process": True, "memory": {"host": 4}}}
    await bench.use("a")
    await bench.use("b")
    await bench.pool.room()
    assert bench.ledger.running == {
        "a": Admitted({"host": 3}, True, None, {"host": 5}),
        "b": Admitted({"host": 3}, True, None, {"host": 4}),
    }


async def test_models_with_a_process_are_counted_by_that(make_pool: MakePool) -> None:
    bench = make_pool(sizes={"a": 3})
    bench.plans["a"] = {"memory": {"host": 5}}
    await bench.use("a")
    await bench.pool.room()
    assert bench.ledger.running == {"a": Admitted({"host": 3}, True, 1, {})}


async def test_a_model_without_a_process_that_loads_counts_with_what_it_has_so_far(make_pool: MakePool) -> None:
    bench = make_pool(sizes={"a": 3})
    bench.plans["a"] = {"in_process": True, "memory": {"host": 1}, "hold_start": True}
    asked = bench.ask("a")
    await bench.reaches("a", ModelState.STARTING)
    await bench.pool.room()
    assert bench.ledger.running == {"a": Admitted({"host": 3}, False, None, {"host": 1})}
    bench.engines["a"][0].may_start.set()
    (await soon(asked)).release()


async def test_an_engine_that_can_not_say_what_it_takes_stops_nobody(
    make_pool: MakePool, caplog: pytest.LogCaptureFixture
) -> None:
    bench = make_pool(sizes={"a": 3, "b": 3})
    bench.plans["a"] = {"in_process": True, "measure_error": RuntimeError("its thread is gone")}
    await bench.use("a")
    await bench.use("b")
    assert "model=a can't say what it takes" in caplog.text


async def test_an_engine_that_never_says_what_it_takes_stops_nobody_and_is_left_in_peace(
    make_pool: MakePool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(life, "MEASURE_PATIENCE", 0.01)
    bench = make_pool(sizes={"a": 3, "b": 3})
    bench.plans["a"] = {"in_process": True, "hold_measure": True}
    await bench.use("a")
    for _ in range(2):
        await soon(bench.pool.room())
    await bench.use("b")
    (engine,) = bench.engines["a"]
    measures = engine.measures
    await soon(bench.pool.room())
    await soon(bench.pool.unload("a"))
    assert (engine.stopped, engine.measures) == (True, measures)
    assert caplog.text.count("model=a can't say what it takes: not within 0.01 s") == 1


@pytest.mark.parametrize("said", [{"host": "much"}, {"host": float("nan")}, None, 7])
async def test_an_engine_that_says_nonsense_of_what_it_takes_is_told_of_once(
    said: Any, make_pool: MakePool, caplog: pytest.LogCaptureFixture
) -> None:
    bench = make_pool(sizes={"a": 3, "b": 3})
    bench.plans["a"] = {"in_process": True}
    await bench.use("a")
    bench.engines["a"][0].memory = said
    for _ in range(2):
        await bench.pool.room()
    await bench.use("b")
    assert bench.ledger.running["a"] == Admitted({"host": 3}, True, None, {})
    await soon(bench.pool.unload("a"))
    assert caplog.text.count("model=a can't say what it takes") == 1


async def test_what_an_engine_says_is_taken_in_as_whole_bytes(make_pool: MakePool) -> None:
    bench = make_pool(sizes={"a": 3})
    bench.plans["a"] = {"in_process": True, "memory": {"host": 5.5, "gpu0": -1, "gpu1": 2**70}}
    await bench.use("a")
    await bench.pool.room()
    assert bench.ledger.running["a"].measured == {"host": 5, "gpu0": 0, "gpu1": 2**53 - 1}


async def test_what_stays_with_the_service_is_needed_and_not_held(make_pool: MakePool) -> None:
    bench = make_pool(sizes={"a": 9, "b": 4}, there=10)
    bench.ledger.lasting["a"] = {"host": 4}  # libraries, once
    bench.plans["a"] = {"in_process": True}
    await bench.use("a")
    bench.ledger.there = 9  # what is left beside them
    await bench.use("b")
    assert set(bench.pool.loaded) == {"a", "b"}
    assert bench.ledger.running["a"].memory == {"host": 5}


async def test_what_stays_with_the_service_has_to_be_there_for_the_load(make_pool: MakePool) -> None:
    bench = make_pool(sizes={"a": 11}, there=10)
    bench.ledger.lasting["a"] = {"host": 4}
    with pytest.raises(InsufficientMemory):
        await soon(bench.pool.lease(bench.entry("a")))


async def test_a_model_of_another_engine_makes_room_as_all_do(make_pool: MakePool) -> None:
    bench = make_pool(entries=entries(b={"engine": "hf"}))
    await bench.use("a")
    bench.plans["b"] = {"in_process": True}
    await bench.use("b")
    assert bench.pool.loaded == ("b",)


async def test_nobody_goes_for_one_that_can_not_run(make_pool: MakePool) -> None:
    bench = make_pool(entries=entries(b={"engine": "hf", "unavailable": "no packages for it"}), most_loaded=1)
    await bench.use("a")
    bench.plans["b"] = {"error": LoadFailed("no packages for it")}
    with pytest.raises(LoadFailed, match="no packages"):
        await soon(bench.pool.lease(bench.entry("b")))
    assert bench.pool.loaded == ("a",)


async def test_without_admission_every_load_is_tried(make_settings: MakeSettings) -> None:
    bench = PoolBench(make_settings(memory={"admission": False}), ledger=FakeLedger({"a": 99, "b": 99}, 10))
    await bench.use("a")
    await bench.use("b")
    assert set(bench.pool.loaded) == {"a", "b"}
    await close(bench)


async def test_a_ledger_that_breaks_wedges_nobody(make_pool: MakePool) -> None:
    bench = make_pool()
    bench.ledger.error = RuntimeError("the disk is gone")
    with pytest.raises(LoadFailed, match="a fault of its own"):
        await soon(bench.pool.lease(bench.entry("a")))
    bench.ledger.error = None
    await bench.use("a")


async def test_what_a_life_took_is_learnt(make_pool: MakePool) -> None:
    bench = make_pool()
    bench.plans["a"] = {"memory": {"host": 5}}
    await bench.use("a")
    await soon(bench.pool.unload("a"))
    assert bench.ledger.learnt == [("a", {"host": 5}, True)]


# who may go


async def test_a_model_in_use_is_not_evicted_before_its_drain(make_pool: MakePool) -> None:
    bench = make_pool()
    lease = await soon(bench.pool.lease(bench.entry("a")))
    asked = bench.ask("b")
    await until(lambda: bench.pool.status("a").yielding)
    assert bench.pool.state("a") is ModelState.READY
    assert bench.engines["a"][0].stops == 0
    lease.release()
    with await soon(asked):
        assert bench.engines["a"][0].stopped


async def test_a_model_that_yields_admits_nobody_until_the_others_had_their_turn(make_pool: MakePool) -> None:
    bench = make_pool()
    lease = await soon(bench.pool.lease(bench.entry("a")))
    asked = bench.ask("b")
    await until(lambda: bench.pool.status("a").yielding)
    late = bench.ask("a")
    await turn()
    assert not late.done()
    lease.release()
    (await soon(asked)).release()
    (await soon(late)).release()
    assert bench.started == ["a", "b", "a"]


async def test_who_gives_up_waiting_lets_the_others_go_on(make_pool: MakePool) -> None:
    bench = make_pool()
    lease = await soon(bench.pool.lease(bench.entry("a")))
    asked = bench.ask("b")
    await until(lambda: bench.pool.status("a").yielding)
    late = bench.ask("a")
    asked.cancel()
    (await soon(late)).release()
    assert not bench.pool.status("a").yielding
    lease.release()
    assert bench.started == ["a"]


async def test_a_pinned_model_stays(make_pool: MakePool) -> None:
    bench = make_pool(entries=entries(a={"pinned": True}))
    await bench.use("a")
    with pytest.raises(InsufficientMemory, match=r"'b' does not fit: .*; pinned beside it: 'a'") as caught:
        await soon(bench.pool.lease(bench.entry("b")))
    assert caught.value.should_retry is None  # somebody may unload it
    assert bench.pool.loaded == ("a",)


async def broken_while_pinned(make_pool: MakePool, monkeypatch: pytest.MonkeyPatch, back_off: float) -> PoolBench:
    """A pinned model `a` that has just failed, and is tried again after that many seconds."""
    monkeypatch.setattr("manager.backoff.FIRST", back_off)
    bench = make_pool(entries=entries(a={"pinned": True}))
    await bench.use("a")
    bench.engines["a"][0].exit()
    await bench.reaches("a", ModelState.FAILED)
    return bench


async def test_a_pinned_model_that_broke_comes_back_by_itself(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = await broken_while_pinned(make_pool, monkeypatch, 0.01)
    await bench.reaches("a", ModelState.READY)
    assert bench.started == ["a", "a"]


async def test_the_policy_of_the_settings_decides_who_goes(make_pool: MakePool) -> None:
    for policy, gone in (("lru", "a"), ("gdsf", "b")):
        bench = make_pool(sizes={"a": 2, "b": 4, "c": 5}, policy=policy)
        for _ in range(500):  # used often and small: worth keeping, but used before the other
            await bench.use("a")
        await bench.use("b")
        await asyncio.sleep(0.01)
        await bench.use("c")
        assert gone not in bench.pool.loaded
        assert bench.pool.status(gone).evictions == 1


# the line


async def test_parallel_first_requests_start_one_engine_each(make_pool: MakePool) -> None:
    bench = make_pool(sizes={"a": 5, "b": 5})
    for lease in await soon(asyncio.gather(*(bench.ask(name) for name in "abababab"))):
        lease.release()
    assert sorted(bench.started) == ["a", "b"]


async def test_two_who_wait_for_one_place_both_get_it(make_pool: MakePool) -> None:
    bench = make_pool()
    lease = await soon(bench.pool.lease(bench.entry("a")))
    asked = [bench.ask("b"), bench.ask("c")]
    await until(lambda: bench.pool.status("a").yielding)
    lease.release()
    for task, name in zip(asked, "bc", strict=True):
        lease = await soon(task)
        assert lease.entry.name == name
        lease.release()
    assert bench.started == ["a", "b", "c"]


async def test_a_model_that_was_just_loaded_serves_who_waited_before_it_goes(make_pool: MakePool) -> None:
    bench = make_pool()
    bench.plans["a"] = {"hold_start": True}
    first = bench.ask("a")
    await bench.reaches("a", ModelState.STARTING)
    second = bench.ask("b")
    await turn()
    bench.engines["a"][0].may_start.set()
    (await soon(first)).release()
    (await soon(second)).release()
    assert bench.started == ["a", "b"]


async def test_first_come_first_served(make_pool: MakePool) -> None:
    bench = make_pool()
    lease = await soon(bench.pool.lease(bench.entry("a")))
    asked = [bench.ask("c"), bench.ask("b")]
    await until(lambda: bench.pool.status("a").yielding)
    lease.release()
    for task in asked:
        (await soon(task)).release()
    assert bench.started == ["a", "c", "b"]


async def test_a_key_with_priority_counts_as_having_come_earlier(make_pool: MakePool) -> None:
    bench = make_pool()
    lease = await soon(bench.pool.lease(bench.entry("a")))
    asked = [bench.ask("c"), bench.ask("b", priority=1)]
    await until(lambda: bench.pool.status("a").yielding)
    lease.release()
    for task in reversed(asked):
        (await soon(task)).release()
    assert bench.started == ["a", "b", "c"]


async def chatter(bench: PoolBench, name: str, until_: float, waits: list[float]) -> int:
    """One client that asks again as soon as it has its answer; returns how many it got."""
    answers = 0
    while time.monotonic() < until_:
        asked = time.monotonic()
        with await soon(bench.pool.lease(bench.entry(name))):
            waits.append(time.monotonic() - asked)
            await asyncio.sleep(0.001)  # the answer
            answers += 1
    return answers


async def test_two_models_asked_for_in_turn_are_not_swapped_for_every_request(make_pool: MakePool) -> None:
    bench = make_pool(batch_window=0.2, linger=0.02)
    end = time.monotonic() + 1.5
    answers = await soon(asyncio.gather(*(chatter(bench, name, end, []) for name in "ab")))
    assert min(answers) > 50
    assert len(bench.started) < 20  # 1.5 s of turns of 0.2 s, and some air


async def test_a_cold_model_beside_a_hot_one_waits_no_longer_than_a_turn(make_pool: MakePool) -> None:
    bench = make_pool(batch_window=0.2, linger=0.02)
    end = time.monotonic() + 1.5
    hot: list[float] = []
    cold: list[float] = []
    eager = [chatter(bench, "a", end, hot) for _ in range(8)]

    async def now_and_then() -> None:
        while time.monotonic() < end:
            await asyncio.sleep(0.1)
            asked = time.monotonic()
            with await soon(bench.pool.lease(bench.entry("b"))):
                cold.append(time.monotonic() - asked)

    await soon(asyncio.gather(now_and_then(), *eager))
    assert len(cold) >= 3
    assert max(cold) < 0.2 + 0.5  # a turn, and what a busy machine adds
    assert max(hot) < 0.2 + 0.5
    assert len(hot) > 500


async def test_waiting_has_an_end(make_settings: MakeSettings) -> None:
    settings = make_settings(limits={"wait_timeout": 0.05}, scheduling={"batch_window": 0.01, "linger": 0.001})
    bench = PoolBench(settings, ledger=FakeLedger(dict.fromkeys("abc", 6), 10))
    with await soon(bench.pool.lease(bench.entry("a"))) as held:
        with pytest.raises(LoadTimeout):
            await soon(bench.pool.lease(bench.entry("b")))
        await until(lambda: not bench.pool.status("a").yielding)
        assert held.engine is bench.engines["a"][0]
    await close(bench)


async def test_a_removed_model_is_waited_for_no_longer(make_pool: MakePool) -> None:
    bench = make_pool()
    with await soon(bench.pool.lease(bench.entry("a"))):
        asked = bench.ask("b")
        await until(lambda: bench.pool.status("b").waiting)
        bench.pool.replace_catalog(Catalog([ENTRIES[0]]))
        with pytest.raises(ModelNotFound):
            await soon(asked)


async def test_shutdown_ends_waiting(make_pool: MakePool) -> None:
    bench = make_pool()
    with await soon(bench.pool.lease(bench.entry("a"))):
        asked = bench.ask("b")
        await turn()
        await soon(bench.pool.close())
        with pytest.raises(Exception, match="shutting down"):
            await soon(asked)


# limits, groups


async def test_at_most_so_many_models_are_loaded(make_pool: MakePool) -> None:
    bench = make_pool(there=None, most_loaded=2)
    for name in "abc":
        await bench.use(name)
    assert len(bench.pool.loaded) == 2
    assert "c" in bench.pool.loaded


async def test_models_of_a_group_exclude_each_other(make_pool: MakePool) -> None:
    bench = make_pool(there=None, groups={"chat": {"models": ["a", "b"], "most": 1}})
    for name in "cab":
        await bench.use(name)
    assert set(bench.pool.loaded) == {"b", "c"}


async def test_an_exclusive_group_runs_with_nobody_else(make_pool: MakePool) -> None:
    bench = make_pool(there=None, groups={"big": {"models": ["a", "b"], "exclusive": True}})
    for name in "ab":
        await bench.use(name)
    assert set(bench.pool.loaded) == {"a", "b"}
    await bench.use("c")
    assert bench.pool.loaded == ("c",)
    await bench.use("a")
    assert bench.pool.loaded == ("a",)


async def test_preload_evicts_nobody(make_pool: MakePool) -> None:
    bench = make_pool(entries=entries(a={"preload": True}, b={"preload": True}))
    bench.pool.preload()
    await bench.reaches("a", ModelState.READY)
    await until(lambda: not bench.pool.status("b").waiting)
    await turn()
    assert bench.pool.loaded == ("a",)


async def test_the_outlook_tells_before_anything_happens(make_pool: MakePool) -> None:
    bench = make_pool(sizes={"a": 6, "b": 6, "c": 99})
    assert (await soon(bench.pool.outlook("a"))).victims == ()
    await bench.use("a")
    await asyncio.sleep(0.01)
    assert (await soon(bench.pool.outlook("b"))).victims == ("a",)
    assert (await soon(bench.pool.outlook("c"))).victims is None
    assert bench.pool.loaded == ("a",)


# places of one model


async def test_no_more_than_its_concurrency_get_in(make_pool: MakePool) -> None:
    bench = make_pool(entries=entries(a={"concurrency": 2}))
    held = [await soon(bench.pool.lease(bench.entry("a"))) for _ in range(2)]
    third = bench.ask("a")
    await turn()
    assert not third.done()
    assert bench.pool.status("a").waiting == 1
    held[0].release()
    (await soon(third)).release()
    held[1].release()


async def test_places_are_given_in_order_and_priority_breaks_ties(make_pool: MakePool) -> None:
    bench = make_pool(entries=entries(a={"concurrency": 1}))
    lease = await soon(bench.pool.lease(bench.entry("a")))
    order: list[str] = []

    async def ask(who: str, priority: int) -> None:
        with await bench.pool.lease(bench.entry("a"), priority):
            order.append(who)

    tasks = []
    for who, priority in (("first", 0), ("second", 0), ("important", 5), ("unimportant", -5)):
        tasks.append(asyncio.create_task(ask(who, priority)))
        await turn()
    lease.release()
    await soon(asyncio.gather(*tasks))
    assert order == ["important", "first", "second", "unimportant"]


async def test_who_exceeds_the_queue_is_told_when_to_come_back(make_pool: MakePool) -> None:
    bench = make_pool(entries=entries(a={"concurrency": 1, "queue": 1}))
    lease = await soon(bench.pool.lease(bench.entry("a")))
    waiting = bench.ask("a")
    await turn()
    with pytest.raises(Exception, match="1 requests wait for the model 'a' already") as caught:
        await soon(bench.pool.lease(bench.entry("a")))
    assert (caught.value.code, caught.value.status, caught.value.retry_after) == ("queue_full", 429, 1)  # type: ignore[attr-defined]
    lease.release()
    (await soon(waiting)).release()


async def test_one_that_leaves_in_the_moment_of_its_turn_loses_no_place(make_pool: MakePool) -> None:
    bench = make_pool(entries=entries(a={"concurrency": 1}))
    lease = await soon(bench.pool.lease(bench.entry("a")))
    waiting = [bench.ask("a") for _ in range(3)]
    await turn()
    lease.release()  # the first of them has its lease now, and has not run since
    waiting[0].cancel()
    second: Lease = await soon(waiting[1])
    assert bench.pool.status("a").in_flight == 1
    second.release()
    (await soon(waiting[2])).release()
    assert bench.pool.status("a").in_flight == 0


# moments


async def test_a_model_that_was_told_to_stop_is_not_opened_again_by_who_gives_up(make_pool: MakePool) -> None:
    bench = make_pool()
    lease = await soon(bench.pool.lease(bench.entry("a")))
    asked = bench.ask("b")
    await until(lambda: bench.pool.status("a").yielding)
    late = bench.ask("a")
    await turn()
    unloading = asyncio.create_task(bench.pool.unload("a"))
    asked.cancel()
    await turn()
    await asyncio.sleep(0.01)  # a look of the scheduler, which finds that nobody wants the place any more
    assert not late.done()
    lease.release()
    with await soon(late) as fresh:
        assert fresh.engine is bench.engines["a"][1]
    await soon(unloading)


async def test_unloading_admits_nobody_from_its_first_moment_on(make_pool: MakePool) -> None:
    bench = make_pool()
    await bench.use("a")
    unloading = asyncio.create_task(bench.pool.unload("a"))
    await asyncio.sleep(0)
    assert bench.pool.try_lease(bench.entry("a")) is None
    await soon(unloading)


async def test_many_that_leave_at_once_harm_nobody(make_pool: MakePool) -> None:
    bench = make_pool(entries=entries(a={"concurrency": 1, "queue": 2000}))
    lease = await soon(bench.pool.lease(bench.entry("a")))
    waiting = [bench.ask("a") for _ in range(1500)]
    await turn()
    for task in waiting:
        task.cancel()
    lease.release()
    await soon(asyncio.wait(waiting))
    assert (bench.pool.status("a").waiting, bench.pool.status("a").in_flight) == (0, 0)
    await bench.use("a")
    assert bench.started == ["a"]


async def test_a_queue_of_none_refuses_nobody_while_the_model_is_on_its_way(make_pool: MakePool) -> None:
    bench = make_pool(entries=entries(a={"queue": 0}))
    lease = await soon(bench.pool.lease(bench.entry("a")))
    asked = bench.ask("b")
    await until(lambda: bench.pool.status("a").yielding)
    late = bench.ask("a")
    await turn()
    lease.release()
    (await soon(asked)).release()
    (await soon(late)).release()


# changes that count at once


async def test_a_time_to_live_that_is_new_counts_for_what_runs(make_pool: MakePool) -> None:
    bench = make_pool()
    await bench.use("a")
    await turn()
    bench.pool.replace_catalog(Catalog(entries(a={"ttl": 0.01})))
    await bench.reaches("a", ModelState.STOPPED)


async def test_a_model_that_is_pinned_no_longer_may_go(make_pool: MakePool) -> None:
    bench = make_pool(entries=entries(a={"ttl": 0.01, "pinned": True}))
    await bench.use("a")
    await turn()
    bench.pool.replace_catalog(Catalog(entries(a={"ttl": 0.01})))
    await bench.reaches("a", ModelState.STOPPED)


async def test_more_concurrency_serves_those_who_wait(make_pool: MakePool) -> None:
    bench = make_pool(entries=entries(a={"concurrency": 1}))
    with await soon(bench.pool.lease(bench.entry("a"))):
        waiting = bench.ask("a")
        await turn()
        bench.pool.replace_catalog(Catalog(entries(a={"concurrency": 2})))
        (await soon(waiting)).release()


async def test_an_edit_that_is_taken_back_restarts_nothing(make_pool: MakePool) -> None:
    bench = make_pool()
    with await soon(bench.pool.lease(bench.entry("a"))):
        bench.pool.replace_catalog(Catalog(entries(a={"engine": "other"})))
        bench.pool.replace_catalog(Catalog(ENTRIES))
    await turn()
    assert bench.pool.state("a") is ModelState.READY


async def test_a_load_behind_the_stop_of_a_removed_model_ends(make_pool: MakePool) -> None:
    bench = make_pool()
    bench.plans["a"] = {"hold_stop": True}
    await bench.use("a")
    unloading = asyncio.create_task(bench.pool.unload("a"))
    await bench.reaches("a", ModelState.STOPPING)
    loading = asyncio.create_task(bench.pool.load("a", None))
    await turn()
    bench.pool.replace_catalog(Catalog(ENTRIES[1:]))
    bench.engines["a"][0].may_stop.set()
    with pytest.raises(ModelNotFound):
        await soon(loading)
    await soon(unloading)


async def test_a_pinned_model_comes_back_also_after_an_edit_of_others(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = await broken_while_pinned(make_pool, monkeypatch, 0.05)
    bench.pool.replace_catalog(Catalog(entries(a={"pinned": True}, b={"description": "another"})))
    await bench.reaches("a", ModelState.READY)


async def test_a_pinned_model_that_was_unloaded_by_hand_stays_unloaded(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = await broken_while_pinned(make_pool, monkeypatch, 0.02)
    await soon(bench.pool.unload("a"))
    await asyncio.sleep(0.05)
    assert bench.started == ["a"]


async def test_close_does_not_wait_for_a_model_that_would_come_back(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = await broken_while_pinned(make_pool, monkeypatch, 60.0)
    await soon(bench.pool.close())
