"""The model that comes back when nothing else is in use."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any, Protocol

import pytest

from manager import home
from manager.catalog import Catalog
from manager.errors import LoadFailed
from manager.home import return_home
from manager.state import ModelState
from tests.conftest import MakeSettings
from tests.manager.bench import ENTRIES, PoolBench, soon, until

AFTER = 0.05
A, B, C = ENTRIES


class HomeBench(PoolBench):
    """A pool whose home is asked for, and how often it was asked whether all is quiet."""

    looks = 0

    def begin(self, name: str) -> None:
        quiet_since = self.pool.quiet_since

        def look() -> float | None:
            self.looks += 1
            return quiet_since()

        self.pool.quiet_since = look  # type: ignore[method-assign]  # counted, else it is the same
        self.home = asyncio.create_task(return_home(self.pool, name, AFTER))

    async def looked(self, times: int) -> None:
        """So often from now on."""
        most = self.looks + times
        await until(lambda: self.looks >= most)


class MakeBench(Protocol):
    def __call__(self, name: str = "b", catalog: Catalog | None = None, **scheduling: Any) -> HomeBench: ...


@pytest.fixture
async def make_bench(make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[MakeBench]:
    """Pools with a home, which look every few milliseconds."""
    monkeypatch.setattr(home, "LOOK_EVERY", 0.005)
    async with AsyncExitStack() as stack:

        def make(name: str = "b", catalog: Catalog | None = None, **scheduling: Any) -> HomeBench:
            times = {"batch_window": 0.01, "linger": 0.001, **scheduling}
            bench = HomeBench(make_settings(scheduling=times), catalog)
            bench.begin(name)
            stack.push_async_callback(close, bench)
            return bench

        yield make


async def close(bench: HomeBench) -> None:
    bench.home.cancel()
    await asyncio.wait({bench.home})
    assert bench.home.cancelled(), "it ends only when it is told to"
    await soon(bench.pool.close())


async def test_it_is_loaded_where_nobody_asks_for_anything(make_bench: MakeBench) -> None:
    began = time.time()
    bench = make_bench()
    await bench.reaches("b", ModelState.READY)
    assert time.time() - began >= AFTER
    assert bench.started == ["b"]


async def test_it_may_be_named_by_an_alias(make_bench: MakeBench) -> None:
    bench = make_bench("b-alias")
    await bench.reaches("b", ModelState.READY)


async def test_it_stays_away_as_long_as_another_model_is_in_use(make_bench: MakeBench) -> None:
    bench = make_bench()
    with await soon(bench.pool.lease(A)):
        await bench.looked(20)
        assert bench.started == ["a"]
        ended = time.time()
    await bench.reaches("b", ModelState.READY)
    assert time.time() - ended >= AFTER


async def test_it_stays_away_as_long_as_another_model_loads(make_bench: MakeBench) -> None:
    bench = make_bench()
    bench.plans["a"] = {"hold_start": True}
    asked = bench.ask("a")
    await until(lambda: bench.started)
    await bench.looked(20)
    assert bench.started == ["a"]
    bench.engines["a"][0].may_start.set()
    (await soon(asked)).release()
    await bench.reaches("b", ModelState.READY)


async def test_others_go_for_it_where_there_is_one_place(make_bench: MakeBench) -> None:
    bench = make_bench(most_loaded=1)
    await bench.use("a")
    await bench.reaches("b", ModelState.READY)
    assert bench.pool.state("a") is ModelState.STOPPED
    assert bench.pool.status("a").evictions == 1


async def test_it_comes_back_each_time_that_it_had_to_go(make_bench: MakeBench) -> None:
    bench = make_bench(most_loaded=1)
    for _ in range(3):
        await bench.use("a")
        await bench.reaches("b", ModelState.READY)
    assert bench.started == ["a", "b"] * 3


async def test_it_is_loaded_again_after_somebody_unloaded_it(make_bench: MakeBench) -> None:
    bench = make_bench()
    await bench.reaches("b", ModelState.READY)
    unloaded = time.time()
    await soon(bench.pool.unload("b"))
    await bench.reaches("b", ModelState.READY)
    assert time.time() - unloaded >= AFTER
    assert bench.started == ["b", "b"]


async def test_it_is_left_alone_once_it_is_loaded(make_bench: MakeBench) -> None:
    bench = make_bench()
    await bench.reaches("b", ModelState.READY)
    await bench.looked(3)
    assert bench.started == ["b"]
    assert bench.pool.status("b").in_flight == 0


async def test_it_is_nobodys_active_model(make_bench: MakeBench) -> None:
    bench = make_bench()
    await bench.reaches("b", ModelState.READY)
    assert bench.pool.active is None


async def test_it_makes_no_room_where_it_can_not_be_had(
    make_bench: MakeBench, caplog: pytest.LogCaptureFixture
) -> None:
    bench = make_bench(catalog=Catalog((replace(A, pinned=True), B, C)), most_loaded=1)
    await bench.use("a")
    await until(lambda: refusals(caplog) >= 2)  # and it goes on trying
    assert bench.started == ["a"]
    assert bench.pool.state("a") is ModelState.READY


def refusals(caplog: pytest.LogCaptureFixture) -> int:
    return sum("not loaded beforehand" in message for message in caplog.messages)


async def test_a_load_that_fails_is_not_the_end(make_bench: MakeBench) -> None:
    bench = make_bench()
    bench.plans["b"] = {"error": LoadFailed("it fell over")}
    await bench.reaches("b", ModelState.FAILED)
    await bench.looked(2)
    await soon(bench.pool.unload("b"))
    await bench.reaches("b", ModelState.READY)


async def test_a_name_that_is_no_models_is_said_and_may_become_one(
    make_bench: MakeBench, caplog: pytest.LogCaptureFixture
) -> None:
    bench = make_bench(catalog=Catalog((A,)))
    said: Callable[[], bool] = lambda: any("scheduling.home" in message for message in caplog.messages)  # noqa: E731
    await until(said)
    bench.pool.replace_catalog(Catalog((A, B)))
    await bench.reaches("b", ModelState.READY)
