"""The way of an answer: engines that break off, clients that leave, readers that are slow."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import psutil
import pytest
from aiohttp.test_utils import make_mocked_request

from manager.auth import KeyStore
from manager.inflight import InFlight, Running
from routes.form import OPENAI
from routes.outgoing import Outgoing
from routes.relay import pump
from tests.routes.conftest import StartHerd, outside
from tests.routes.herd import Events, Herd, data_of, said, until
from tests.routes.stage import CHAT, Fake, Stage

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
    fake.knobs(slow_head=3.0)
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


def the_request(herd: Herd) -> Running:
    """The one in flight."""
    (running,) = herd.service.inflight
    return running


async def test_requests_in_flight_are_listed_with_what_they_are(fake: Fake, start_herd: StartHerd) -> None:
    herd = await start_herd(limits={"stream_heartbeat": 0.05})
    fake.close_gate(stream_gate=fake.stream_gate)
    before = time.time()
    async with herd.open("POST", CHAT, said("one two", stream=True), headers={"X-Request-ID": "mine"}) as response:
        running = the_request(herd)
        assert (running.id, running.model, running.key, running.route) == ("mine", "alpha", None, CHAT)
        assert (running.stream, running.state, running.first_byte_at) == (True, "waiting", None)
        assert before <= running.started <= time.time()
        fake.open_gate()
        events = Events(response)
        await events.token()
        assert running.state == "running"
        assert running.first_byte_at is not None
        assert running.started < running.first_byte_at <= time.time()
        assert running.sent > 0
        fake.release_streams()
        await events.rest()
    await until(lambda: len(herd.service.inflight) == 0)


async def test_requests_in_flight_name_the_id_of_their_key_and_never_the_key(
    fake: Fake, make_key: Callable[..., str], start_herd: StartHerd
) -> None:
    fake.hold_streams()
    token = make_key("k")
    herd = await start_herd()
    herd.key = token
    async with herd.stream("one two") as events:
        await events.token()
        assert the_request(herd).key == herd.service.keys.list()[0].id
        assert token not in repr([getattr(the_request(herd), name) for name in Running.__slots__])


async def test_a_cancelled_stream_ends_with_a_typed_error_and_its_slot_is_free_at_once(herd: Herd, fake: Fake) -> None:
    fake.hold_streams()
    async with herd.stream("one two") as events:
        await events.token()
        cancelled = time.time()
        assert herd.service.inflight.cancel(the_request(herd).id)
        (error,) = await events.rest()
    assert data_of(error)["error"] == {
        "message": "An administrator cancelled this request.",
        "type": "server_error",
        "param": None,
        "code": "request_cancelled",
    }
    await until(lambda: bool(fake.disconnects()))
    assert fake.disconnects()[0] - cancelled < SLOT_FREE_WITHIN
    assert (herd.in_flight, herd.service.gate.in_flight, len(herd.service.inflight)) == (0, 0, 0)
    assert (await herd.get("/chat/errors")).json == {"errors": []}


async def test_a_cancelled_whole_answer_is_a_409_that_clients_do_not_try_again(herd: Herd, fake: Fake) -> None:
    fake.hold_streams()
    request = asyncio.create_task(herd.chat("one two"))
    await until(lambda: bool(fake.requests()))
    cancelled = time.time()
    assert herd.service.inflight.cancel(the_request(herd).id)
    answer = await request
    assert (answer.status, answer.error["code"]) == (409, "request_cancelled")
    assert answer.headers["x-should-retry"] == "false"
    await until(lambda: bool(fake.disconnects()))
    assert fake.disconnects()[0] - cancelled < SLOT_FREE_WITHIN
    fake.release_streams()
    assert (await herd.chat("again")).text == "again"
    assert len(fake.starts()) == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_that_waits_for_its_model_can_be_cancelled_and_the_load_goes_on(
    herd: Herd, fake: Fake, stream: bool
) -> None:
    fake.close_gate()
    request = asyncio.create_task(herd.chat("hi", stream=stream))
    await until(lambda: bool(fake.starts()))
    assert the_request(herd).state == "waiting"
    assert herd.service.inflight.cancel(the_request(herd).id)
    answer = await request
    assert (answer.status, answer.error["code"]) == (409, "request_cancelled")
    fake.open_gate()
    assert (await herd.chat("again")).text == "again"
    assert len(fake.starts()) == 1
    assert herd.in_flight == 0


async def test_a_waiting_stream_that_was_kept_alive_is_cancelled_with_a_frame(
    fake: Fake, start_herd: StartHerd
) -> None:
    fake.close_gate()
    herd = await start_herd(limits={"stream_heartbeat": 0.01})
    async with herd.stream("hi") as events:
        assert await events.next() == b": loading alpha\n"
        assert herd.service.inflight.cancel(the_request(herd).id)
        assert code_of((await events.rest())[-1]) == "request_cancelled"


async def test_requests_of_one_id_are_kept_apart_and_cancelled_together(herd: Herd, fake: Fake) -> None:
    fake.hold_streams()
    same = {"X-Request-ID": "same"}
    asked = [asyncio.create_task(herd.post(CHAT, said("one two"), headers=same)) for _ in range(2)]
    other = asyncio.create_task(herd.chat("one two"))
    await until(lambda: len(fake.requests()) == 3)
    assert herd.service.inflight.cancel("same")
    assert [(await one).status for one in asked] == [409, 409]
    fake.release_streams()
    assert (await other).status == 200


async def test_the_connection_of_a_cancelled_request_serves_the_next_one(herd: Herd, fake: Fake) -> None:
    fake.hold_streams()
    reader, writer = await asyncio.open_connection(herd.server.host, herd.server.port)
    body = json.dumps(said("one two")).encode()
    request = b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (CHAT.encode(), len(body), body)
    try:
        writer.write(request)
        await until(lambda: bool(fake.requests()))
        herd.service.inflight.cancel(the_request(herd).id)
        assert (await reader.readuntil(b"\r\n")).split()[1] == b"409"
        await reader.readuntil(b"}}")
        fake.release_streams()
        writer.write(request)
        assert (await reader.readuntil(b"\r\n")).split()[1] == b"200"
    finally:
        writer.close()


async def test_a_cancel_after_the_answer_finds_nothing(herd: Herd) -> None:
    answer = await herd.post(CHAT, said("hi"), headers={"X-Request-ID": "mine"})
    assert answer.status == 200
    assert not herd.service.inflight.cancel("mine")


async def test_the_error_of_a_cancelled_slow_reader_does_not_come_in_the_middle_of_a_frame(
    herd: Herd, fake: Fake
) -> None:
    fake.knobs(chunks=200_000)
    await herd.post("/loadModel", {"model": "alpha"})
    child = psutil.Process(fake.starts()[0])
    reader = reading_nothing(herd, said("word", stream=True))
    try:
        await until(lambda: herd.in_flight == 1)
        await stands_still(child)
        assert herd.service.inflight.cancel(the_request(herd).id)
        await until(lambda: herd.in_flight == 0)  # though nobody reads
        text = await asyncio.to_thread(read_to_the_end, reader)
    finally:
        reader.close()
    frames = text.split(b"\n\n")
    assert frames.pop() == b""
    assert code_of(frames[-1]) == "request_cancelled"
    assert all(data_of(frame) for frame in frames)


def read_to_the_end(reader: socket.socket) -> bytes:
    """The body of a chunked answer."""
    reader.settimeout(10.0)
    data = b""
    while not data.endswith(b"\r\n0\r\n\r\n"):
        data += reader.recv(2**20)
    rest = data.partition(b"\r\n\r\n")[2]
    body = []
    while (size := int((line := rest.partition(b"\r\n")[0]), 16)) > 0:
        start = len(line) + 2
        body.append(rest[start : start + size])
        rest = rest[start + size + 2 :]
    return b"".join(body)


class Recorded(Outgoing):
    """What would be written."""

    def __init__(self) -> None:
        super().__init__(make_mocked_request("POST", CHAT), begun(), OPENAI)
        self.written: list[bytes] = []

    async def write(self, data: bytes) -> None:
        self.written.append(data)


def begun() -> Running:
    return InFlight().begin("one", "alpha", None, CHAT, True)


async def cut(stream: bytes, size: int) -> AsyncIterator[bytes]:
    for at in range(0, len(stream), size):
        yield stream[at : at + size]


@pytest.mark.parametrize("size", [1, 5, 16, 100])
@pytest.mark.parametrize("ending", [b"", b"data: it breaks o"])
async def test_frames_are_handed_on_whole_however_they_arrive(size: int, ending: bytes) -> None:
    report = b'data: {"usage":{"prompt_tokens":5,"completion_tokens":2}}\n\n'
    stream = b"data: one\n\ndata: two\n\n: note\n\n" + report + b"data: [DONE]\n\n" + ending
    out = Recorded()
    assert await pump(cut(stream, size), out) == "ok"
    assert out.running.tokens is not None, "its report is found"
    assert out.running.first_at is not None
    assert b"".join(out.written) == stream
    assert all(written.endswith(b"\n\n") for written in out.written if written != ending)


async def test_a_hang_is_told_as_what_it_is(fake: Fake, start_herd: StartHerd) -> None:
    fake.knobs(stall_stream_after=1, faulty_starts=1)
    herd = await start_herd(limits={"hang_timeout": 0.5})
    async with herd.stream("one two") as events:
        frames = await events.rest()
    assert code_of(frames[-1]) == "upstream_timeout"
    assert (await herd.chat("again")).text == "again"
    recorded = [record["code"] for record in (await herd.get("/chat/errors")).json["errors"]]
    assert recorded == ["upstream_timeout"], "once, by whoever ended the engine"


async def test_the_death_of_an_engine_is_recorded_once_with_its_reason(herd: Herd, fake: Fake) -> None:
    fake.knobs(die_mid_stream=1, faulty_starts=1)
    async with herd.stream("one two") as events:
        error = data_of((await events.rest())[-1])["error"]
    assert error["code"] == "upstream_closed"
    assert "stopped unexpectedly" in error["message"]
    await until(lambda: herd.state("alpha") == "failed")
    assert [record["code"] for record in (await herd.get("/chat/errors")).json["errors"]] == ["upstream_closed"]


async def test_outcomes_and_tokens_are_counted_by_model(herd: Herd, fake: Fake) -> None:
    fake.hold_streams()
    fake.release_streams()
    await herd.chat("one two three")
    async with herd.stream("one two", stream_options={"include_usage": True}) as events:
        await events.rest()
    async with herd.stream("one", path="/chat/completions") as events:  # its engine reports no tokens
        await events.rest()
    await herd.post("/tokenize", {"content": "a b"})
    text = (await herd.get("/metrics")).body.decode()
    assert 'llamaherd_requests_total{model="alpha",outcome="ok"} 4.0' in text
    assert 'llamaherd_generated_tokens_total{model="alpha"} 5.0' in text
    assert 'llamaherd_prompt_tokens_total{model="alpha"} 9.0' in text
    assert 'llamaherd_wait_seconds_count{model="alpha"} 4.0' in text
    assert 'llamaherd_time_to_first_token_seconds_count{model="alpha"} 2.0' in text
    assert 'llamaherd_time_per_output_token_seconds_count{model="alpha"} 1.0' in text


async def test_every_end_of_a_request_has_an_outcome(herd: Herd, fake: Fake) -> None:
    fake.hold_streams()
    async with herd.stream("one two") as events:
        await events.token()  # and leaves
    await until(lambda: not herd.service.inflight)
    request = asyncio.create_task(herd.chat("one two"))
    await until(lambda: len(fake.requests()) == 2)
    herd.service.inflight.cancel(the_request(herd).id)
    await request
    assert (await herd.chat("long " * 5000)).error["code"] == "context_length_exceeded"
    fake.knobs(error_stream_after=1)
    await herd.post("/unloadModel")
    async with herd.stream("one two") as events:
        await events.rest()
    text = (await herd.get("/metrics")).body.decode()
    outcomes = dict(re.findall(r'^llamaherd_requests_total{model="alpha",outcome="(.*)"} (.*)$', text, re.MULTILINE))
    assert outcomes == {"left": "1.0", "cancelled": "1.0", "context_length_exceeded": "1.0", "generation_failed": "1.0"}


async def test_the_priority_of_a_key_counts_for_the_requests_that_it_sends(stage: Stage, start_herd: StartHerd) -> None:
    fake = stage.model("alpha", concurrency=1)
    fake.hold_streams()
    store = KeyStore(stage.keys_file)
    low = outside(lambda: store.create("low", "", ["inference"]))[0]
    high = outside(lambda: store.create("high", "", ["inference"], priority=100))[0]
    herd = await start_herd()
    asked = [asyncio.create_task(herd.post(CHAT, said("first one"), key=low))]
    await until(lambda: bool(fake.requests()))
    for text, key in (("second one", low), ("third one", high)):
        asked.append(asyncio.create_task(herd.post(CHAT, said(text), key=key)))
        await until(lambda: len(herd.service.inflight) == len(asked))
    fake.release_streams()
    assert [answer.status for answer in await asyncio.gather(*asked)] == [200, 200, 200]
    order = [request["body"]["messages"][0]["content"] for request in fake.requests()]
    assert order == ["first one", "third one", "second one"]
