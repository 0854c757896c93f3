"""A running service and its client, as these tests speak to it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp.test_utils import TestServer

from manager.service import SERVICE, Service
from tests.routes.stage import CHAT


@dataclass(frozen=True)
class Answer:
    """A whole answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> Any:
        """What is under "error": a text on the routes of the original, else an object."""
        return self.json["error"]

    @property
    def text(self) -> Any:
        """The text of the first choice."""
        return self.json["choices"][0]["message"]["content"]

    @property
    def echo(self) -> Any:
        """The messages as they reached the fake."""
        return self.json["echo"]


class Herd:
    """A running service and a client of it. Keys are given with each request, or once as `key`."""

    def __init__(self, server: TestServer, session: aiohttp.ClientSession) -> None:
        self.server = server
        self.session = session
        self.key: str | None = None
        self.service: Service = server.app[SERVICE]

    def state(self, model: str) -> str:
        return str(self.service.pool.state(model))

    @property
    def in_flight(self) -> int:
        """Leases held, over all models."""
        return sum(status.in_flight for status in self.service.pool.statuses())

    async def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        raw: bytes | AsyncIterator[bytes] | None = None,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request, and the whole of its answer."""
        async with self.open(method, path, body, raw=raw, key=key, headers=headers) as response:
            return Answer(response.status, response.headers, await response.read())

    async def get(self, path: str, **more: Any) -> Answer:
        return await self.ask("GET", path, **more)

    async def post(self, path: str, body: Any = None, **more: Any) -> Answer:
        return await self.ask("POST", path, body, **more)

    async def chat(self, text: str, **fields: Any) -> Answer:
        """One user message to /v1/chat/completions."""
        return await self.post(CHAT, said(text, **fields))

    @asynccontextmanager
    async def open(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        raw: bytes | AsyncIterator[bytes] | None = None,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One request; leaving the context before the end of the answer closes the connection."""
        sent = dict(headers or {})
        if key or self.key:
            sent["Authorization"] = f"Bearer {key or self.key}"
        data = raw if raw is not None else None if body is None else json.dumps(body).encode()
        async with self.session.request(method, self.server.make_url(path), data=data, headers=sent) as response:
            try:
                yield response
            finally:
                response.close()

    @asynccontextmanager
    async def stream(self, text: str, path: str = CHAT, **fields: Any) -> AsyncIterator[Events]:
        """One user message, and the events of its answer as they come."""
        async with self.open("POST", path, said(text, stream=True, **fields)) as response:
            assert response.status == 200, await response.text()
            yield Events(response)

    @asynccontextmanager
    async def feed(self) -> AsyncIterator[Events]:
        """GET /status."""
        async with self.open("GET", "/status") as response:
            assert response.status == 200
            yield Events(response)


class Events:
    """The frames of an event stream, without the blank lines between them."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response

    async def next(self, timeout: float = 5.0) -> bytes | None:
        """The next frame; None at the end of the stream."""
        async with asyncio.timeout(timeout):
            frame = b""
            async for line in self.response.content:
                if line == b"\n":
                    return frame
                frame += line
        assert not frame, f"the stream ends within a frame: {frame!r}"
        return None

    async def rest(self, timeout: float = 10.0) -> list[bytes]:
        """All frames until the end."""
        frames = []
        async with asyncio.timeout(timeout):
            while (frame := await self.next(timeout)) is not None:
                frames.append(frame)
        return frames

    async def token(self) -> str:
        """The text of the next frame that has one."""
        while True:
            frame = await self.next()
            assert frame is not None, "the stream has ended"
            if frame.startswith(b"data: ") and (text := token_of(frame)):
                return text

    async def status(self) -> dict[str, Any]:
        """The next state that the feed of /status tells."""
        while (frame := await self.next()) is not None:
            if not frame.startswith(b":"):
                return status_of(frame)
        raise AssertionError("the feed has ended")


def said(text: str, **fields: Any) -> dict[str, Any]:
    """The body of a chat with one user message."""
    return {"messages": [{"role": "user", "content": text}], **fields}


def data_of(frame: bytes) -> Any:
    """The JSON of a `data:` frame."""
    assert frame.startswith(b"data: "), frame
    return json.loads(frame[6:])


def token_of(frame: bytes) -> str:
    data = frame.removeprefix(b"data: ").strip()
    if data == b"[DONE]":
        return ""
    choices = json.loads(data).get("choices") or [{}]
    return choices[0].get("delta", {}).get("content") or ""


def status_of(frame: bytes) -> dict[str, Any]:
    event, data = frame.splitlines()
    assert event == b"event: message"
    state: dict[str, Any] = data_of(data)
    return state


async def until(condition: Callable[[], bool], timeout: float = 5.0) -> None:
    """Wait for what another process or a task of the service does; TimeoutError where it does not come about."""
    async with asyncio.timeout(timeout):
        while not condition():  # noqa: ASYNC110  there is no event to wait for across processes
            await asyncio.sleep(0.002)
