"""What a model's engine writes, as admins read it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from manager.logbuf import LogBuffer
from manager.pool import ModelPool
from manager.state import ModelState, ModelStatus
from routes import logs as route
from tests.routes.conftest import StartHerd
from tests.routes.herd import Events, Herd, until
from tests.routes.stage import Fake, Stage

LOGS = "/admin/models/alpha/logs"


class Follower:
    """A client that follows a log."""

    def __init__(self, events: Events) -> None:
        self.events = events
        self.last_id = ""

    async def next(self) -> tuple[str, Any] | None:
        """Kind and data of the next event; None at the end."""
        while (frame := await self.events.next()) is not None:
            if not frame.startswith(b":"):
                fields = dict(line.split(": ", 1) for line in frame.decode().splitlines())
                self.last_id = fields["id"]
                return fields["event"], json.loads(fields["data"])
        return None

    async def until(self, text: str) -> list[tuple[str, Any]]:
        """The events from here to the line that has this text."""
        seen: list[tuple[str, Any]] = []
        while not seen or text not in seen[-1][1].get("line", ""):
            event = await self.next()
            assert event is not None, f"the log ends after {seen}"
            seen.append(event)
        return seen

    async def life(self) -> Any:
        """The beginning of the next life."""
        while (event := await self.next()) is not None:
            if event[0] == "life":
                return event[1]
        raise AssertionError("the log has ended")


@asynccontextmanager
async def following(herd: Herd, query: str = "?follow=true", **headers: str) -> AsyncIterator[Follower]:
    async with herd.open("GET", f"{LOGS}{query}", headers=headers) as response:
        assert response.status == 200
        assert response.headers["Content-Type"].startswith("text/event-stream")
        yield Follower(Events(response))


def log(herd: Herd, text: bytes) -> None:
    """What the engine of alpha would write."""
    buffer = herd.service.pool.log("alpha")
    assert buffer is not None
    buffer.feed(text)


@pytest.fixture
async def loaded(herd: Herd) -> Herd:
    assert (await herd.post("/admin/models/alpha/load")).status == 200
    return herd


async def test_log_of_a_model_that_never_ran_is_empty(herd: Herd) -> None:
    answer = await herd.get(LOGS)
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["Content-Type"].startswith("text/plain")


async def test_log_is_the_last_lines_as_text(loaded: Herd) -> None:
    log(loaded, b"one\ntwo\nthree\n")
    assert (await loaded.get(f"{LOGS}?tail=2")).body == b"two\nthree\n"
    assert (await loaded.get(f"{LOGS}?tail=0")).body == b""
    log(loaded, b"".join(b"line %d\n" % number for number in range(150)))
    lines = (await loaded.get(LOGS)).body.splitlines()
    assert (len(lines), lines[-1]) == (100, b"line 149")


async def test_log_stays_when_the_model_has_failed(herd: Herd, fake: Fake) -> None:
    fake.knobs(exit_on_start={"code": 1, "lines": ["load_model: the tensor is bent"]})
    await herd.post("/admin/models/alpha/load")
    assert b"load_model: the tensor is bent\n" in (await herd.get(LOGS)).body


@pytest.mark.parametrize(("query", "param"), [("tail=x", "tail"), ("tail=-1", "tail"), ("follow=maybe", "follow")])
async def test_wrong_query_is_a_400(herd: Herd, query: str, param: str) -> None:
    answer = await herd.get(f"{LOGS}?{query}")
    assert (answer.status, answer.error["param"]) == (400, param)


async def test_follower_gets_the_last_lines_and_every_line_after_them(loaded: Herd) -> None:
    log(loaded, b"one\ntwo\n")
    async with following(loaded, "?follow=true&tail=1") as follower:
        kind, life = await follower.next() or ("", {})
        assert (kind, life["model"]) == ("life", "alpha")
        seen = await follower.until("two")
        assert [event[1]["line"] for event in seen] == ["two"]
        first = seen[0][1]["n"]
        log(loaded, b"three\nfo")
        log(loaded, b"ur\n")
        seen = await follower.until("four")
        assert seen == [("log", {"line": "three", "n": first + 1}), ("log", {"line": "four", "n": first + 2})]


async def test_who_accepts_an_event_stream_follows(loaded: Herd) -> None:
    async with following(loaded, "", Accept="text/event-stream") as follower:
        assert (await follower.life())["pid"]
    async with loaded.open("GET", f"{LOGS}?follow=false", headers={"Accept": "text/event-stream"}) as response:
        assert response.headers["Content-Type"].startswith("text/plain")


async def test_follower_stays_over_an_unload_and_a_load(herd: Herd, fake: Fake) -> None:
    async with following(herd, "?follow=true&tail=0") as follower:
        await until(lambda: len(herd.service.pool.bus._subscriptions) == 1)
        await herd.post("/admin/models/alpha/load")
        await follower.life()
        log(herd, b"in the first\n")
        await follower.until("in the first")
        await herd.post("/admin/models/alpha/unload")
        await herd.post("/admin/models/alpha/load")
        log(herd, b"in the second\n")
        await follower.life()
        seen = await follower.until("in the second")
        assert [event[1]["n"] for event in seen] == list(range(1, len(seen) + 1))


async def test_reader_that_comes_back_gets_what_it_missed_and_nothing_twice(loaded: Herd) -> None:
    log(loaded, b"one\ntwo\nthree\n")
    async with following(loaded, "?follow=true&tail=2") as follower:
        life = await follower.life()
        seen = await follower.until("two")
        last = seen[-1][1]["n"]
        assert follower.last_id == f"{life['run']}-{last}"
    log(loaded, b"four\n")
    for query, headers in (("", {"Last-Event-ID": follower.last_id}), (f"&last_event_id={follower.last_id}", {})):
        async with following(loaded, f"?follow=true&tail=1{query}", **headers) as again:
            assert await again.next() == ("life", life)
            assert again.last_id == follower.last_id
            assert await again.until("four") == [
                ("log", {"line": "three", "n": last + 1}),
                ("log", {"line": "four", "n": last + 2}),
            ]


async def test_reader_of_another_life_gets_all_of_this_one(loaded: Herd) -> None:
    log(loaded, b"in the first\n")
    async with following(loaded) as follower:
        before = await follower.life()
        await follower.until("in the first")
    await loaded.post("/admin/models/alpha/unload")
    await loaded.post("/admin/models/alpha/load")
    log(loaded, b"in the second\n")
    async with following(loaded, "?follow=true&tail=0", **{"Last-Event-ID": follower.last_id}) as again:
        life = await again.life()
        assert life["run"] != before["run"]
        assert again.last_id == f"{life['run']}-0"
        seen = await again.until("in the second")
        assert [event[1]["n"] for event in seen] == list(range(1, len(seen) + 1))


async def test_life_that_fails_is_followed_from_its_first_line(herd: Herd, fake: Fake) -> None:
    fake.knobs(exit_on_start={"code": 1, "lines": ["first words", "load_model: the tensor is bent"]})
    async with following(herd, "?follow=true&tail=0") as follower:
        await until(lambda: len(herd.service.pool.bus._subscriptions) == 1)
        await herd.post("/admin/models/alpha/load")
        await follower.life()
        seen = [event[1] for event in await follower.until("the tensor is bent")]
        assert [line["n"] for line in seen] == list(range(1, len(seen) + 1))
        assert "first words" in seen[-2]["line"]


class OneLog:
    """A pool of one model, whose log comes when the test says so."""

    def __init__(self) -> None:
        self.buffer: LogBuffer | None = None

    def log(self, name: str) -> LogBuffer | None:
        return self.buffer

    def status(self, name: str) -> ModelStatus:
        return ModelStatus(name, ModelState.STARTING, 0.0)


def test_life_that_begins_later_is_read_from_its_first_line_however_few_were_asked_for() -> None:
    pool = OneLog()
    follower = route._Follower(cast(ModelPool, pool), "alpha", tail=0)
    assert follower.read() == b""
    pool.buffer = LogBuffer()
    pool.buffer.feed(b"before it was seen\n")
    assert b'"before it was seen","n":1' in follower.read()


async def test_flood_reaches_a_follower_whose_numbers_show_what_it_missed(loaded: Herd) -> None:
    async with following(loaded, "?follow=true&tail=0") as follower:
        await follower.life()
        for chunk in range(100):
            log(loaded, b"".join(b"%d\n" % number for number in range(chunk * 100, chunk * 100 + 100)))
        seen = [event[1] for event in await follower.until("9999")]
    assert len(seen) == 400
    assert seen[-1]["n"] - seen[0]["n"] == int(seen[-1]["line"]) - int(seen[0]["line"]) == 399


async def test_follower_that_leaves_is_forgotten(loaded: Herd) -> None:
    bus = loaded.service.pool.bus
    async with following(loaded) as follower:
        await follower.life()
        assert len(bus._subscriptions) == 1
    await until(lambda: not bus._subscriptions)
    assert not [task for task in asyncio.all_tasks() if "LogBuffer.wait" in str(task.get_coro())]


async def test_quiet_log_is_kept_alive(loaded: Herd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(route, "HEARTBEAT", 0.01)
    async with following(loaded) as follower:
        while (frame := await follower.events.next()) != b": still here\n":
            assert frame is not None


async def test_log_ends_when_the_service_stops(loaded: Herd) -> None:
    async with following(loaded) as follower:
        await follower.life()
        await loaded.server.close()
        while await follower.next() is not None:
            pass


async def test_log_of_a_removed_model_ends_when_it_is_gone(stage: Stage, fake: Fake, start_herd: StartHerd) -> None:
    stage.model("beta")
    herd = await start_herd(storage={"watch": False})
    await herd.post("/admin/models/alpha/load")
    async with following(herd) as follower:
        await follower.life()
        stage.forget("alpha")
        await herd.post("/admin/reload")
        while await follower.next() is not None:
            pass
        assert herd.state("alpha") == "stopped"
