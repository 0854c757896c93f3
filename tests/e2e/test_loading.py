"""Loading on demand and unloading, with many requests at once, and models that can't be loaded."""

from __future__ import annotations

import asyncio
import json
import time
from itertools import count
from typing import Any

import aiohttp
import openai
import pytest
from openai import AsyncOpenAI

from tests.e2e.service import Service

pytestmark = pytest.mark.timeout(180)

HELLO: Any = [{"role": "user", "content": "Name a colour."}]


async def test_a_model_runs_with_the_launcher_that_was_chosen(
    async_client: AsyncOpenAI, service: Service, launcher: dict[str, str]
) -> None:
    await async_client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=1)
    command = service.child("tiny").cmdline()
    if "LLAMAHERD_LLAMA__BINARY" in launcher:
        assert command[0] == launcher["LLAMAHERD_LLAMA__BINARY"]
    else:
        assert "manager.engines.llama.embedded" in command
    assert not any(service.child("tiny").environ()["LLAMA_API_KEY"] in part for part in command)


async def test_20_requests_at_once_start_a_model_once(async_client: AsyncOpenAI, service: Service) -> None:
    assert service.started("tiny-cold") == 0

    async def ask(number: int) -> None:
        asked: dict[str, Any] = {"model": "tiny-cold", "messages": HELLO, "max_tokens": 4}
        if number % 2:
            async for _ in await async_client.chat.completions.create(**asked, stream=True):
                pass
        else:
            await async_client.chat.completions.create(**asked)

    async with asyncio.TaskGroup() as group:
        for number in range(20):
            group.create_task(ask(number))
    assert service.started("tiny-cold") == 1


async def test_requests_that_come_together_do_not_wait_for_connections_that_idle(async_client: AsyncOpenAI) -> None:
    async def seconds() -> float:
        started = time.monotonic()
        await async_client.chat.completions.create(model="tiny-cold", messages=HELLO, max_tokens=1)
        return time.monotonic() - started

    await seconds()
    for together in (8, 12, 16, 20):
        # llama.cpp keeps an idle connection, and the thread that serves it, for 5 s.
        assert max(await asyncio.gather(*(seconds() for _ in range(together)))) < 4


async def test_200_requests_over_reused_connections_all_succeed(async_client: AsyncOpenAI, service: Service) -> None:
    numbers = count()

    async def client() -> None:
        while (number := next(numbers)) < 200:
            asked: dict[str, Any] = {"model": "tiny", "messages": HELLO, "max_tokens": 3 + number % 7}
            if number % 2:
                stream = await async_client.chat.completions.create(**asked, stream=True)
                chunks = [chunk async for chunk in stream]
                assert chunks[-1].choices[0].finish_reason == "length"
            else:
                answer = await async_client.chat.completions.create(**asked)
                assert answer.usage.completion_tokens == asked["max_tokens"]

    await async_client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=1)
    pid = service.child("tiny").pid
    async with asyncio.TaskGroup() as group:
        for _ in range(16):
            group.create_task(client())
    assert service.child("tiny").pid == pid


async def test_a_stream_is_kept_alive_while_its_model_loads_and_watchers_are_answered(
    http: aiohttp.ClientSession,
) -> None:
    body = {"model": "smol-cold", "messages": HELLO, "stream": True, "max_tokens": 3}
    await _unload(http, "smol-cold")  # other tests may have left it loaded
    async with http.post("/v1/chat/completions", json=body) as answer:
        assert answer.status == 200
        assert await answer.content.readline() == b": loading smol-cold\n"
        async with http.get("/v1/models/smol-cold") as model:
            # What it will take is known before it is started.
            assert (await model.json())["state"] in {"stopped", "starting"}
        async with http.get("/health") as health:
            assert (await health.json())["status"] == "ok"
        events = (await answer.text()).split("\n\n")
    data = [event for event in events if event.startswith("data: ")]
    assert data[-1] == "data: [DONE]"
    assert "choices" in json.loads(data[0][6:])
    await _unload(http, "smol-cold")


async def test_unloading_lets_a_stream_end_whole(http: aiohttp.ClientSession, async_client: AsyncOpenAI) -> None:
    stream = await async_client.chat.completions.create(
        model="smol-cold", messages=HELLO, stream=True, max_tokens=40, extra_body={"ignore_eos": True}
    )
    chunks = aiter(stream)
    await anext(chunks)
    unloading = asyncio.create_task(_unload(http, "smol-cold"))
    rest = [chunk async for chunk in chunks]
    assert rest[-1].choices[0].finish_reason == "length"
    assert (await unloading)["message"] == "Model unloaded."
    async with http.get("/models") as loaded:
        assert "smol-cold" not in await loaded.json()


async def test_a_request_that_comes_while_a_model_drains_gets_a_fresh_start(
    http: aiohttp.ClientSession, async_client: AsyncOpenAI, service: Service
) -> None:
    stream = await async_client.chat.completions.create(
        model="smol-cold", messages=HELLO, stream=True, max_tokens=40, extra_body={"ignore_eos": True}
    )
    chunks = aiter(stream)
    await anext(chunks)
    first = service.child("smol-cold").pid
    unloading = asyncio.create_task(_unload(http, "smol-cold"))
    async with http.get("/v1/models/smol-cold") as model:
        while (await model.json())["state"] == "ready":
            model = await http.get("/v1/models/smol-cold")
    answer = asyncio.create_task(async_client.chat.completions.create(model="smol-cold", messages=HELLO, max_tokens=1))
    assert [chunk async for chunk in chunks][-1].choices[0].finish_reason == "length"
    await unloading
    assert (await answer).choices
    assert service.child("smol-cold").pid != first
    await _unload(http, "smol-cold")


async def _unload(http: aiohttp.ClientSession, model: str) -> Any:
    async with http.get("/unloadModel", params={"model": model}) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.json()


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("broken", "broken.gguf is cut off"),
        ("text", "text.gguf is not a GGUF file"),
        ("alien", "unknown model architecture: 'alien'"),
        ("some-hf-model", "no weights"),
    ],
)
async def test_a_model_that_cannot_be_loaded_says_why_and_the_service_goes_on(
    http: aiohttp.ClientSession, async_client: AsyncOpenAI, model: str, reason: str
) -> None:
    with pytest.raises(openai.InternalServerError) as caught:
        await async_client.chat.completions.create(model=model, messages=HELLO)
    assert caught.value.status_code == 503
    assert caught.value.code == "model_load_failed"
    assert reason in caught.value.message
    async with http.post("/loadModel", json={"model": model}) as answer:
        assert answer.status == 500
        assert reason in (await answer.json())["error"]
    async with http.get("/chat/errors") as answer:
        recorded = [error for error in (await answer.json())["errors"] if error["model"] == model]
    assert reason in recorded[-1]["message"]
    assert (await async_client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=1)).choices


async def test_a_model_that_cannot_be_run_is_listed_with_the_reason(http: aiohttp.ClientSession) -> None:
    async with http.get("/v1/models/some-hf-model") as answer:
        model = await answer.json()
    assert model["backend"] == "hf"
    assert "no weights" in model["unavailable"]
    async with http.get("/v1/models/broken") as answer:
        model = await answer.json()
    assert model["backend"] == "gguf"
    assert "cut off" in model["unavailable"]
