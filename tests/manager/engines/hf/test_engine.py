"""An engine in this process: from its start to the memory that it gives back, and what its paths answer."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from manager.engines import UpstreamRequest
from manager.engines.hf.engine import HfEngine
from manager.entry import ModelEntry
from manager.errors import LoadAborted, LoadFailed, UpstreamClosed, UpstreamConnectError
from manager.params import HfParams

CHAT = "/v1/chat/completions"
HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8, "temperature": 0}
MIB = 1 << 20


def engine_of(folder: Path, **params: Any) -> HfEngine:
    return HfEngine(
        ModelEntry(name=folder.name, path=folder, params=HfParams(model=str(folder), **params), engine="hf")
    )


@pytest.fixture
async def engine(tiny_text_folder: Path) -> AsyncIterator[HfEngine]:
    engine = engine_of(tiny_text_folder)
    await engine.start()
    yield engine
    await engine.stop()


async def asked(engine: HfEngine, path: str, body: dict[str, Any], method: str = "POST") -> tuple[int, Any]:
    async with engine.open(UpstreamRequest(method, path, json.dumps(body).encode())) as answer:
        return answer.status, json.loads(await answer.read())


async def frames(engine: HfEngine, body: dict[str, Any]) -> list[dict[str, Any]]:
    async with engine.open(UpstreamRequest("POST", CHAT, json.dumps({**body, "stream": True}).encode())) as answer:
        assert answer.content_type == "text/event-stream"
        raw = b"".join([chunk async for chunk in answer.chunks()]).decode()
    lines = raw.strip().split("\n\n")
    assert lines.pop() == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines]


async def test_a_chat_is_answered(engine: HfEngine) -> None:
    status, answer = await asked(engine, CHAT, HELLO)
    assert (status, answer["object"], answer["usage"]["completion_tokens"]) == (200, "chat.completion", 8)


async def test_a_stream_brings_the_same_text(engine: HfEngine) -> None:
    _, whole = await asked(engine, CHAT, HELLO)
    parts = await frames(engine, HELLO)
    text = "".join(part["choices"][0]["delta"].get("content") or "" for part in parts)
    assert text == whole["choices"][0]["message"]["content"]


async def test_several_answers_have_seeds_of_their_own_and_are_the_same_again(engine: HfEngine) -> None:
    body = {**HELLO, "temperature": 2.0, "top_k": 0, "n": 3, "seed": 7}
    texts = [
        [choice["message"]["content"] for choice in (await asked(engine, CHAT, body))[1]["choices"]] for _ in range(2)
    ]
    assert texts[0] == texts[1]
    assert len(set(texts[0])) == 3


async def test_completions_take_texts_and_tokens(engine: HfEngine) -> None:
    _, tokens = await asked(engine, "/tokenize", {"content": "ab"})
    fields = {"max_tokens": 4, "temperature": 0}
    _, of_text = await asked(engine, "/v1/completions", {"prompt": "ab", **fields})
    _, of_tokens = await asked(engine, "/v1/completions", {"prompt": tokens["tokens"], **fields})
    _, of_both = await asked(engine, "/v1/completions", {"prompt": ["ab", tokens["tokens"]], **fields})
    texts = [choice["text"] for choice in of_both["choices"]]
    assert texts == [of_text["choices"][0]["text"], of_tokens["choices"][0]["text"]]
    assert texts[0] == texts[1]


async def test_tokens_and_texts_become_each_other(engine: HfEngine) -> None:
    _, tokens = await asked(engine, "/tokenize", {"content": "héllo"})
    assert len(tokens["tokens"]) == 6
    _, text = await asked(engine, "/detokenize", tokens)
    assert text == {"content": "héllo"}
    _, prompt = await asked(engine, "/apply-template", HELLO)
    assert prompt["prompt"].endswith("<|im_start|>assistant\n")


@pytest.mark.parametrize(
    ("path", "body", "status", "kind", "says"),
    [
        (CHAT, {**HELLO, "mirostat": 2}, 400, "invalid_request_error", "mirostat"),
        (CHAT, {**HELLO, "grammar": "root ::= ("}, 400, "invalid_request_error", "grammar"),
        (CHAT, {"messages": [{"role": "user", "content": "x" * 5000}]}, 400, "exceed_context_size_error", "4096"),
        ("/v1/completions", {"prompt": [100000]}, 400, "invalid_request_error", "100000"),
        ("/v1/completions", {"prompt": []}, 400, "invalid_request_error", "prompt"),
        ("/detokenize", {"tokens": [-1]}, 400, "invalid_request_error", "tokens"),
        ("/v1/embeddings", {"input": "a"}, 501, "not_supported_error", "embeddings"),
        ("/v1/rerank", {}, 501, "not_supported_error", "/v1/rerank"),
    ],
)
async def test_what_it_cannot_do_is_said(
    engine: HfEngine, path: str, body: dict[str, Any], status: int, kind: str, says: str
) -> None:
    got, answer = await asked(engine, path, body)
    assert (got, answer["error"]["type"]) == (status, kind)
    assert says in answer["error"]["message"]


async def test_leaving_an_answer_frees_its_place(tiny_text_folder: Path) -> None:
    engine = engine_of(tiny_text_folder, parallel=1)
    await engine.start()
    try:
        endless = {**HELLO, "max_tokens": 4000, "ignore_eos": True, "stream": True}
        async with engine.open(UpstreamRequest("POST", CHAT, json.dumps(endless).encode())) as answer:
            async for _ in answer.chunks():
                break
        async with asyncio.timeout(10):
            assert (await asked(engine, CHAT, HELLO))[0] == 200
    finally:
        await engine.stop()


async def test_health_signs_counters_and_memory_are_told(engine: HfEngine) -> None:
    assert await engine.answers()
    before = (await engine.measure())["host"]
    await asked(engine, CHAT, {**HELLO, "messages": [{"role": "user", "content": "Hello, " * 10}]})
    assert (await engine.activity()).heard_at > time.monotonic() - 5
    assert (await engine.measure())["host"] > before  # the cache of the answer is kept
    assert b"llamacpp:tokens_predicted_total 8\n" in (await engine.metrics() or b"")
    assert engine.log.tail()


async def test_stopping_breaks_off_what_is_answered(tiny_text_folder: Path) -> None:
    engine = engine_of(tiny_text_folder)
    await engine.start()
    endless = {**HELLO, "max_tokens": 4000, "ignore_eos": True, "stream": True}
    with pytest.raises(UpstreamClosed):  # noqa: PT012  it is broken off in the middle
        async with engine.open(UpstreamRequest("POST", CHAT, json.dumps(endless).encode())) as answer:
            stopping: asyncio.Task[None] | None = None
            async for _ in answer.chunks():
                stopping = stopping or asyncio.create_task(engine.stop())
    assert stopping is not None
    await stopping
    with pytest.raises(UpstreamConnectError):
        engine.open(UpstreamRequest("POST", CHAT))


async def test_a_thread_that_breaks_is_an_exit_with_its_reason(engine: HfEngine) -> None:
    residence: Any = engine._residence

    def breaks(*_: object) -> None:
        raise SystemExit("broken")

    residence.generator._forward.step = breaks
    exit_ = asyncio.create_task(engine.wait_exit())
    with pytest.raises(UpstreamClosed):
        await asked(engine, CHAT, HELLO)
    assert "broke: SystemExit" in (await exit_).reason
    assert not await engine.answers()


async def test_a_load_that_nobody_wants_any_more_ends(tiny_text_folder: Path) -> None:
    engine = engine_of(tiny_text_folder)
    start = asyncio.create_task(engine.start())
    await asyncio.sleep(0)
    await engine.stop()
    with pytest.raises((LoadAborted, LoadFailed)):
        await start


async def test_stopping_what_never_started_is_nothing(tiny_text_folder: Path) -> None:
    await engine_of(tiny_text_folder).stop()


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(300)
async def test_unloading_gives_the_memory_back(smollm2_folder: Path) -> None:
    process = psutil.Process()

    def taken() -> int:
        return int(process.memory_full_info().pss)

    sizes = []
    for _ in range(10):
        engine = engine_of(smollm2_folder)
        await engine.start()
        assert (await asked(engine, CHAT, HELLO))[0] == 200
        loaded = await asyncio.to_thread(taken)
        await engine.stop()
        sizes.append((loaded, await asyncio.to_thread(taken)))
    first, last = sizes[1][1], sizes[-1][1]  # the first one brings the libraries
    assert min(loaded - after for loaded, after in sizes) > 250 * MIB
    # What the allocator keeps in pieces grows by a megabyte or two a cycle and stays at 27 MiB after some 25 of them.
    assert last - first < 32 * MIB, [after // MIB for _, after in sizes]
