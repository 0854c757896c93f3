"""Server-sent events: the frames that we write and the frames that engines send."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Mapping
from types import MappingProxyType
from typing import Any, Final

import orjson
from aiohttp import web

from routes.headers import mark

HEADERS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "Content-Type": "text/event-stream; charset=utf-8",
        "Cache-Control": "no-cache",
        "X-Accel-Buffering": "no",
    }
)
DONE: Final = b"data: [DONE]\n\n"


async def begin(request: web.Request, headers: Mapping[str, str] = HEADERS) -> web.StreamResponse:
    """An event stream (with other `headers`: another one) as the answer, with its head sent."""
    response = web.StreamResponse(headers=headers)
    mark(request, response)
    await response.prepare(request)
    return response


def data_frame(payload: Any) -> bytes:
    """One event of JSON."""
    return b"data: " + orjson.dumps(payload) + b"\n\n"


def event_frame(event: str, payload: Any) -> bytes:
    """One event of JSON under a name."""
    return b"event: " + event.encode() + b"\n" + data_frame(payload)


def comment(text: str) -> bytes:
    """A line that every reader skips: it keeps a quiet connection alive."""
    return b": " + text.encode() + b"\n\n"


async def data_of(chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """The `data:` values of a stream that engines send (one line each), however it was cut into chunks."""
    rest = b""
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip()
