"""The feed of /admin/events: a snapshot and what changes it, and how it is taken up again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from routes import events as route
from tests.routes.conftest import StartHerd
from tests.routes.herd import Events, Herd, said, until
from tests.routes.stage import CHAT, Fake, Stage


@dataclass(frozen=True)
class Told:
    """One event as it came."""

    id: str
    kind: str
    data: Any


class Reader:
    """A client of the feed, which keeps the models as a client would."""

    def __init__(self, events: Events) -> None:
        self.events = events
        self.models: dict[str, Any] = {}
        self.last_id = ""

    async def next(self) -> Told | None:
        """The next event; None at the end of the feed."""
        while (frame := await self.events.next()) is not None:
            if frame.startswith(b":"):
                continue
            id_, kind, data = frame.decode().splitlines()
            told = Told(id_.removeprefix("id: "), kind.removeprefix("event: "), json.loads(data.removeprefix("data: ")))
            self._take(told)
            return told
        return None

    async def until(self, kind: str, **fields: Any) -> list[Told]:
        """The events from here to the one of that kind with these fields."""
        seen: list[Told] = []
        while not seen or not (seen[-1].kind == kind and fields.items() <= seen[-1].data.items()):
            told = await self.next()
            assert told is not None, f"the feed ends after {seen}"
            seen.append(told)
        return seen

    def _take(self, told: Told) -> None:
        self.last_id = told.id
        if told.kind == "snapshot":
            self.models = {model["name"]: model for model in told.data["models"]}
        elif told.kind == "model":
            self.models.setdefault(told.data["name"], {}).update(told.data)


@asynccontextmanager
async def reading(herd: Herd, after: str | None = None, *, query: str = "") -> AsyncIterator[Reader]:
    headers = {} if after is None else {"Last-Event-ID": after}
    async with herd.open("GET", f"/admin/events{query}", headers=headers) as response:
        assert response.status == 200
        assert response.headers["Content-Type"].startswith("text/event-stream")
        yield Reader(Events(response))


def readers(herd: Herd) -> int:
    return len(herd.service.pool.feed._readers)


def lasting(models: Iterable[Any]) -> list[Any]:
    """The models without what changes between two events, and what the event "active" is for."""
    passing = {"idle_since", "unloads_at", "in_flight", "waiting", "memory", "active", "default"}
    return [{name: value for name, value in model.items() if name not in passing} for model in models]


def states(seen: list[Told], name: str = "alpha") -> list[str]:
    """The states of one model, each told once however often it came."""
    told = [one.data["state"] for one in seen if one.kind == "model" and one.data["name"] == name]
    return [state for number, state in enumerate(told) if number == 0 or told[number - 1] != state]


async def test_feed_begins_with_a_snapshot_of_everything(stage: Stage, fake: Fake, start_herd: StartHerd) -> None:
    stage.model("beta")
    herd = await start_herd()
    await herd.post("/admin/models/beta/load")
    async with reading(herd) as reader:
        first = await reader.next()
    assert first is not None
    assert first.kind == "snapshot"
    listed = (await herd.get("/admin/models")).json["models"]
    assert lasting(first.data["models"]) == lasting(listed)
    assert [model["state"] for model in listed] == ["stopped", "ready"]
    assert (first.data["active"], first.data["default"], first.data["requests"]) == ("beta", "beta", 0)
    assert (first.data["catalog"], first.data["pulls"]) == (["alpha", "beta"], [])
    assert first.data["reload"] == {"error": None, "at": None}
    assert isinstance(first.data["memory"], dict)


async def test_each_change_of_state_is_told(herd: Herd) -> None:
    async with reading(herd) as reader:
        await reader.next()
        await herd.post("/admin/models/alpha/load")
        seen = await reader.until("model", name="alpha", state="ready")
        assert states(seen) == ["starting", "ready"]
        await herd.post("/admin/models/alpha/unload")
        seen = await reader.until("model", name="alpha", state="stopped")
        assert states(seen) == ["draining", "stopping", "stopped"]


async def test_what_a_client_makes_of_the_feed_is_what_there_is(herd: Herd, fake: Fake) -> None:
    async with reading(herd) as reader:
        await reader.next()
        await herd.post("/admin/models/alpha/load")
        await reader.until("model", state="ready")
        there = (await herd.get("/admin/models")).json["models"]
        assert lasting(reader.models.values()) == lasting(there)


async def test_load_that_goes_on_is_told_each_second(herd: Herd, fake: Fake) -> None:
    fake.close_gate()
    async with reading(herd) as reader:
        await reader.next()
        loading = asyncio.create_task(herd.post("/admin/models/alpha/load"))
        for _ in range(2):
            assert states(await reader.until("model")) == ["starting"]
        fake.open_gate()
        await loading


async def test_ids_are_in_order_and_a_snapshot_has_that_of_the_last_event_before_it(herd: Herd) -> None:
    async with reading(herd) as reader:
        first = await reader.next()
        await herd.post("/admin/models/alpha/load")
        seen = await reader.until("model", state="ready")
    assert first is not None
    boots, numbers = zip(*(one.id.split("-") for one in (first, *seen)), strict=True)
    assert len(set(boots)) == 1
    assert [int(number) for number in numbers] == list(range(int(numbers[0]), int(numbers[0]) + len(numbers)))
    async with reading(herd) as reader:
        again = await reader.next()
        assert again is not None
        assert int(again.id.split("-")[1]) >= int(numbers[-1])


@pytest.mark.parametrize("in_query", [False, True])
async def test_reader_that_comes_back_gets_what_it_missed_and_nothing_twice(herd: Herd, in_query: bool) -> None:
    async with reading(herd) as reader:
        await reader.next()
        await herd.post("/admin/models/alpha/load")
        await reader.until("model", state="starting")
        left_at = reader.last_id
    await herd.post("/admin/models/alpha/unload")
    back = reading(herd, query=f"?last_event_id={left_at}") if in_query else reading(herd, left_at)
    async with back as reader:
        seen = await reader.until("model", state="stopped")
        assert states(seen)[-4:] == ["ready", "draining", "stopping", "stopped"]
        assert all(one.kind != "snapshot" for one in seen)
        numbers = [int(one.id.split("-")[1]) for one in seen]
        assert numbers == list(range(int(left_at.split("-")[1]) + 1, numbers[-1] + 1))
        await herd.post("/admin/models/alpha/load")
        later = await reader.until("model", state="starting")
        assert int(later[0].id.split("-")[1]) == numbers[-1] + 1


async def test_reader_that_takes_up_a_snapshot_gets_every_change_after_it_once(herd: Herd) -> None:
    async with reading(herd) as reader:
        await reader.next()
        left_at = reader.last_id
    await herd.post("/admin/models/alpha/load")
    async with reading(herd, left_at) as reader:
        assert states(await reader.until("model", state="ready")) == ["starting", "ready"]


async def test_reader_that_missed_nothing_gets_no_snapshot(herd: Herd) -> None:
    async with reading(herd) as reader:
        await reader.next()
        left_at = reader.last_id
    async with reading(herd, left_at) as reader:
        loading = asyncio.create_task(herd.post("/admin/models/alpha/load"))
        told = await reader.next()
        assert told is not None
        assert told.kind != "snapshot"
        await loading


@pytest.mark.parametrize("after", ["", "0", "12345678-1", "x" * 5000])
async def test_reader_with_an_id_that_is_not_known_gets_a_snapshot(herd: Herd, after: str) -> None:
    async with reading(herd, after) as reader:
        told = await reader.next()
        assert told is not None
        assert told.kind == "snapshot"


async def test_reader_that_was_away_too_long_gets_a_snapshot(herd: Herd) -> None:
    async with reading(herd) as reader:
        await reader.next()
        left_at = reader.last_id
    for number in range(1001):
        herd.service.pool.feed.publish("noise", {"n": number})
    async with reading(herd, left_at) as reader:
        told = await reader.next()
        assert told is not None
        assert told.kind == "snapshot"
        assert told.id == herd.service.pool.feed.last_id


async def test_slow_reader_gets_a_new_snapshot_and_goes_on_after_it(herd: Herd) -> None:
    feed = herd.service.pool.feed
    async with reading(herd) as reader:
        await reader.next()
        # More than the sockets hold, so that the service can't write; and more than the feed keeps.
        for number in range(200):
            feed.publish("noise", {"n": number, "text": "x" * 100_000})
        await asyncio.sleep(0)
        for number in range(200, 1400):
            feed.publish("noise", {"n": number})
        seen = await reader.until("snapshot")
        last = max(one.data["n"] for one in seen[:-1]) if seen[:-1] else 0
        assert last < 1399
        assert seen[-1].id == feed.last_id
        await herd.post("/admin/models/alpha/load")
        later = await reader.until("model", state="ready")
        assert states(later) == ["starting", "ready"]
        assert int(later[0].id.split("-")[1]) == int(seen[-1].id.split("-")[1]) + 1


async def test_failure_is_told_with_its_reason_and_its_log(herd: Herd, fake: Fake) -> None:
    fake.knobs(exit_on_start={"code": 3, "lines": ["load_model: the tensor is bent"]})
    async with reading(herd) as reader:
        await reader.next()
        await herd.chat("hello")
        seen = await reader.until("model", state="failed")
    (error,) = [one.data for one in seen if one.kind == "error"]
    assert error == (await herd.get("/chat/errors")).json["errors"][-1]
    assert (error["model"], error["code"]) == ("alpha", "model_load_failed")
    assert seen[-1].data["last_error"]["exit_code"] == 3


async def test_failure_of_a_request_is_told(herd: Herd, fake: Fake) -> None:
    fake.knobs(error_status=500)
    async with reading(herd) as reader:
        await herd.chat("hello")
        seen = await reader.until("error")
    assert (seen[-1].data["model"], seen[-1].data["code"]) == ("alpha", "generation_failed")


async def test_requests_are_told_while_somebody_listens(herd: Herd) -> None:
    feed = herd.service.pool.feed
    await herd.chat("hello")
    assert "request" not in [event.kind for event in feed._events]
    async with reading(herd) as reader:
        await reader.next()
        await herd.post(CHAT, said("hello"), headers={"X-Request-ID": "mine"})
        seen = await reader.until("request", state="ended")
    told = [one.data for one in seen if one.kind == "request"]
    assert {"id": "mine", "model": "alpha", "state": "started"}.items() <= told[0].items()
    assert {"id": "mine", "model": "alpha", "state": "ended", "status": "ok"}.items() <= told[-1].items()


async def test_eviction_is_told_with_who_it_was_for(stage: Stage, fake: Fake, start_herd: StartHerd) -> None:
    stage.model("beta")
    herd = await start_herd(scheduling={"most_loaded": 1, "linger": 0.001, "batch_window": 0.001})
    await herd.post("/admin/models/alpha/load")
    async with reading(herd) as reader:
        await reader.next()
        await herd.post("/admin/models/beta/load")
        seen = await reader.until("evicted")
        assert seen[-1].data == {"model": "alpha", "for": "beta"}
        stopped = (await reader.until("model", name="alpha", state="stopped"))[-1].data
    alpha = (await herd.get("/admin/models/alpha")).json
    assert alpha["evicted"] == stopped["evicted"]
    assert alpha["evicted"]["for"] == "beta"
    assert alpha["evicted"]["at"] <= alpha["since"]


async def test_active_model_is_told_when_it_changes(herd: Herd) -> None:
    async with reading(herd) as reader:
        await reader.next()
        await herd.post("/admin/models/alpha/load")
        assert (await reader.until("active"))[-1].data == {"active": "alpha", "default": "alpha"}
        await herd.post("/admin/models/alpha/unload")
        assert (await reader.until("active"))[-1].data == {"active": None, "default": "alpha"}


async def test_new_catalog_and_a_broken_file_are_told(stage: Stage, fake: Fake, start_herd: StartHerd) -> None:
    herd = await start_herd(storage={"watch": False})
    async with reading(herd) as reader:
        await reader.next()
        stage.model("beta")
        await herd.post("/admin/reload")
        assert (await reader.until("catalog"))[-1].data == {"models": ["alpha", "beta"], "default": "alpha"}
        stage.models_file.write_text("{")
        await herd.post("/admin/reload")
        failed = (await reader.until("reload_failed"))[-1].data
        assert "models.json" in failed["message"]
    async with reading(herd) as reader:
        snapshot = await reader.next()
    assert snapshot is not None
    assert snapshot.data["reload"] == {"error": failed["message"], "at": failed["at"]}


async def test_removed_model_is_told_when_it_is_gone(stage: Stage, fake: Fake, start_herd: StartHerd) -> None:
    stage.model("beta")
    herd = await start_herd(storage={"watch": False})
    await herd.post("/admin/models/beta/load")
    async with reading(herd) as reader:
        await reader.next()
        stage.forget("beta")
        await herd.post("/admin/reload")
        seen = await reader.until("removed", model="beta")
    assert states(seen, "beta")[-1] == "stopped"


async def test_quiet_feed_is_kept_alive(herd: Herd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(route, "HEARTBEAT", 0.01)
    async with reading(herd) as reader:
        await reader.next()
        assert await reader.events.next() == b": still here\n"


async def test_reader_that_leaves_is_forgotten(herd: Herd) -> None:
    async with reading(herd) as reader:
        await reader.next()
        assert readers(herd) == 1
    await until(lambda: readers(herd) == 0)


async def test_feed_ends_when_the_service_stops(herd: Herd) -> None:
    async with reading(herd) as reader:
        await reader.next()
        await herd.server.close()
        while (told := await reader.next()) is not None:
            assert told.kind != "snapshot"


async def test_feed_of_a_service_that_drains_is_a_snapshot_and_ends(herd: Herd) -> None:
    herd.service.pool.feed.close()
    async with reading(herd) as reader:
        told = await reader.next()
        assert told is not None
        assert told.kind == "snapshot"
        assert await reader.next() is None
