"""Signs of life for quiet streams: when they come, and when not."""

from __future__ import annotations

import asyncio

import pytest

from routes.heartbeat import Heartbeat
from routes.outgoing import Outgoing
from tests.manager.bench import until
from tests.routes.conftest import StartHerd
from tests.routes.herd import Herd
from tests.routes.stage import CHAT, Stage


class Stream:
    """Notes its signs of life."""

    def __init__(self, sent_at: float) -> None:
        self.sent_at = sent_at
        self.beats = 0

    def beat(self) -> None:
        self.beats += 1


async def test_a_quiet_stream_gets_signs_of_life_and_a_busy_one_none() -> None:
    heartbeat, quiet, busy = Heartbeat(0.01), Stream(0.0), Stream(float("inf"))
    heartbeat.add(quiet)
    heartbeat.add(busy)
    await until(lambda: quiet.beats > 2)
    assert busy.beats == 0
    heartbeat.discard(quiet)
    heartbeat.discard(busy)


async def test_after_its_end_a_stream_gets_none_and_without_streams_there_is_no_timer() -> None:
    heartbeat, gone, later = Heartbeat(0.01), Stream(0.0), Stream(0.0)
    heartbeat.add(gone)
    heartbeat.discard(gone)
    await until(lambda: heartbeat._timer is None)
    heartbeat.add(later)
    await until(lambda: later.beats > 0)
    heartbeat.discard(later)
    assert gone.beats == 0


@pytest.fixture
async def held(stage: Stage, start_herd: StartHerd) -> Herd:
    """A service whose one model says a token and waits; its heart beats every 50 ms."""
    stage.model("alpha").hold_streams()
    herd = await start_herd(limits={"stream_heartbeat": 0.05})
    await herd.post("/loadModel", {"model": "alpha"})
    return herd


async def test_who_takes_nothing_gets_no_more_signs_of_life(held: Herd, monkeypatch: pytest.MonkeyPatch) -> None:
    """They would look like progress to whoever watches for clients that stand still."""
    begun = 0
    gate = asyncio.Event()
    write = Outgoing._write

    async def waiting(self: Outgoing, data: bytes) -> None:
        nonlocal begun
        begun += 1
        await gate.wait()  # as where a buffer is full
        await write(self, data)

    async with held.stream("one two") as events:
        await events.token()
        monkeypatch.setattr(Outgoing, "_write", waiting)
        await until(lambda: begun == 1)
        await asyncio.sleep(0.2)  # that nothing comes can't be waited for
        assert begun == 1
        gate.set()
        await until(lambda: begun > 2)


async def test_a_client_that_leaves_while_its_cancelled_stream_waits_leaves_nothing(
    held: Herd, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = asyncio.Event()
    beating = asyncio.Event()

    async def waiting(self: Outgoing, data: bytes) -> None:
        beating.set()
        await gate.wait()

    async with held.stream("one two") as events:
        await events.token()
        monkeypatch.setattr(Outgoing, "_write", waiting)
        async with asyncio.timeout(5):
            await beating.wait()
        (running,) = held.service.inflight
        assert (await held.ask("DELETE", f"/admin/requests/{running.id}")).json == {"cancelled": 1}
    await until(lambda: not len(held.service.inflight))
    gate.set()
    await until(lambda: not held.service.gate.in_flight)


async def test_what_anthropic_has_and_we_have_not_is_told_in_its_words(held: Herd) -> None:
    for method, path, status in (("GET", "/v1/messages", 405), ("POST", "/v1/messages/batches", 404)):
        answer = await held.ask(method, path)
        assert (answer.status, answer.json["type"]) == (status, "error")
    assert (await held.ask("GET", CHAT)).json.keys() == {"error"}
