"""Clients of a service under duress: patient ones, hasty ones, slow ones."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any, Final

import aiohttp
import openai

from tests.e2e.chaos import ASK, CHAT, LENIENT, MODELS, PERSONALITY, Call, World, dice, read_whole

ZIPF: Final = (1, 1 / 2, 1 / 3)
# Tokens of an answer that nobody waits for: it takes longer than anybody may take to see that.
LONG: Final = 1200
WORDS: Final = ("swap", "herd", "llama", "memory", "token", "slot", "cache", "wait")


def chat_body(random: Random, model: str | None, tokens: int, *, stream: bool) -> dict[str, Any]:
    """A chat; some with a personality, by its field or in the model's id."""
    text = " ".join(random.choices(WORDS, k=random.randint(1, 25)))
    body: dict[str, Any] = {"messages": [{"role": "user", "content": text}], "max_tokens": tokens, "stream": stream}
    if model is not None:
        body["model"] = model
        if random.random() < 0.1:
            body["personality"] = PERSONALITY
        elif random.random() < 0.1:
            body["model"] = f"{model}:{PERSONALITY}"
    return body


async def read_stream(call: Call, answer: aiohttp.ClientResponse, on_event: Callable[[], Awaitable[bool]]) -> None:
    """Take a stream to its end, or until `on_event`, which is called for each event, says that this is enough."""
    call.status = answer.status
    if answer.status != 200:
        await read_whole(call, answer)
        return
    last = ""
    async for line in answer.content:
        if not line.startswith(b"data: "):
            continue
        last = line[6:].decode().strip()
        if call.first is None and not last.startswith('{"error"'):
            call.first = time.monotonic()
        if await on_event():
            call.left = True
            answer.close()
            return
    if last.startswith('{"error"'):
        call.failed(json.loads(last)["error"])
    elif last != "[DONE]":
        call.fault = f"a stream that ends with {last[:80]!r}"


async def _patient() -> bool:
    return False


async def whole(world: World, random: Random, who: str, model: str | None) -> None:
    route = LENIENT if model is None or random.random() < 0.1 else CHAT
    body = chat_body(random, model, random.randint(2, 40), stream=False)
    with world.story.calling(who, "whole", route, model) as call:
        async with world.http.post(route, json=body, headers={"X-Request-ID": call.id}) as answer:
            await read_whole(call, answer)


async def streamed(world: World, random: Random, who: str, model: str | None) -> None:
    body = chat_body(random, model, random.randint(5, 120), stream=True)
    with world.story.calling(who, "stream", CHAT, model) as call:
        async with world.http.post(CHAT, json=body, headers={"X-Request-ID": call.id}) as answer:
            await read_stream(call, answer, _patient)


async def asked(world: World, random: Random, who: str, _: str | None) -> None:
    """The original's route for one question, of the default model."""
    query = {"question": random.choice(WORDS)}
    with world.story.calling(who, "ask", ASK, None, method="GET") as call:
        async with world.http.get(ASK, params=query, headers={"X-Request-ID": call.id}) as answer:
            await read_whole(call, answer)


async def official(world: World, random: Random, who: str, model: str | None) -> None:
    """The client that most people have."""
    stream = random.random() < 0.5
    asked: Any = chat_body(random, model or MODELS[0], random.randint(2, 60), stream=stream)
    personality = {"personality": asked.pop("personality")} if "personality" in asked else {}
    with world.story.calling(who, "openai", CHAT, model) as call:
        try:
            answer: Any = await world.openai.chat.completions.create(
                **asked, extra_body=personality, extra_headers={"X-Request-ID": call.id}
            )
            call.status = 200
            if stream:
                async for _ in answer:
                    call.first = call.first or time.monotonic()
            else:
                call.tokens = answer.usage.completion_tokens
        except openai.APIStatusError as error:
            call.status = error.status_code
            call.failed({"code": error.code, "message": error.message})
        except openai.APIConnectionError:
            raise
        except openai.APIError as error:  # the last frame of a stream
            call.failed({"code": error.code, "message": error.message})


async def hasty(world: World, random: Random, who: str, model: str | None) -> None:
    """It leaves before there is anything to read, if it can."""
    stream = random.random() < 0.5
    body = chat_body(random, model, LONG if stream else LONG // 2, stream=stream)
    with world.story.calling(who, "hasty", CHAT, model) as call:
        try:
            async with asyncio.timeout(random.choice((0.01, 0.05, 0.3, 1.0)) * random.random()):
                async with world.http.post(CHAT, json=body, headers={"X-Request-ID": call.id}) as answer:
                    call.status = answer.status
                    call.left = True
                    answer.close()
        except TimeoutError:
            call.left = True


async def bored(world: World, random: Random, who: str, model: str | None) -> None:
    """It leaves after some tokens."""
    tokens = iter(range(random.choice((1, 1, 3, 20))))

    async def enough() -> bool:
        return next(tokens, None) is None

    body = chat_body(random, model, LONG, stream=True)
    with world.story.calling(who, "bored", CHAT, model) as call:
        async with world.http.post(CHAT, json=body, headers={"X-Request-ID": call.id}) as answer:
            await read_stream(call, answer, enough)


async def slow(world: World, random: Random, who: str, model: str | None) -> None:
    """It reads a few bytes a second for some seconds; then it reads on in haste, or has had enough."""
    body = {**chat_body(random, model, 250, stream=True), "logprobs": True, "top_logprobs": 20}
    ends, stays = time.monotonic() + random.uniform(2, 4), random.random() < 0.7

    async def idle() -> bool:
        if time.monotonic() < ends:
            await asyncio.sleep(0.25)
            return False
        return not stays

    with world.story.calling(who, "slow", CHAT, model) as call:
        headers = {"X-Request-ID": call.id}
        async with world.slow.post(CHAT, json=body, headers=headers, read_bufsize=1024) as answer:
            await read_stream(call, answer, idle)


KINDS: Final = {whole: 30, streamed: 28, official: 15, hasty: 8, bored: 8, slow: 3, asked: 4}


async def client(world: World, number: int) -> None:
    """One that asks again and again, with its own part of the dice."""
    random = dice(world.story.seed, f"client {number}")
    while await world.pause(random.expovariate(4)):
        kind = random.choices(list(KINDS), list(KINDS.values()))[0]
        model = None if random.random() < 0.05 else random.choices(MODELS, ZIPF)[0]
        await kind(world, random, f"client{number}", model)
        if world.story.calls[-1].code == "model_load_failed":
            await world.pause(0.3)  # one that hammers would tell us nothing new
