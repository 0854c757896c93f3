from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import threading
import time
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from manager.auth import KeyStore
from manager.catalog import Catalog, load_catalog
from manager.errors import ConfigError, ShuttingDown
from manager.reload import Refusal, Reloader
from manager.settings import Settings
from tests.conftest import MakeSettings
from tests.manager.bench import soon, turn, until


class Feed:
    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def publish(self, kind: str, data: dict[str, Any], /) -> None:
        self.events.append((kind, data))


class Models:
    """A pool of nothing, which keeps the catalogs that it was given."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalogs = [catalog]
        self.removals: list[asyncio.Task[None]] = []
        self.feed = Feed()

    @property
    def catalog(self) -> Catalog:
        return self.catalogs[-1]

    def replace_catalog(self, catalog: Catalog, /) -> Collection[asyncio.Task[None]]:
        self.catalogs.append(catalog)
        return self.removals


async def make_key(path: Path, name: str) -> None:
    await asyncio.to_thread(KeyStore(path).create, name, "", ["inference"])


class House:
    """A reloader with its files."""

    def __init__(self, settings: Settings, model: Path) -> None:
        self.file = settings.storage.models_file
        self.slots = settings.storage.slots_folder
        self.file.parent.mkdir(exist_ok=True)
        self._model = model
        self.write("alpha")
        self.keys = KeyStore(settings.storage.keys_file)
        self.keys.load()
        self.key_readings: list[int] = []
        self.models = Models(load_catalog(settings))
        self.reloader = Reloader(settings, self.keys, self.models, lambda: self.key_readings.append(len(self.keys)))

    def write(self, *names: str) -> None:
        self.file.write_text(json.dumps({name: {"params": {"model": str(self._model)}} for name in names}))

    @property
    def names(self) -> tuple[str, ...]:
        return self.models.catalog.names

    @property
    def failures(self) -> list[str]:
        return [data["message"] for kind, data in self.models.feed.events if kind == "reload_failed"]


@pytest.fixture
def house(make_settings: MakeSettings, tiny_gguf: Path) -> House:
    return House(make_settings(), tiny_gguf)


class Gate:
    """A models.json that holds its reader until the test has written what is to be read: a named pipe."""

    def __init__(self, house: House) -> None:
        self.good = house.file.read_text()
        self._file = house.file
        self._pipe: int | None = None
        house.file.unlink()
        os.mkfifo(house.file)

    async def begun(self) -> None:
        """Wait until somebody reads."""
        await until(self.opens)

    def opens(self) -> bool:
        """Whether somebody reads. Linux: fifo(7), opening a pipe to write fails where nobody does."""
        try:
            self._pipe = os.open(self._file, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            return False
        return True

    def let_pass(self, text: str) -> None:
        assert self._pipe is not None
        os.write(self._pipe, text.encode())
        os.close(self._pipe)
        self._pipe = None

    def end(self) -> None:
        """Let a reader go that a test which failed has left."""
        os.close(os.open(self._file, os.O_RDWR | os.O_NONBLOCK))
        if self._pipe is not None:
            os.close(self._pipe)


@pytest.fixture
def gate(house: House) -> Iterator[Gate]:
    gate = Gate(house)
    yield gate
    gate.end()


async def test_a_new_model_counts_and_is_logged(house: House, caplog: pytest.LogCaptureFixture) -> None:
    house.write("alpha", "beta")
    with caplog.at_level(logging.INFO, "manager.reload"):
        await house.reloader.reload()
    assert house.names == ("alpha", "beta")
    assert caplog.messages == ["reloaded models=2 keys=0"]
    assert house.models.feed.events == [("reloaded", {"models": 2})]


async def test_where_nothing_changed_nothing_is_said_or_done(house: House, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "manager"):
        await house.reloader.reload()
        house.file.write_text(json.dumps(json.loads(house.file.read_text()), indent=4))
        os.utime(house.file)
        await house.reloader.reload()
    assert len(house.models.catalogs) == 1
    assert house.models.feed.events == []
    assert caplog.messages == []


async def test_a_new_default_counts(make_settings: MakeSettings, house: House) -> None:
    catalog = house.models.catalog
    house.models.catalogs.append(Catalog(catalog))
    house.models.catalog.default = "other"
    await house.reloader.reload()
    assert house.models.catalog.default == "alpha"


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('{"alpha" 1}', ", line 1, column 10: not valid JSON"),
        ('{"alpha": {"params": {"model": "m.gguf", "ctxsize": 1}}}', ": alpha.params.ctxsize: unknown key"),
        ('{"alpha": {"params": {"model": "m.gguf"}, "template": "zephir"}}', ": alpha.template: "),
    ],
)
async def test_a_mistake_is_raised_with_file_and_place_and_the_old_stays(house: House, text: str, place: str) -> None:
    house.file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        await house.reloader.reload()
    assert caught.value.message.startswith(f"{house.file}{place}")
    assert house.names == ("alpha",)
    assert house.failures == [caught.value.message]


async def test_what_was_wrong_is_known_until_it_is_mended(house: House) -> None:
    assert house.reloader.refusal == Refusal()
    good = house.file.read_text()
    refusals = []
    for text in ("[", "{"):
        house.file.write_text(text)
        await house.reloader.try_reload()
        refusals.append(house.reloader.refusal)
    told = [data for kind, data in house.models.feed.events if kind == "reload_failed"]
    assert told == [{"message": refusal.error, "at": refusal.at} for refusal in refusals]
    first, second = refusals
    assert first.error != second.error
    assert first.at is not None
    assert second.at is not None
    assert first.at <= second.at <= time.time()
    house.file.write_text(good)
    await house.reloader.reload()
    assert house.reloader.refusal == Refusal()


async def test_a_refusal_of_models_leaves_the_keys_and_one_of_keys_leaves_the_models(house: House) -> None:
    await make_key(house.keys.path, "first")
    await asyncio.to_thread(house.keys.load)
    good = house.keys.path.read_text()
    await make_key(house.keys.path, "second")
    house.file.write_text("[]")
    await house.reloader.try_reload()
    assert len(house.keys) == 1
    house.write("alpha", "beta")
    house.keys.path.write_text("{")
    await house.reloader.try_reload()
    assert len(house.models.catalogs) == 1
    assert house.key_readings == []
    assert len(house.failures) == 2
    house.keys.path.write_text(good)
    await house.reloader.reload()
    assert house.names == ("alpha", "beta")


async def test_keys_count_and_are_told_of_when_only_they_changed(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    await make_key(house.keys.path, "first")
    with caplog.at_level(logging.INFO, "manager.reload"):
        await house.reloader.reload()
    assert house.key_readings == [1]
    assert caplog.messages == ["reloaded models=1 keys=1"]
    assert len(house.models.catalogs) == 1


async def test_the_same_mistake_is_logged_once_until_it_is_mended(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    async def reload_with(text: str) -> list[str]:
        caplog.clear()
        house.file.write_text(text)
        await house.reloader.try_reload()
        return [record.levelname for record in caplog.records if record.name == "manager.reload"]

    caplog.set_level(logging.INFO, "manager.reload")
    good = house.file.read_text()
    assert await reload_with("[") == ["ERROR"]
    assert await reload_with("[") == []
    assert await reload_with("{") == ["ERROR"]
    assert await reload_with("[") == ["ERROR"]
    # What was there is what is there now: who heard of the mistake hears that it is mended.
    assert await reload_with(good) == ["INFO"]
    assert house.models.feed.events[-1] == ("reloaded", {"models": 1})
    assert await reload_with(good) == []
    assert await reload_with("[") == ["ERROR"]
    assert len(house.failures) == 5


async def test_an_unforeseen_error_is_logged_and_ends_nobody(house: House, caplog: pytest.LogCaptureFixture) -> None:
    def fail(_: Catalog) -> Collection[asyncio.Task[None]]:
        raise ZeroDivisionError

    house.models.replace_catalog = fail  # type: ignore[method-assign]
    house.write("alpha", "beta")
    await house.reloader.try_reload()
    assert "ZeroDivisionError" in caplog.text
    with pytest.raises(ZeroDivisionError):
        await house.reloader.reload()


async def test_what_was_saved_of_a_removed_model_is_forgotten(house: House) -> None:
    saved = house.slots / "beta-01234567"
    saved.mkdir(parents=True)
    await house.reloader.reload()
    assert saved.exists()  # nothing changed
    house.write("gamma")
    await house.reloader.reload()
    assert not saved.exists()


async def test_callers_that_come_while_one_reads_share_the_next_reading(house: House, gate: Gate) -> None:
    first = asyncio.create_task(house.reloader.reload())
    await gate.begun()
    others = [asyncio.create_task(house.reloader.reload()) for _ in range(20)]
    await turn()
    gate.let_pass(gate.good.replace("alpha", "beta"))
    await first
    assert house.names == ("beta",)
    await gate.begun()
    assert not any(other.done() for other in others)
    gate.let_pass(gate.good.replace("alpha", "gamma"))
    await soon(asyncio.gather(*others))
    assert house.names == ("gamma",)
    assert not gate.opens()  # there is no third reading


async def test_callers_that_come_together_share_one_reading_and_its_error(house: House, gate: Gate) -> None:
    calls = asyncio.gather(*(house.reloader.reload() for _ in range(5)), return_exceptions=True)
    await gate.begun()
    gate.let_pass("[")
    assert [isinstance(result, ConfigError) for result in await soon(calls)] == [True] * 5
    assert len(house.failures) == 1
    assert not gate.opens()


async def test_a_caller_that_leaves_ends_no_reading(house: House, gate: Gate) -> None:
    leaving = asyncio.create_task(house.reloader.reload())
    await gate.begun()
    leaving.cancel()
    await asyncio.wait({leaving})
    gate.let_pass(gate.good.replace("alpha", "beta"))
    await until(lambda: house.names == ("beta",))


async def test_nobody_hears_of_an_error_whose_callers_left_but_the_log(
    house: House, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    leaving = asyncio.create_task(house.reloader.reload())
    await gate.begun()
    leaving.cancel()
    await asyncio.wait({leaving})
    gate.let_pass("[")
    del leaving
    await until(lambda: house.failures)
    await turn()
    gc.collect()  # with which asyncio complains of a task whose error nobody looked at
    assert [record.name for record in caplog.records] == ["manager.reload"]


async def test_after_close_nothing_changes_and_callers_are_told(house: House, gate: Gate) -> None:
    calls = [asyncio.create_task(house.reloader.reload())]
    await gate.begun()
    calls += [asyncio.create_task(house.reloader.reload()) for _ in range(2)]
    await turn()
    await soon(house.reloader.close())
    calls.append(asyncio.create_task(house.reloader.reload()))
    for call in calls:
        with pytest.raises(ShuttingDown):
            await soon(call)
    await soon(house.reloader.try_reload())
    gate.let_pass(gate.good.replace("alpha", "beta"))
    assert house.names == ("alpha",)


async def test_what_a_removed_model_saves_when_it_stops_is_removed_too(house: House) -> None:
    saved = house.slots / "beta-01234567"
    may_stop = asyncio.Event()

    async def stop() -> None:
        await may_stop.wait()
        saved.mkdir(parents=True)

    house.write("alpha", "beta")
    await soon(house.reloader.reload())
    house.models.removals = [asyncio.create_task(stop())]
    house.write("alpha")
    await soon(house.reloader.reload())
    may_stop.set()
    await soon(asyncio.wait(house.models.removals))
    await until(lambda: not saved.exists())
    await house.reloader.close()


async def test_only_one_work_at_a_time_is_done_with_the_files(house: House) -> None:
    begun: list[str] = []
    go_on = threading.Event()

    def work(name: str) -> str:
        begun.append(name)
        go_on.wait(10)
        return name

    first, gone, second = (asyncio.create_task(house.reloader.alone(partial(work, name))) for name in "abc")
    await until(lambda: begun == ["a"])
    first.cancel()
    gone.cancel()
    await asyncio.wait({first, gone})
    change = asyncio.create_task(house.reloader.reload_after(partial(work, "d")))
    await turn()
    assert begun == ["a"]
    go_on.set()
    assert [await soon(second), await soon(change)] == ["c", "d"]
    assert begun == ["a", "c", "d"]


async def test_after_the_end_nothing_is_done_with_the_files(house: House) -> None:
    held = threading.Event()
    doing = asyncio.create_task(house.reloader.alone(lambda: held.wait(10)))
    await turn()
    waiting = asyncio.create_task(house.reloader.alone(held.set))
    await turn()
    await house.reloader.close()
    for task in (doing, waiting):
        with pytest.raises(ShuttingDown):
            await soon(task)
    assert not held.is_set()
    held.set()
