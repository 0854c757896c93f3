"""Server-sent events: the frames that we write and the frames that engines send."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Mapping
from types import MappingProxyType
from typing import Any, Final

import orjson
from aiohttp import web

from manager.errors import UpstreamClosed, UpstreamError
from manager.event_id import EventId
from routes.errors import from_engine
from routes.headers import mark

HEADERS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "Content-Type": "text/event-stream; charset=utf-8",
        "Cache-Control": "no-cache",
        "X-Accel-Buffering": "no",
    }
)
_DONE: Final = b"[DONE]"
DONE: Final = b"data: " + _DONE + b"\n\n"


def last_event_id(request: web.Request) -> str | None:
    """What a reader that comes back has read last, in a header as browsers send it or in the query."""
    return request.headers.get("Last-Event-ID") or request.query.get("last_event_id")


async def begin(request: web.Request, headers: Mapping[str, str] = HEADERS) -> web.StreamResponse:
    """An event stream (with other `headers`: another one) as the answer, with its head sent."""
    response = web.StreamResponse(headers=headers)
    mark(request, response)
    await response.prepare(request)
    return response


def data_frame(payload: Any) -> bytes:
    """One event of JSON."""
    return b"data: " + orjson.dumps(payload) + b"\n\n"


def event_frame(event: str, payload: Any, event_id: EventId | str = "") -> bytes:
    """One event of JSON under a name, and with an id where it has one."""
    head = f"id: {event_id}\nevent: {event}\n" if event_id else f"event: {event}\n"
    return head.encode() + data_frame(payload)


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


async def chunks_of(chunks: AsyncIterable[bytes], model: str) -> AsyncIterator[dict[str, Any]]:
    """The chunks of a stream that an engine writes of `model`, to its very end: else its connection could not be used
    again. What follows [DONE] is passed over.

    Raises HerdError where the engine tells of an error or sends what is no chunk, and UpstreamClosed where the stream
    ends before the answer does.
    """
    done = finished = False
    async for data in data_of(chunks):
        done = done or data == _DONE
        if done:
            continue
        chunk = _parsed(data)
        if chunk.get("error") is not None:
            raise from_engine(_status_of(chunk["error"]), data, model)
        # llama.cpp's own paths end with `stop` instead of [DONE].
        finished = finished or chunk.get("stop") is True or _has_finished(chunk)
        yield chunk
    if not done and not finished:
        raise UpstreamClosed("The engine broke off in the middle of its answer.")


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        chunk = orjson.loads(data)
    except orjson.JSONDecodeError:
        chunk = None
    if not isinstance(chunk, dict):
        raise UpstreamError("The engine sent no valid JSON.")
    return chunk


def _has_finished(chunk: dict[str, Any]) -> bool:
    return any(choice.get("finish_reason") for choice in chunk.get("choices") or ())


def _status_of(error: Any) -> int:
    """The HTTP status that an engine's error would have had."""
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, int) and 400 <= code < 600 else 500
