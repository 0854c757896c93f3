"""What ModelPool promises: which model is active, what a new catalog changes, the feed, and its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from manager.catalog import Catalog
from manager.errors import GenerationFailed, LoadAborted, LoadFailed, ModelNotFound, ShuttingDown
from manager.pool import ERRORS_KEPT
from manager.state import ModelState
from manager.summary import ServiceStatus
from manager.variants import Profile, RequestFilter
from tests.conftest import MakeSettings
from tests.manager.bench import ENTRIES, PoolBench, is_running, lines_of, make_entry, soon, turn, until
from tests.manager.conftest import LlamaFakes


@pytest.fixture
async def bench(make_settings: MakeSettings) -> AsyncIterator[PoolBench]:
    bench = PoolBench(make_settings(limits={"wait_timeout": 5.0}))
    yield bench
    await soon(bench.pool.close())


async def statuses(bench: PoolBench, count: int, work: Any) -> list[ServiceStatus]:
    """The first events of the feed while the work is done."""
    with bench.pool.bus.subscribe() as feed:
        task = asyncio.create_task(work)
        found = [await soon(feed.next()) for _ in range(count)]
        await soon(asyncio.wait({task}))
        task.result()
    return [status for status in found if status is not None]


# which model is active


async def test_nothing_is_loaded_at_first(bench: PoolBench) -> None:
    assert (bench.pool.active, bench.pool.loaded) == (None, ())
    assert bench.pool.default == "a"
    assert bench.pool.state("a") is ModelState.STOPPED
    assert bench.pool.service_status() == ServiceStatus("idle", "No model is loaded.", ())


async def test_default_is_the_configured_one_until_another_is_active(make_settings: MakeSettings) -> None:
    bench = PoolBench(make_settings(), Catalog(ENTRIES, "b"))
    assert bench.pool.default == "b"
    await soon(bench.pool.load("c", None))
    assert bench.pool.default == "c"
    await soon(bench.pool.unload(None))
    assert bench.pool.default == "b"
    await soon(bench.pool.close())


async def test_model_loaded_last_is_active(bench: PoolBench) -> None:
    for name in ("a", "b", "a-alias"):
        await soon(bench.pool.load(name, None))
    assert bench.pool.active == "a"
    assert set(bench.pool.loaded) == {"a", "b"}


async def test_unload_without_a_name_takes_the_active_one_and_the_one_before_is_active_again(bench: PoolBench) -> None:
    await soon(bench.pool.load("a", None))
    await soon(bench.pool.load("b", None))
    assert await soon(bench.pool.unload(None)) == "b"
    assert (bench.pool.active, bench.pool.loaded) == ("a", ("a",))
    assert await soon(bench.pool.unload(None)) == "a"
    assert await soon(bench.pool.unload(None)) is None


async def test_unload_by_alias_says_the_name(bench: PoolBench) -> None:
    await soon(bench.pool.load("a", None))
    assert await soon(bench.pool.unload("a-alias")) == "a"
    assert bench.pool.loaded == ()


async def test_unload_of_a_model_that_was_never_loaded_says_its_name(bench: PoolBench) -> None:
    assert await soon(bench.pool.unload("b")) == "b"
    with pytest.raises(ModelNotFound):
        await bench.pool.unload("bb")


async def test_draining_model_is_not_active_any_more(bench: PoolBench) -> None:
    await soon(bench.pool.load("b", None))
    with await soon(bench.pool.lease(bench.entry("b"))):
        unloading = asyncio.create_task(bench.pool.unload("b"))
        await bench.reaches("b", ModelState.DRAINING)
        assert bench.pool.active is None
        assert bench.pool.default == "a"
        assert bench.pool.loaded == ("b",)
    await soon(unloading)


async def test_lease_activates_nothing(bench: PoolBench) -> None:
    (await soon(bench.pool.lease(bench.entry("b")))).release()
    assert (bench.pool.active, bench.pool.default) == (None, "a")
    await soon(bench.pool.load("c", None))
    (await soon(bench.pool.lease(bench.entry("a")))).release()
    assert (bench.pool.active, bench.pool.default) == ("c", "c")


async def test_unload_without_a_name_takes_what_requests_have_loaded_newest_first(bench: PoolBench) -> None:
    for name in ("b", "c", "a"):
        (await soon(bench.pool.lease(bench.entry(name)))).release()
    await soon(bench.pool.load("b", None))
    assert [await soon(bench.pool.unload(None)) for _ in range(4)] == ["b", "a", "c", None]
    assert bench.pool.loaded == ()
    assert bench.pool.default == "a"


async def test_caller_who_leaves_loses_the_load_but_not_its_wish(make_settings: MakeSettings) -> None:
    entries = [make_entry(Path(f"/{name}.gguf"), name, personalities={"pirate": "Arr."}) for name in ("a", "b")]
    bench = PoolBench(make_settings(), Catalog(entries))
    bench.plans["b"] = {"hold_start": True}
    loading = asyncio.create_task(bench.pool.load("b", "pirate"))
    await bench.reaches("b", ModelState.STARTING)
    loading.cancel()
    await asyncio.wait({loading})
    assert loading.cancelled()
    bench.engines["b"][0].may_start.set()
    await bench.reaches("b", ModelState.READY)
    await turn()
    assert bench.pool.active == "b"
    with await soon(bench.pool.lease(bench.entry("b"))) as lease:
        assert lease.personality == "pirate"
    await soon(bench.pool.close())


async def test_wish_of_a_caller_who_left_ends_with_a_load_that_fails(bench: PoolBench) -> None:
    bench.plans["b"] = {"hold_start": True, "error": LoadFailed("no")}
    loading = asyncio.create_task(bench.pool.load("b", None))
    await bench.reaches("b", ModelState.STARTING)
    loading.cancel()
    await asyncio.wait({loading})
    bench.engines["b"][0].may_start.set()
    await bench.reaches("b", ModelState.FAILED)
    await turn()
    assert bench.pool.active is None


async def test_load_that_fails_activates_nothing(bench: PoolBench) -> None:
    bench.plans["a"] = {"error": LoadFailed("no")}
    with pytest.raises(LoadFailed):
        await soon(bench.pool.load("a", None))
    assert bench.pool.active is None


# leases


async def test_lease_without_waiting_only_where_it_is_ready(bench: PoolBench) -> None:
    entry = bench.entry("a")
    assert bench.pool.try_lease(entry) is None
    await soon(bench.pool.load("a", None))
    lease = bench.pool.try_lease(entry)
    assert lease is not None
    lease.release()


async def test_models_are_loaded_beside_each_other(bench: PoolBench) -> None:
    leases = await soon(asyncio.gather(*(bench.pool.lease(bench.entry(name)) for name in ("a", "b", "c", "a", "b"))))
    assert {name: len(engines) for name, engines in bench.engines.items()} == {"a": 1, "b": 1, "c": 1}
    for lease in leases:
        lease.release()


async def test_model_that_is_unknown_is_not_found(bench: PoolBench) -> None:
    with pytest.raises(ModelNotFound):
        await bench.pool.load("d", None)
    with pytest.raises(ModelNotFound):
        bench.pool.find("d")


async def test_personality_is_that_of_the_load(make_settings: MakeSettings) -> None:
    entry = make_entry(Path("/a.gguf"), "a", personalities={"pirate": "Arr.", "poet": "O."})
    bench = PoolBench(make_settings(), Catalog([entry]))
    for name, given, expected in (("a", None, None), ("a:pirate", None, "pirate"), ("a", "poet", "poet")):
        await soon(bench.pool.load(name, given))
        with await soon(bench.pool.lease(entry)) as lease:
            assert lease.personality == expected
    with pytest.raises(ModelNotFound):
        await bench.pool.load("a", "cook")
    assert len(bench.engines["a"]) == 1
    await soon(bench.pool.unload(None))
    with await soon(bench.pool.lease(entry)) as lease:
        assert lease.personality is None
    await soon(bench.pool.close())


# the feed


async def test_feed_tells_load_and_unload(bench: PoolBench) -> None:
    assert [(s.status, s.models) for s in await statuses(bench, 2, bench.pool.load("a", None))] == [
        ("loading", ()),
        ("ready", ("a",)),
    ]
    assert [(s.status, s.models) for s in await statuses(bench, 3, bench.pool.unload("a"))] == [
        ("unloading", ("a",)),
        ("unloading", ()),
        ("idle", ()),
    ]


async def test_service_is_ready_while_another_model_stays(bench: PoolBench) -> None:
    await soon(bench.pool.load("a", None))
    await soon(bench.pool.load("b", None))
    assert (await statuses(bench, 3, bench.pool.unload("b")))[-1].status == "ready"
    assert bench.pool.service_status().status == "ready"


async def test_what_is_under_way_counts_before_what_is_there(bench: PoolBench) -> None:
    bench.plans["b"] = {"hold_start": True}
    await soon(bench.pool.load("a", None))
    loading = asyncio.create_task(bench.pool.load("b", None))
    await bench.reaches("b", ModelState.STARTING)
    assert bench.pool.service_status() == ServiceStatus("loading", "Loading b: 0 s so far.", ("a",))
    bench.engines["b"][0].may_start.set()
    await soon(loading)
    assert bench.pool.service_status().status == "ready"


async def test_failed_load_is_told_and_kept(bench: PoolBench) -> None:
    bench.plans["a"] = {"error": LoadFailed("the tensors are odd")}
    with pytest.raises(LoadFailed):
        await soon(bench.pool.load("a", None))
    await bench.reaches("a", ModelState.FAILED)
    assert bench.pool.service_status() == ServiceStatus("error", "the tensors are odd", ())
    (record,) = bench.pool.errors
    assert (record.model, record.code, record.message) == ("a", "model_load_failed", "the tensors are odd")
    assert record.log == ("line of engine 1",)


async def test_errors_are_kept_up_to_a_number(bench: PoolBench) -> None:
    for number in range(ERRORS_KEPT + 5):
        bench.pool.record_error("a", GenerationFailed(str(number)))
    assert len(bench.pool.errors) == ERRORS_KEPT
    assert bench.pool.errors[0].as_dict() | {"time": 0} == {
        "time": 0,
        "model": "a",
        "code": "generation_failed",
        "message": "5",
        "log": (),
    }


# a new catalog


async def test_changed_entry_ends_an_idle_model_at_once(bench: PoolBench) -> None:
    (await soon(bench.pool.lease(bench.entry("a")))).release()
    new = make_entry(Path("/new.gguf"), "a")
    bench.pool.replace_catalog(Catalog([new, *ENTRIES[1:]]))
    with await soon(bench.pool.lease(bench.entry("a"))) as lease:
        assert lease.entry is new
        assert lease.engine is bench.engines["a"][1]
        assert bench.engines["a"][0].stopped


async def test_changed_entry_ends_a_model_in_use_when_it_is_idle(bench: PoolBench) -> None:
    new = make_entry(Path("/new.gguf"), "a")
    with await soon(bench.pool.lease(bench.entry("a"))):
        bench.pool.replace_catalog(Catalog([new, *ENTRIES[1:]]))
        with await soon(bench.pool.lease(bench.entry("a"))) as second:  # it goes on for everybody meanwhile
            assert second.engine is bench.engines["a"][0]
        await turn()
        assert bench.pool.state("a") is ModelState.READY
    await bench.reaches("a", ModelState.STOPPED)
    with await soon(bench.pool.lease(bench.entry("a"))) as lease:
        assert lease.entry is new


async def test_entry_that_changed_while_it_was_loading_counts_before_its_first_request_is_over(
    bench: PoolBench,
) -> None:
    bench.plans["a"] = {"hold_start": True}
    loading = asyncio.create_task(bench.pool.load("a", None))
    await bench.reaches("a", ModelState.STARTING)
    new = make_entry(Path("/new.gguf"), "a")
    bench.pool.replace_catalog(Catalog([new, *ENTRIES[1:]]))
    bench.engines["a"][0].may_start.set()
    await soon(loading)
    with await soon(bench.pool.lease(bench.entry("a"))) as lease:
        assert lease.entry is new


async def test_change_that_concerns_no_process_stops_none(bench: PoolBench) -> None:
    await soon(bench.pool.load("a", None))
    more: dict[str, Any] = {"aliases": ("z",), "description": "d", "personalities": {"p": "P"}}
    more |= {"ttl": 9.0, "pinned": True, "queue": 1, "request": RequestFilter(strip=("seed",))}
    more |= {"profiles": {"bold": Profile(RequestFilter(set={"temperature": 1.5}))}}
    new = replace(ENTRIES[0], **more)
    bench.pool.replace_catalog(Catalog([new, *ENTRIES[1:]]))
    with await soon(bench.pool.lease(bench.entry("z"))) as lease:
        assert lease.entry is new
    assert len(bench.engines["a"]) == 1


async def test_removed_model_drains_and_stops(bench: PoolBench) -> None:
    await soon(bench.pool.load("a", None))
    with await soon(bench.pool.lease(bench.entry("a"))):
        bench.pool.replace_catalog(Catalog(ENTRIES[1:]))
        assert bench.pool.active is None
        await bench.reaches("a", ModelState.DRAINING)
        assert not bench.engines["a"][0].stopped
        with pytest.raises(ModelNotFound):
            bench.pool.find("a")
    await bench.reaches("a", ModelState.STOPPED)
    assert bench.engines["a"][0].stopped


async def test_name_that_became_an_alias_of_another_model_stops(bench: PoolBench) -> None:
    await soon(bench.pool.load("a", None))
    bench.pool.replace_catalog(Catalog([make_entry(Path("/new.gguf"), "new", aliases=("a",))]))
    await bench.reaches("a", ModelState.STOPPED)
    await soon(bench.pool.load("a", None))
    assert bench.pool.loaded == ("new",)


async def test_personality_that_a_new_catalog_lacks_is_dropped(
    make_settings: MakeSettings, caplog: pytest.LogCaptureFixture
) -> None:
    entry = make_entry(Path("/a.gguf"), "a", personalities={"pirate": "Arr.", "poet": "O."})
    bench = PoolBench(make_settings(), Catalog([entry]))
    await soon(bench.pool.load("a", "pirate"))
    for personalities, expected in (({"pirate": "Ho."}, "pirate"), ({"poet": "O."}, None)):
        bench.pool.replace_catalog(Catalog([replace(entry, personalities=personalities)]))
        with await soon(bench.pool.lease(bench.entry("a"))) as lease:
            assert lease.personality == expected
    assert "model=a its personality 'pirate' is no more" in caplog.text
    await soon(bench.pool.close())


async def test_personality_that_goes_while_its_model_loads_is_dropped(make_settings: MakeSettings) -> None:
    entry = make_entry(Path("/a.gguf"), "a", personalities={"pirate": "Arr."})
    bench = PoolBench(make_settings(), Catalog([entry]))
    bench.plans["a"] = {"hold_start": True}
    loading = asyncio.create_task(bench.pool.load("a", "pirate"))
    await bench.reaches("a", ModelState.STARTING)
    bench.pool.replace_catalog(Catalog([replace(entry, personalities={})]))
    bench.engines["a"][0].may_start.set()
    await soon(loading)
    with await soon(bench.pool.lease(bench.entry("a"))) as lease:
        assert lease.personality is None
    await soon(bench.pool.close())


# the end


async def test_close_stops_every_model_and_ends_the_feed(bench: PoolBench) -> None:
    for name in ("a", "b"):
        await soon(bench.pool.load(name, None))
    with bench.pool.bus.subscribe() as feed:
        await soon(bench.pool.close())
        while await soon(feed.next()) is not None:
            pass
    assert bench.pool.loaded == ()
    assert all(engine.stopped for engines in bench.engines.values() for engine in engines)


async def test_close_stops_all_models_in_parallel(bench: PoolBench) -> None:
    for name in ("a", "b", "c"):
        await soon(bench.pool.load(name, None))
        bench.engines[name][0].may_stop.clear()
    closing = asyncio.create_task(bench.pool.close())
    await until(lambda: [engine.stops for engines in bench.engines.values() for engine in engines] == [1, 1, 1])
    for name in ("a", "b", "c"):
        bench.engines[name][0].may_stop.set()
    await soon(closing)


async def test_closed_pool_refuses_leases_and_loads(bench: PoolBench) -> None:
    await soon(bench.pool.load("a", None))
    await soon(bench.pool.close())
    assert bench.pool.try_lease(bench.entry("a")) is None
    for work in (bench.pool.lease(bench.entry("a")), bench.pool.lease(bench.entry("b")), bench.pool.load("a", None)):
        with pytest.raises(ShuttingDown):
            await soon(work)
    assert [len(engines) for engines in bench.engines.values()] == [1]


async def test_close_reaches_who_waits_for_a_load(bench: PoolBench) -> None:
    bench.plans["a"] = {"hold_start": True}
    waiting = asyncio.create_task(bench.pool.lease(bench.entry("a")))
    await bench.reaches("a", ModelState.STARTING)
    await soon(bench.pool.close())
    with pytest.raises(ShuttingDown):
        await soon(waiting)


async def test_close_tells_who_waits_for_an_explicit_load(bench: PoolBench) -> None:
    bench.plans["a"] = {"hold_start": True}
    loading = asyncio.create_task(bench.pool.load("a", None))
    await bench.reaches("a", ModelState.STARTING)
    await soon(bench.pool.close())
    with pytest.raises(ShuttingDown):
        await soon(loading)


async def test_unload_reaches_who_waits_for_a_load(bench: PoolBench) -> None:
    bench.plans["a"] = {"hold_start": True}
    loading = asyncio.create_task(bench.pool.load("a", None))
    await bench.reaches("a", ModelState.STARTING)
    await soon(bench.pool.unload("a"))
    with pytest.raises(LoadAborted):
        await soon(loading)
    assert bench.pool.active is None


async def test_closed_pool_leaves_no_process(llama: LlamaFakes, make_settings: MakeSettings) -> None:
    entries = [make_entry(llama.entry.path, name) for name in ("a", "b", "c")]
    make = llama.factory(ignore_sigterm=True, grace=0.1)
    pool = PoolBench(make_settings(), Catalog(entries), make_engine=make).pool
    leases = await soon(asyncio.gather(*(pool.lease(entry) for entry in entries)))
    assert len(lines_of(llama.starts)) == 3
    await soon(pool.close())
    assert not any(is_running(int(pid)) for pid in lines_of(llama.starts))
    for lease in leases:
        lease.release()
    assert list(llama.run_folder.path.iterdir()) == []


async def test_preload_begins_what_the_catalog_wants_loaded_and_survives_what_fails(
    make_settings: MakeSettings,
) -> None:
    wanted = [replace(entry, preload=entry.name in ("a", "b")) for entry in ENTRIES]
    bench = PoolBench(make_settings(), Catalog(wanted))
    bench.plans["b"] = {"error": LoadFailed("no such thing")}
    bench.pool.preload()
    await bench.reaches("a", ModelState.READY)
    await bench.reaches("b", ModelState.FAILED)
    assert bench.pool.state("c") is ModelState.STOPPED
    assert [record.model for record in bench.pool.errors] == ["b"]
    assert bench.pool.active is None
    await soon(bench.pool.close())
