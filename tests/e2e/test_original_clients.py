"""The sequence of the original's own clients: load with a personality, chat at the root, ask, unload, and watch."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest
from openai import AsyncOpenAI

from tests.e2e.conftest import PIRATE, plain_http
from tests.e2e.counting import length_of, prompt_of
from tests.e2e.service import PATIENCE, Service

pytestmark = pytest.mark.timeout(180)


class Feed:
    """The events of GET /status so far."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self.events: list[dict[str, Any]] = []
        self._answer = answer
        self._more = asyncio.Condition()

    async def read(self) -> None:
        name = None
        async for line in self._answer.content:
            if line.startswith(b"event: "):
                name = line[7:].strip()
            elif line.startswith(b"data: "):
                assert name == b"message"
                async with self._more:
                    self.events.append(json.loads(line[6:]))
                    self._more.notify_all()

    async def until(self, condition: Callable[[list[str]], bool]) -> list[str]:
        """Wait until the states in order, each once where it is repeated, are as wanted."""
        async with asyncio.timeout(PATIENCE), self._more:
            await self._more.wait_for(lambda: condition(self.states))
        return self.states

    @property
    def states(self) -> list[str]:
        states = [event["status"] for event in self.events]
        return [state for place, state in enumerate(states) if not place or state != states[place - 1]]


@contextlib.asynccontextmanager
async def watching(http: aiohttp.ClientSession) -> AsyncIterator[Feed]:
    async with http.get("/status", timeout=aiohttp.ClientTimeout()) as answer:
        assert answer.content_type == "text/event-stream"
        feed = Feed(answer)
        reader = asyncio.create_task(feed.read())
        try:
            yield feed
        finally:
            reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reader


async def test_load_chat_ask_and_unload_while_the_feed_tells_of_each(fresh_service: Service) -> None:
    async with plain_http(fresh_service) as http, watching(http) as feed:
        assert await feed.until(bool) == ["idle"]
        assert await _get(http, "/models") == []
        async with http.post("/loadModel", json={"model": "smol", "personality": "pirate"}) as answer:
            assert answer.status == 200
            assert (await answer.json())["message"] == "Model loaded successfully"
        assert await _get(http, "/models") == ["smol"]
        await _chat(fresh_service, http)
        await _ask(http)
        assert await _get(http, "/unloadModel") == {"message": "Model unloaded.", "model": "smol"}
        assert await _get(http, "/models") == []
        states = await feed.until(lambda states: states[-1] == "idle" and len(states) > 1)
        assert states == ["idle", "loading", "ready", "unloading", "idle"]
        ready = next(event for event in feed.events if event["status"] == "ready")
        assert ready["models"] == ["smol"]
        assert await _get(http, "/chat/errors") == {"errors": []}
    assert not fresh_service.children()


async def _chat(service: Service, http: aiohttp.ClientSession) -> None:
    async with AsyncOpenAI(base_url=service.url, api_key=service.key, max_retries=0, timeout=PATIENCE) as client:
        messages: Any = [{"role": "user", "content": "Who are you?"}]
        whole = await client.chat.completions.with_raw_response.create(
            model="NotNeeded", messages=messages, max_tokens=8
        )
        parsed = whole.parse()
        assert json.loads(whole.content)["responses"] == [parsed.choices[0].message.content]
        assert parsed.model == "smol"
        assert parsed.usage
        assert PIRATE in await prompt_of(http, messages)
        assert parsed.usage.prompt_tokens == await length_of(http, messages)
        stream = await client.chat.completions.create(model="NotNeeded", messages=messages, max_tokens=8, stream=True)
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream])


async def _ask(http: aiohttp.ClientSession) -> None:
    whole = await _get(http, "/chat/ask", question="Where is Rome?")
    assert whole["question"] == "Where is Rome?"
    assert whole["response"]
    async with http.get("/chat/ask", params={"question": "Where is Rome?", "stream": "true"}) as answer:
        assert answer.content_type == "text/event-stream"
        frames = [line[6:].strip() async for line in answer.content if line.startswith(b"data: ")]
    assert frames[-1] == b"[DONE]"
    fragments = [json.loads(frame) for frame in frames[:-1]]
    assert len(fragments) > 1
    assert all(fragment.keys() == {"response"} for fragment in fragments)


async def test_the_stream_of_the_root_route_ends_with_done(http: aiohttp.ClientSession) -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "stream": True, "max_tokens": 3}
    async with http.post("/chat/completions", json=body) as answer:
        assert (await answer.text()).endswith("data: [DONE]\n\n")


async def test_load_model_refuses_what_it_cannot_do(http: aiohttp.ClientSession) -> None:
    async def load(**body: str) -> tuple[int, str]:
        async with http.post("/loadModel", json=body) as answer:
            return answer.status, (await answer.json())["error"]

    assert (await load())[0] == 400
    assert (await load(model="unknown"))[0] == 404
    assert (await load(model="smol", personality="nobody"))[0] == 404
    status, reason = await load(model="broken")
    assert status == 500
    assert "broken.gguf is cut off" in reason


async def _get(http: aiohttp.ClientSession, path: str, **query: str) -> Any:
    async with http.get(path, params=query) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.json()
