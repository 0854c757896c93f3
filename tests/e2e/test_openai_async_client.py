"""The official client, asynchronous: the same answers, and cancelling a task frees what it used."""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any

import aiohttp
import openai
import pytest
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionMessageParam

from tests.e2e.service import Service, seconds_until

pytestmark = pytest.mark.timeout(180)

HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Name a colour."}]
ENDLESS = {"ignore_eos": True, "max_tokens": 1500}


async def test_models_are_listed_and_retrieved(async_client: AsyncOpenAI) -> None:
    assert "smol" in [model.id async for model in async_client.models.list()]
    assert (await async_client.models.retrieve("smol")).id == "smol"


async def test_a_chat_is_answered_whole_and_streamed(async_client: AsyncOpenAI) -> None:
    asked: dict[str, Any] = {
        "model": "smol",
        "messages": HELLO,
        "max_tokens": 12,
        "temperature": 0,
        "extra_body": {"cache_prompt": False},
    }
    whole = await async_client.chat.completions.create(**asked)
    stream = await async_client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    chunks = [chunk async for chunk in stream]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage


async def test_errors_have_the_same_classes(async_client: AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        await async_client.chat.completions.create(model="unknown", messages=HELLO)
    with pytest.raises(openai.BadRequestError):
        await async_client.chat.completions.create(model="tiny", messages=HELLO, top_p=2)
    with pytest.raises(openai.InternalServerError):
        await async_client.chat.completions.create(model="broken", messages=HELLO)
    with pytest.raises(openai.AuthenticationError):
        await async_client.with_options(api_key="sk-lh-wrong").chat.completions.create(model="tiny", messages=HELLO)


@pytest.mark.alone
async def test_cancelling_a_task_that_streams_frees_the_slot_within_200_ms(
    async_client: AsyncOpenAI, http: aiohttp.ClientSession, service: Service
) -> None:
    await async_client.chat.completions.create(model="smol-one", messages=HELLO, max_tokens=1)
    slots = service.slots("smol-one")

    async def read(begun: asyncio.Event) -> None:
        async for _ in await async_client.chat.completions.create(
            model="smol-one", messages=HELLO, stream=True, extra_body=ENDLESS
        ):
            begun.set()

    async def seconds() -> float:
        begun = asyncio.Event()
        task = asyncio.create_task(read(begun))
        await begun.wait()
        assert slots.busy() == 1
        assert await _in_flight(http) == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return await asyncio.to_thread(slots.seconds_until_free)

    # Other work on this machine may delay one of them.
    assert min([await seconds() for _ in range(3)]) < 0.2
    assert await _in_flight(http) == 0


async def test_cancelling_a_task_that_waits_for_a_whole_answer_frees_the_slot(
    async_client: AsyncOpenAI, service: Service
) -> None:
    await async_client.chat.completions.create(model="smol-one", messages=HELLO, max_tokens=1)
    slots = service.slots("smol-one")

    async def seconds() -> float:
        task = asyncio.create_task(
            async_client.chat.completions.create(model="smol-one", messages=HELLO, extra_body=ENDLESS)
        )
        await asyncio.to_thread(seconds_until, lambda: slots.busy() == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        started = time.monotonic()
        await async_client.chat.completions.create(model="smol-one", messages=HELLO, max_tokens=1)
        return time.monotonic() - started

    # llama.cpp looks once a second whether the client of a whole answer is still there, and the answer would
    # take far longer. Asking for its slots would make it look later still.
    assert min([await seconds() for _ in range(3)]) < 5


async def _in_flight(http: aiohttp.ClientSession) -> float:
    async with http.get("/metrics") as answer:
        found = re.search(r"^llamaherd_requests_in_flight (\S+)", await answer.text(), re.MULTILINE)
    assert found
    return float(found[1])
