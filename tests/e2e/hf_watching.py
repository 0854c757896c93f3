"""What the service tells of its models while something goes on: feeds, progress, counters, answers to pings."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, Self

import aiohttp

from tests.e2e.service import PATIENCE

# Each look takes a few milliseconds of the cores that the model computes with.
POLL: Final = 0.015
TRIES: Final = 6


class Watch:
    """A feed, read from its present state on; `seen` holds the data of its events."""

    def __init__(self, http: aiohttp.ClientSession, path: str) -> None:
        self.seen: list[dict[str, Any]] = []
        self._http = http
        self._path = path
        self._more = asyncio.Condition()

    async def __aenter__(self) -> Self:
        self._reader = asyncio.create_task(self._read())
        await self.until(lambda _: True)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)

    async def until(self, reached: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
        """Everything seen, once there is an event of that kind. Raises TimeoutError."""
        async with asyncio.timeout(PATIENCE), self._more:
            await self._more.wait_for(lambda: any(reached(data) for data in self.seen))
        return self.seen

    async def _read(self) -> None:
        async with self._http.get(self._path) as answer:
            async for line in answer.content:
                if line.startswith(b"data:"):
                    async with self._more:
                        self.seen.append(json.loads(line[5:]))
                        self._more.notify_all()


async def loaded_part(http: aiohttp.ClientSession, model: str, until: asyncio.Task[Any]) -> list[float]:
    """How much of a model was loaded, 0 to 1, each time that the service was asked until that task was done."""
    parts = []
    while not until.done():
        async with http.get(f"/admin/models/{model}") as answer:
            part = (await answer.json())["progress"]
        if part is not None:
            parts.append(part)
        await asyncio.sleep(POLL)
    return parts


async def counted(http: aiohttp.ClientSession, name: str, model: str) -> float:
    """The sum of this metric's samples for the model; 0 where it has none."""
    async with http.get("/metrics") as answer:
        lines = (await answer.text()).splitlines()
    return sum(
        float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name}{{") and f'model="{model}"' in line
    )


async def seconds_until_running(http: aiohttp.ClientSession, model: str, number: int) -> float:
    """How long from now until so many of the model's sequences run. Raises TimeoutError."""
    begun = time.monotonic()
    async with asyncio.timeout(PATIENCE):
        while await counted(http, "llamacpp:requests_processing", model) != number:  # noqa: ASYNC110  nobody tells
            await asyncio.sleep(POLL)
    return time.monotonic() - begun


async def ping(http: aiohttp.ClientSession) -> float:
    """How long the answer took, in seconds."""
    begun = time.monotonic()
    async with http.get("/ping") as answer:
        assert await answer.text() == "pong"
    return time.monotonic() - begun


async def quickest(measure: Callable[[], Awaitable[float]], limit: float) -> float:
    """The least of several measurements, which end with the first below the limit: other work may delay some."""
    times: list[float] = []
    while len(times) < TRIES and min(times, default=limit) >= limit:
        times.append(await measure())
    return min(times)


class Streaming:
    """A streamed answer that is read in the background. `times`: when each of its pieces came, by time.monotonic."""

    def __init__(self, http: aiohttp.ClientSession, **body: Any) -> None:
        self.times: list[float] = []
        self._http = http
        self._body = {"stream": True, **body}
        self._more = asyncio.Condition()

    async def __aenter__(self) -> Self:
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Leaves, as a client does who closes the connection."""
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)

    async def more(self, number: int) -> None:
        """Return when so many more pieces have come. AssertionError where the answer ended before."""
        wanted = len(self.times) + number
        async with asyncio.timeout(PATIENCE), self._more:
            await self._more.wait_for(lambda: len(self.times) >= wanted or self._reader.done())
        assert len(self.times) >= wanted

    async def _read(self) -> None:
        async with self._http.post("/v1/chat/completions", json=self._body) as answer:
            async for line in answer.content:
                if line.startswith(b"data:"):
                    assert b'"error"' not in line
                    async with self._more:
                        self.times.append(time.monotonic())
                        self._more.notify_all()
