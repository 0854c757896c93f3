"""The way of an answer: engines that break off, clients that leave, readers that are slow."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from typing import Any

import psutil
import pytest

from tests.routes.conftest import StartHerd
from tests.routes.herd import Herd, data_of, said, until
from tests.routes.stage import CHAT, Fake

SLOT_FREE_WITHIN = 0.2  # seconds; the promise is "at once"


def code_of(frame: bytes) -> str:
    return str(data_of(frame)["error"]["code"])


async def test_child_killed_mid_stream_is_an_error_frame_within_a_second_and_then_a_fresh_instance(
    herd: Herd, fake: Fake
) -> None:
    fake.knobs(die_mid_stream=2, faulty_starts=1)
    began = time.monotonic()
    async with herd.stream("one two three") as events:
        frames = await events.rest()
    assert time.monotonic() - began < 1.0 + 1.0  # a start, and the second of the promise
    assert code_of(frames[-1]) == "upstream_closed"
    assert not any(b"[DONE]" in frame for frame in frames)
    assert [data_of(frame)["choices"][0]["delta"].get("content") for frame in frames[1:-1]] == ["one", " two"]
    answer = await herd.chat("again")
    assert (answer.status, answer.text) == (200, "again")
    assert len(fake.starts()) == 2


async def test_child_killed_from_outside_while_a_stream_is_silent(herd: Herd, fake: Fake) -> None:
    fake.hold_streams(faulty_starts=1)
    async with herd.stream("one two") as events:
        await events.token()
        (pid,) = fake.starts()
        killed = time.monotonic()
        psutil.Process(pid).kill()
        (error,) = await events.rest()
        assert time.monotonic() - killed < 1.0
    assert code_of(error) == "upstream_closed"
    assert (await herd.chat("again")).text == "again"


async def test_child_killed_before_a_whole_answer_is_a_502(herd: Herd, fake: Fake) -> None:
    fake.knobs(die_mid_stream=1, chunk_delay=0.1)
    answer = await herd.chat("one two")
    assert answer.status == 502
    assert (answer.error["type"], answer.error["code"]) == ("server_error", "upstream_closed")
    assert herd.in_flight == 0


async def test_request_right_after_a_childs_death_gets_a_fresh_instance(herd: Herd, fake: Fake) -> None:
    await herd.chat("hi")
    child = psutil.Process(fake.starts()[0])
    child.kill()
    while child.status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.001)  # noqa: ASYNC251  the loop stands still, so that the service can't have seen it yet
    answer = await herd.chat("again")
    assert (answer.status, answer.text) == (200, "again")
    assert len(fake.starts()) == 2


@pytest.mark.parametrize("knob", [{"cut_stream_after": 1}, {"cut_stream_after": 0}])
async def test_stream_that_the_engine_cuts_ends_with_an_error_and_without_done(
    herd: Herd, fake: Fake, knob: dict[str, Any]
) -> None:
    fake.knobs(**knob, faulty_requests=1)
    async with herd.stream("one two") as events:
        frames = await events.rest()
    assert code_of(frames[-1]) == "upstream_closed"
    assert not any(b"[DONE]" in frame for frame in frames)
    assert (await herd.chat("again")).text == "again"
    assert len(fake.starts()) == 1
    assert (await herd.get("/chat/errors")).json["errors"][-1]["code"] == "upstream_closed"


@pytest.mark.parametrize("knobs", [{"truncated_body": True}, {"bad_http": True}])
async def test_whole_answer_that_breaks_off_is_a_502_and_the_service_goes_on(
    herd: Herd, fake: Fake, knobs: dict[str, Any]
) -> None:
    fake.knobs(**knobs, faulty_requests=1)
    answer = await herd.chat("one two")
    assert answer.status == 502
    assert answer.error["code"] == "upstream_closed"
    assert (await herd.chat("again")).text == "again"
    assert len(fake.starts()) == 1


async def test_stream_that_is_no_http_is_a_502(herd: Herd, fake: Fake) -> None:
    fake.knobs(bad_http=True)
    answer = await herd.chat("hi", stream=True)
    assert (answer.status, answer.error["code"]) == (502, "upstream_closed")


async def test_error_frame_of_the_engine_comes_through_and_no_done_follows(herd: Herd, fake: Fake) -> None:
    fake.knobs(error_stream_after=1)
    async with herd.stream("one two") as events:
        frames = await events.rest()
    assert data_of(frames[-1])["error"]["message"] == "the fake failed"
    assert not any(b"[DONE]" in frame for frame in frames)


async def test_slow_head_is_waited_for(herd: Herd, fake: Fake) -> None:
    fake.knobs(slow_head=0.3)
    assert (await herd.chat("hi")).text == "hi"
    async with herd.stream("hi") as events:
        assert await events.token() == "hi"


@pytest.mark.parametrize("close", [{"close_after": 1}, {"close_after": 2, "close_silently": True}, {"drop_after": 2}])
async def test_engine_that_closes_connections_between_requests_is_not_noticed(
    herd: Herd, fake: Fake, close: dict[str, Any]
) -> None:
    fake.knobs(**close)
    for number in range(12):
        assert (await herd.chat(f"hi {number}")).text == f"hi {number}"


async def test_connections_to_the_engine_are_used_again(herd: Herd, fake: Fake) -> None:
    for _ in range(3):
        await herd.chat("hi")
        async with herd.stream("hi") as events:
            await events.rest()
    assert len({request["connection"] for request in fake.requests()}) == 1


async def test_client_that_leaves_mid_stream_frees_the_slot_at_once(herd: Herd, fake: Fake) -> None:
    fake.hold_streams()
    async with herd.stream("one two") as events:
        await events.token()
        left = time.time()
    await until(lambda: bool(fake.disconnects()) and herd.in_flight == 0)
    assert fake.disconnects()[0] - left < SLOT_FREE_WITHIN
    assert herd.service.gate.in_flight == 0
    assert (await herd.get("/chat/errors")).json == {"errors": []}


async def test_client_that_leaves_before_its_whole_answer_frees_the_slot_at_once(herd: Herd, fake: Fake) -> None:
    fake.hold_streams()
    request = asyncio.create_task(herd.chat("one two"))
    await until(lambda: bool(fake.requests()))
    left = time.time()
    request.cancel()
    await until(lambda: bool(fake.disconnects()) and herd.in_flight == 0)
    assert fake.disconnects()[0] - left < SLOT_FREE_WITHIN
    assert herd.service.gate.in_flight == 0


async def test_client_that_leaves_before_the_head_frees_the_slot_at_once(herd: Herd, fake: Fake) -> None:
    fake.knobs(slow_head=30.0)
    request = asyncio.create_task(herd.chat("one two", stream=True))
    await until(lambda: bool(fake.requests()))
    left = time.time()
    request.cancel()
    await until(lambda: bool(fake.disconnects()) and herd.in_flight == 0)
    assert fake.disconnects()[0] - left < SLOT_FREE_WITHIN


async def test_slow_reader_holds_the_engine_back_and_memory_stays_bounded(herd: Herd, fake: Fake) -> None:
    fake.knobs(chunks=200_000)  # some 40 MB as events
    await herd.post("/loadModel", {"model": "alpha"})
    child = psutil.Process(fake.starts()[0])
    own = psutil.Process()
    reader = reading_nothing(herd, said("word", stream=True))
    try:
        await until(lambda: herd.in_flight == 1)
        before = own.memory_info().rss
        await stands_still(child)
        assert herd.in_flight == 1, "the engine was not held back: it has sent everything"
        assert own.memory_info().rss - before < 16 * 1024 * 1024
        assert (await herd.get("/ping")).status == 200
    finally:
        reader.close()
    await until(lambda: bool(fake.disconnects()) and herd.in_flight == 0)


def reading_nothing(herd: Herd, body: dict[str, Any]) -> socket.socket:
    """A client that sends a request and then does not read."""
    reader = socket.socket()
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    reader.connect((herd.server.host, herd.server.port))
    data = json.dumps(body).encode()
    reader.sendall(
        b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (CHAT.encode(), len(data), data)
    )
    return reader


async def stands_still(process: psutil.Process) -> None:
    """Return when the process has done no work for a while: it waits for its reader."""
    async with asyncio.timeout(20.0):
        worked = -1.0
        while worked != (worked := sum(process.cpu_times()[:2])):  # noqa: ASYNC110  another process has no event
            await asyncio.sleep(0.1)  # the kernel counts in steps of 10 ms


async def test_stop_of_the_service_ends_a_stream_with_an_error_frame(fake: Fake, start_herd: StartHerd) -> None:
    fake.hold_streams()
    herd = await start_herd()
    async with herd.stream("one two") as events:
        await events.token()
        stopping = asyncio.create_task(herd.service.pool.close())
        (error,) = await events.rest()
        await stopping
    assert code_of(error) == "upstream_closed"


async def test_requests_while_the_service_drains_are_refused(herd: Herd, fake: Fake) -> None:
    fake.hold_streams()
    async with herd.stream("one two") as events:
        await events.token()
        herd.service.gate.close()
        for path, body in ((CHAT, said("hi")), ("/chat/completions", said("hi")), ("/tokenize", {"content": "a"})):
            answer = await herd.post(path, body)
            assert answer.status == 503
            assert answer.error["code"] == "shutting_down"
            assert answer.headers["Retry-After"] == "5"
        asked = await herd.get("/chat/ask?question=hi")
        assert (asked.status, asked.json) == (503, {"error": "The service is shutting down."})
        assert (await herd.get("/ping")).status == 200
        fake.release_streams()
        assert (await events.rest())[-1] == b"data: [DONE]\n"
