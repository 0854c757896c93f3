"""The chunks of engines' streams, as every API that changes them reads them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from manager.errors import (
    ContextLengthExceeded,
    GenerationFailed,
    HerdError,
    InvalidRequest,
    Unavailable,
    UpstreamClosed,
    UpstreamError,
)
from routes import sse


class Stream:
    """What an engine sends, cut at odd places."""

    def __init__(self, *data: Any) -> None:
        frames = (one if isinstance(one, bytes) else json.dumps(one).encode() for one in data)
        self._raw = b"".join(b"data: %b\n\n" % frame for frame in frames)
        self.ended = False

    async def pieces(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self._raw), 7):
            yield self._raw[start : start + 7]
        self.ended = True


def finish(reason: str | None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}


async def read(*data: Any) -> list[dict[str, Any]]:
    return [chunk async for chunk in sse.chunks_of(Stream(*data).pieces(), "m")]


@pytest.mark.parametrize("end", [[b"[DONE]"], [finish("length")], [{"content": "", "stop": True}]])
async def test_a_stream_is_read_to_its_end(end: list[Any]) -> None:
    sent = [finish(None), {"choices": [], "usage": {}}, *end]
    assert await read(*sent) == [one for one in sent if isinstance(one, dict)]


async def test_what_follows_done_is_read_and_passed_over() -> None:
    stream = Stream(finish(None), b"[DONE]", finish("stop"), b"{no")
    assert [chunk async for chunk in sse.chunks_of(stream.pieces(), "m")] == [finish(None)]
    assert stream.ended


@pytest.mark.parametrize("sent", [[], [finish(None)], [{"content": "a", "stop": False}]])
async def test_a_stream_that_ends_before_its_answer_has_broken_off(sent: list[Any]) -> None:
    with pytest.raises(UpstreamClosed):
        await read(*sent)


@pytest.mark.parametrize("data", [b"{no", b"5", b"null", b"[]", b'"text"', b""])
async def test_what_is_no_object_is_the_engines_fault(data: bytes) -> None:
    with pytest.raises(UpstreamError, match="JSON"):
        await read(finish(None), data, b"[DONE]")


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        ({"code": 500, "message": "it broke"}, GenerationFailed, "it broke"),
        ({"code": 400, "message": "bad"}, InvalidRequest, "bad"),
        ({"code": 400, "message": "long", "type": "exceed_context_size_error"}, ContextLengthExceeded, "long"),
        ({"code": 503, "message": "busy"}, Unavailable, "busy"),
        ({"code": "odd", "message": "it broke"}, GenerationFailed, "it broke"),
        *(({"code": code, "message": "x"}, GenerationFailed, "x") for code in (0, 1, 200, 399, 600, True, None)),
        ("text", GenerationFailed, "The engine of 'm' answered with status 500."),
    ],
)
async def test_an_error_is_raised_as_what_it_is(error: Any, kind: type[HerdError], says: str) -> None:
    with pytest.raises(HerdError) as caught:
        await read(finish(None), {"error": error}, b"[DONE]")
    assert (caught.type, caught.value.message) == (kind, says)


async def test_no_error_is_none() -> None:
    assert await read({"error": None}, b"[DONE]") == [{"error": None}]
