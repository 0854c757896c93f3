"""What a running child tells of itself beside its requests."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from manager.engines import UpstreamRequest
from manager.engines.llama import vitals
from manager.engines.llama.engine import LlamaEngine
from manager.engines.llama.upstream import UpstreamClient
from tests.manager.bench import lines_of, soon, until
from tests.manager.conftest import LlamaFakes


def chat(text: str = "a b c", **more: Any) -> UpstreamRequest:
    messages = [{"role": "user", "content": text}]
    return UpstreamRequest("POST", "/v1/chat/completions", json.dumps({"messages": messages, **more}).encode())


async def started(llama: LlamaFakes, **knobs: Any) -> LlamaEngine:
    engine = llama.engine(**knobs)
    await soon(engine.start())
    return engine


async def test_child_that_is_well_answers(llama: LlamaFakes) -> None:
    assert await soon((await started(llama)).answers())


async def test_child_answers_beside_requests_that_take_long(llama: LlamaFakes) -> None:
    engine = await started(llama, stall_stream_after=0)
    asking = asyncio.create_task(read(engine, chat()))
    await until(lambda: engine._client.connections)
    assert await soon(engine.answers())
    asking.cancel()
    await asyncio.wait({asking})


async def test_health_that_does_not_come_in_time_is_no_answer(
    llama: LlamaFakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vitals, "HEALTH_TIMEOUT", 0.02)
    assert not await soon((await started(llama, health_hangs=True)).answers())


async def test_health_is_not_asked_where_requests_hold_every_thread(
    llama: LlamaFakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vitals, "HTTP_THREADS", 1)
    monkeypatch.setattr(vitals, "HEALTH_TIMEOUT", 0.02)
    engine = await started(llama, health_hangs=True)
    async with engine.open(chat()):
        assert await soon(engine.answers())


async def test_child_that_has_gone_does_not_answer(llama: LlamaFakes) -> None:
    engine = await started(llama)
    assert engine.pid is not None
    os.kill(engine.pid, 9)
    await soon(engine.wait_exit())
    assert not await soon(engine.answers())
    assert await soon(engine.metrics()) is None
    assert (await soon(engine.activity())).cpu == 0
    assert await soon(engine.measure()) == {}


async def test_engine_that_was_not_started_tells_nothing(llama: LlamaFakes) -> None:
    engine = llama.engine()
    assert not await soon(engine.answers())
    assert (await soon(engine.activity())).cpu == 0
    assert await soon(engine.measure()) == {}


async def test_metrics_are_the_childs_own(llama: LlamaFakes) -> None:
    metrics = await soon((await started(llama)).metrics())
    assert metrics is not None
    assert b"llamacpp:requests_processing 0" in metrics


async def test_metrics_that_are_slow_to_come_are_done_without(
    llama: LlamaFakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vitals, "METRICS_TIMEOUT", 0.02)
    assert await soon((await started(llama, slow_head=60, faults_on=("/metrics",))).metrics()) is None


async def test_memory_is_that_of_the_process(llama: LlamaFakes) -> None:
    assert (await soon((await started(llama)).measure()))["host"] > 1024 * 1024


async def test_last_byte_is_told_by_the_clock_of_everybody(llama: LlamaFakes, tmp_path: Path) -> None:
    engine = await started(llama, stream_gate=tmp_path / "gate")
    async with engine.open(chat(stream=True)) as response:
        await anext(response.chunks())
        heard = (await soon(engine.activity())).heard_at
        assert time.monotonic() - 1 < heard <= time.monotonic()
        # Questions of our own bring bytes, but none of an answer.
        assert await soon(engine.answers())
        assert await soon(engine.metrics())
        assert (await soon(engine.activity())).heard_at == pytest.approx(heard, abs=0.005)


async def test_request_that_waits_longest_is_the_one_that_counts(llama: LlamaFakes, tmp_path: Path) -> None:
    engine = await started(llama, stall_stream_after=0, faulty_requests=1, requests_log=tmp_path / "requests")
    stalled = asyncio.create_task(read(engine, chat()))
    await until(lambda: any("completions" in line for line in lines_of(tmp_path / "requests")))
    heard = (await soon(engine.activity())).heard_at
    await read(engine, chat())
    assert (await soon(engine.activity())).heard_at == pytest.approx(heard, abs=0.005)
    stalled.cancel()
    await asyncio.wait({stalled})


async def test_waiting_goes_on_from_one_request_that_is_given_up_to_the_next(llama: LlamaFakes, tmp_path: Path) -> None:
    engine = await started(llama, stall_stream_after=0, faulty_requests=2, requests_log=tmp_path / "requests")
    client = engine._client
    first = await waiting(engine, 1, tmp_path / "requests")
    await until(lambda: client.in_vain > 0.05)
    await given_up(first)
    vain = client.in_vain
    assert vain > 0.05
    await asyncio.sleep(0)
    assert client.in_vain == vain, "nobody waits"
    second = await waiting(engine, 2, tmp_path / "requests")
    await until(lambda: client.in_vain > vain)
    heard = (await soon(engine.activity())).heard_at
    assert time.monotonic() - heard == pytest.approx(client.in_vain, abs=0.1)
    await read(engine, chat())
    assert client.due_since is not None
    # Only the one that still waits counts since a byte came.
    assert client.in_vain <= asyncio.get_running_loop().time() - client.due_since
    await given_up(second)


async def test_requests_that_wait_beside_each_other_are_counted_once(llama: LlamaFakes, tmp_path: Path) -> None:
    engine = await started(llama, stall_stream_after=0, requests_log=tmp_path / "requests")
    client = engine._client
    asking = [await waiting(engine, number, tmp_path / "requests") for number in (1, 2, 3)]
    began = client.due_since
    assert began is not None
    await until(lambda: client.in_vain > 0.05)
    for each in (asking[1], asking[2], asking[0]):
        await given_up(each)
    assert client.due_since is None
    assert 0.05 < client.in_vain <= asyncio.get_running_loop().time() - began


@pytest.mark.parametrize(("body", "ends"), [(b"", False), (b"3\r\n:\n\n\r\n", False), (b"9\r\ndata: 1\n\n\r\n", True)])
async def test_what_comes_without_inference_ends_nothing(short_folder: Path, body: bytes, ends: bool) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body)
        await reader.read()
        writer.close()

    client = UpstreamClient(str(short_folder / "socket"), "key")
    server = await asyncio.start_unix_server(serve, short_folder / "socket")
    async with server:
        async with client.open(UpstreamRequest("GET", "/")):
            await until(lambda: client.in_vain > 0.05)
        async with client.open(UpstreamRequest("GET", "/")) as response:
            if body:
                await soon(anext(response.chunks()))
            assert client.due_since is not None
            alone = asyncio.get_running_loop().time() - client.due_since
            assert (client.in_vain <= alone + 0.025) is ends
    client.close()


async def test_any_byte_ends_what_was_in_vain(llama: LlamaFakes, tmp_path: Path) -> None:
    engine = await started(llama, stall_stream_after=0, faulty_requests=1, requests_log=tmp_path / "requests")
    asking = await waiting(engine, 1, tmp_path / "requests")
    await until(lambda: engine._client.in_vain > 0)
    await given_up(asking)
    assert engine._client.in_vain > 0
    await read(engine, chat())
    assert engine._client.in_vain == 0


async def test_where_no_byte_is_due_the_last_one_is_now(llama: LlamaFakes) -> None:
    engine = await started(llama)
    await read(engine, chat())
    before = time.monotonic()
    assert (await soon(engine.activity())).heard_at >= before


async def test_cpu_is_that_of_the_child_and_its_children(llama: LlamaFakes, tmp_path: Path) -> None:
    engine = await started(llama, fork_grandchild=tmp_path / "grandchild")
    alone = await asyncio.to_thread(vitals.cpu_seconds, int(lines_of(tmp_path / "grandchild")[0]))
    assert (await soon(engine.activity())).cpu >= alone
    assert (await soon(engine.activity())).cpu > 0


async def test_child_that_can_not_be_asked_for_a_want_of_ours_has_missed_nothing(llama: LlamaFakes) -> None:
    engine = await started(llama)
    with no_more_files():
        assert await soon(engine.answers())
        assert await soon(engine.metrics()) is None
        with pytest.raises(OSError, match="Too many open files"):
            await soon(engine.activity())


@contextmanager
def no_more_files() -> Iterator[None]:
    """What is open stays open; nothing more can be opened."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def waiting(engine: LlamaEngine, number: int, log: Path) -> asyncio.Task[None]:
    """The `number`th request, which the child has and leaves without an answer."""
    asking = asyncio.create_task(read(engine, chat()))
    await until(lambda: sum("completions" in line for line in lines_of(log)) == number)
    return asking


async def given_up(asking: asyncio.Task[None]) -> None:
    asking.cancel()
    await asyncio.wait({asking})


async def read(engine: LlamaEngine, request: UpstreamRequest) -> None:
    async with engine.open(request) as response:
        await response.read()
