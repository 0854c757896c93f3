"""The service's own log, as administrators read it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest

from manager.auth import KeyStore
from manager.log_recent import MOST, LogLine
from routes import logs as route
from tests.routes.conftest import StartHerd, outside
from tests.routes.herd import Events, Herd, until
from tests.routes.stage import Fake, Stage

LOGS: Final = "/admin/logs"


@pytest.fixture
async def quiet(fake: Fake, start_herd: StartHerd) -> Herd:
    """A service whose log has only what a test puts there."""
    return await start_herd(server={"access_log": False})


def log(herd: Herd, *messages: str) -> None:
    """What the service would log."""
    lines = [LogLine(1.5, "INFO", "manager.x", message, "r1", "alpha") for message in messages]
    herd.service.recent_log.add(lines)


def answered(herd: Herd, count: int) -> None:
    """What the service would note of so many requests."""
    line = "2026-11-22T05:51:34.000Z ACCESS request=r2 key=- GET '/' status=200 ms=0.1\n"
    herd.service.recent_log.add([line] * count)


@asynccontextmanager
async def following(herd: Herd, query: str = "?follow=true", **more: Any) -> AsyncIterator[Events]:
    async with herd.open("GET", f"{LOGS}{query}", **more) as response:
        assert response.status == 200
        assert response.headers["Content-Type"].startswith("text/event-stream")
        yield Events(response)


async def next_line(events: Events) -> Any:
    while (frame := await events.next()) is not None:
        if not frame.startswith(b":"):
            kind, data = frame.decode().splitlines()
            assert kind == "event: log"
            return json.loads(data.removeprefix("data: "))
    return None


async def test_log_is_the_last_lines_as_text(quiet: Herd) -> None:
    assert (await quiet.get(LOGS)).body == b""
    log(quiet, "one", "two", "three\nand more")
    answer = await quiet.get(f"{LOGS}?tail=2")
    stamp = "1970-01-01T00:00:01.500Z INFO manager.x request=r1"
    assert answer.body.decode() == f"{stamp} two\n{stamp} three\n    and more\n"
    assert answer.headers["Content-Type"].startswith("text/plain")
    assert (await quiet.get(f"{LOGS}?tail=0")).body == b""
    log(quiet, *map(str, range(150)))
    lines = (await quiet.get(LOGS)).body.decode().splitlines()
    assert (len(lines), lines[-1]) == (100, f"{stamp} 149")


async def test_requests_push_nothing_else_out_and_can_be_left_out(quiet: Herd) -> None:
    log(quiet, "one")
    answered(quiet, 2 * MOST)
    log(quiet, "two")
    lines = (await quiet.get(f"{LOGS}?tail=9999")).body.decode().splitlines()
    assert len(lines) == MOST + 2
    assert [line.partition("r1 ")[2] for line in (lines[0], lines[-1])] == ["one", "two"]
    assert all(" ACCESS " in line for line in lines[1:-1])
    others = (await quiet.get(f"{LOGS}?tail=2&access=false")).body.decode().splitlines()
    assert others == [lines[0], lines[-1]]


async def test_a_follower_can_leave_requests_out(quiet: Herd) -> None:
    log(quiet, "one")
    answered(quiet, 3)
    async with following(quiet, "?follow=true&tail=1&access=false") as events:
        assert (await next_line(events))["n"] == 1
        answered(quiet, 3)
        log(quiet, "two")
        told = await next_line(events)
    assert (told["n"], told["message"]) == (8, "two")


@pytest.mark.parametrize(
    ("query", "param"),
    [("tail=x", "tail"), ("tail=-1", "tail"), ("follow=maybe", "follow"), ("access=maybe", "access")],
)
async def test_wrong_query_is_a_400(quiet: Herd, query: str, param: str) -> None:
    answer = await quiet.get(f"{LOGS}?{query}")
    assert (answer.status, answer.error["param"]) == (400, param)


async def test_requests_are_in_it_without_a_log_of_the_process(herd: Herd) -> None:
    before = time.time()
    async with following(herd, "?follow=true&tail=0") as events:
        await herd.get("/v1/models?secret=1", headers={"X-Request-ID": "mine"})
        told = await next_line(events)
    assert before - 1 < told.pop("time") < time.time() + 1
    message = told.pop("message")
    assert message.startswith("key=- GET '/v1/models' status=200 ms=")
    assert told == {"n": 1, "level": "INFO", "logger": "access", "request": "mine", "model": None}


async def test_follower_gets_the_last_lines_and_every_line_after_them(quiet: Herd) -> None:
    log(quiet, "one", "two")
    async with following(quiet, "?follow=true&tail=1") as events:
        told = {"time": 1.5, "level": "INFO", "logger": "manager.x", "request": "r1", "model": "alpha"}
        assert await next_line(events) == {"n": 2, "message": "two", **told}
        await asyncio.to_thread(log, quiet, "three", "four")
        assert [(await next_line(events))["message"] for _ in range(2)] == ["three", "four"]


async def test_who_accepts_an_event_stream_follows(quiet: Herd) -> None:
    log(quiet, "one")
    async with following(quiet, "", headers={"Accept": "text/event-stream"}) as events:
        assert (await next_line(events))["n"] == 1


async def test_numbers_show_a_slow_reader_what_it_missed(quiet: Herd) -> None:
    async with following(quiet, "?follow=true&tail=0") as events:
        await until(lambda: quiet.service.recent_log._loop is not None)
        for number in range(3 * MOST):  # with no turn of the event loop for the reader
            log(quiet, str(number))
        seen = [await next_line(events) for _ in range(MOST)]
    assert [int(line["message"]) for line in seen] == [*range(2 * MOST, 3 * MOST)]
    assert [line["n"] for line in seen] == [*range(2 * MOST + 1, 3 * MOST + 1)]


async def test_follower_that_leaves_is_forgotten(quiet: Herd) -> None:
    async with following(quiet):
        await until(lambda: quiet.service.recent_log._loop is not None)
    await until(lambda: quiet.service.recent_log._loop is None)
    assert not quiet.service.pool.bus._subscriptions


async def test_quiet_log_is_kept_alive(quiet: Herd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(route, "HEARTBEAT", 0.01)
    async with following(quiet) as events:
        assert await events.next() == b": still here\n"


async def test_log_ends_when_the_service_drains(quiet: Herd) -> None:
    async with following(quiet) as events:
        await until(lambda: quiet.service.recent_log._loop is not None)
        quiet.service.pool.end_feeds()  # as Server.drain does
        assert await events.rest() == []


async def test_log_ends_with_its_key(
    stage: Stage, fake: Fake, make_key: Callable[..., str], start_herd: StartHerd
) -> None:
    key, other = make_key("goes"), make_key("stays")
    herd = await start_herd(server={"access_log": False})
    async with following(herd, key=key) as ended, following(herd, key=other) as goes_on:
        outside(lambda: KeyStore(stage.keys_file).revoke("goes"))
        await asyncio.to_thread(herd.service.keys.load)
        log(herd, "a secret")
        assert await ended.rest() == []
        assert (await next_line(goes_on))["message"] == "a secret"


async def test_log_is_for_administrators(fake: Fake, make_key: Callable[..., str], start_herd: StartHerd) -> None:
    key = make_key("user", "inference")
    herd = await start_herd()
    assert (await herd.get(LOGS, key=key)).status == 403
    assert (await herd.get(LOGS)).status == 401
