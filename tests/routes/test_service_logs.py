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


async def next_event(events: Events) -> Any:
    """Id, kind and data of the next event; None at the end."""
    while (frame := await events.next()) is not None:
        if not frame.startswith(b":"):
            fields = dict(line.split(": ", 1) for line in frame.decode().splitlines())
            return fields["id"], fields["event"], json.loads(fields["data"])
    return None


async def next_line(events: Events) -> Any:
    while (event := await next_event(events)) is not None:
        if event[1] == "log":
            return event[2]
    return None


async def said(events: Events, last: str) -> list[str]:
    """The messages from here to this one."""
    seen: list[str] = []
    while last not in seen:
        seen.append((await next_line(events))["message"])
    return seen


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


@pytest.mark.parametrize("stream", [True, False])
async def test_the_line_of_a_request_tells_the_model_that_it_got(herd: Herd, stream: bool) -> None:
    async with following(herd, "?follow=true&tail=0") as events:
        await herd.chat("hello", stream=stream)
        told = await next_line(events)
        assert told["message"].endswith(" model=alpha")
        assert told["model"] == "alpha"


@pytest.mark.parametrize(
    ("path", "body"),
    [("/api/generate", {"model": "alpha"}), ("/upstream/alpha/tokenize", {"content": "hello"})],
)
async def test_so_does_that_of_other_requests_with_a_lease(herd: Herd, path: str, body: dict[str, Any]) -> None:
    async with following(herd, "?follow=true&tail=0") as events:
        assert (await herd.post(path, body)).status == 200
        assert (await next_line(events))["model"] == "alpha"


async def test_the_line_of_a_request_that_got_no_model_tells_none(herd: Herd, fake: Fake) -> None:
    fake.knobs(exit_on_start={"code": 3})
    async with following(herd, "?follow=true&tail=0") as events:
        assert (await herd.chat("hello")).status == 503
        assert (await next_line(events))["model"] is None


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


async def test_a_reader_that_comes_back_gets_what_it_missed_and_nothing_twice(quiet: Herd) -> None:
    log(quiet, "one", "two", "three")
    async with following(quiet, "?follow=true&tail=2") as events:
        begins, kind, told = await next_event(events)
        assert (kind, begins) == ("run", f"{told['run']}-1")
        last, _, line = await next_event(events)
        assert (last, line["message"]) == (f"{told['run']}-2", "two")
    log(quiet, "four")
    async with following(quiet, "?follow=true&tail=1", headers={"Last-Event-ID": last}) as events:
        assert await next_event(events) == (last, "run", told)
        assert await said(events, "four") == ["three", "four"]
        log(quiet, "five")
        assert await said(events, "five") == ["five"]
    async with following(quiet, f"?follow=true&last_event_id={begins}") as events:
        assert await said(events, "five") == ["two", "three", "four", "five"]


async def test_a_reader_of_before_the_start_gets_all_that_was_logged_since(quiet: Herd) -> None:
    log(quiet, "one", "two", "three")
    async with following(quiet, "?follow=true&tail=1", headers={"Last-Event-ID": "0123abcd-2"}) as events:
        assert await said(events, "three") == ["one", "two", "three"]


async def test_what_is_no_id_of_ours_counts_for_nothing(quiet: Herd) -> None:
    log(quiet, "one", "two")
    async with following(quiet, "?follow=true&tail=1", headers={"Last-Event-ID": "17"}) as events:
        assert await said(events, "two") == ["two"]


async def test_quiet_log_is_kept_alive(quiet: Herd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(route, "HEARTBEAT", 0.01)
    async with following(quiet) as events:
        assert (await next_event(events))[1] == "run"
        assert await events.next() == b": still here\n"


async def test_changes_of_models_do_not_put_off_what_keeps_it_alive(
    quiet: Herd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(route, "HEARTBEAT", 0.05)

    async def change() -> None:
        while True:
            quiet.service.pool.bus.publish(quiet.service.pool.service_status())
            await asyncio.sleep(0.001)

    async with following(quiet) as events:
        assert (await next_event(events))[1] == "run"
        changing = asyncio.create_task(change())
        try:
            assert await events.next() == b": still here\n"
        finally:
            changing.cancel()


async def test_log_ends_when_the_service_drains(quiet: Herd) -> None:
    async with following(quiet) as events:
        await until(lambda: quiet.service.recent_log._loop is not None)
        quiet.service.pool.end_feeds()  # as Server.drain does
        assert [frame.split(b"\n")[1] for frame in await events.rest()] == [b"event: run"]


async def test_log_ends_with_its_key(
    stage: Stage, fake: Fake, make_key: Callable[..., str], start_herd: StartHerd
) -> None:
    key, other = make_key("goes"), make_key("stays")
    herd = await start_herd(server={"access_log": False})
    async with following(herd, key=key) as ended, following(herd, key=other) as goes_on:
        outside(lambda: KeyStore(stage.keys_file).revoke("goes"))
        await asyncio.to_thread(herd.service.keys.load)
        log(herd, "a secret")
        assert not any(b"a secret" in frame for frame in await ended.rest())
        assert (await next_line(goes_on))["message"] == "a secret"


async def test_log_is_for_administrators(fake: Fake, make_key: Callable[..., str], start_herd: StartHerd) -> None:
    key = make_key("user", "inference")
    herd = await start_herd()
    assert (await herd.get(LOGS, key=key)).status == 403
    assert (await herd.get(LOGS)).status == 401
