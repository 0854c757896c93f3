"""One answer of a model in this process, between the event loop's side that makes it and the route that sends it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Final, Self

import orjson

from manager.engines import read_whole
from manager.errors import (
    ContextLengthExceeded,
    EndpointUnsupported,
    HerdError,
    InsufficientMemory,
    InvalidRequest,
    Unavailable,
    UpstreamClosed,
)

JSON: Final = "application/json; charset=utf-8"
EVENT_STREAM: Final = "text/event-stream"


class LocalAnswer:
    """See `manager.engines.UpstreamResponse`. Entering waits for the head; everything runs on one event loop.

    `cancel` is called once where the answer is left, or fails, before it is whole: it frees the sequences, also where
    some of them have ended.
    """

    def __init__(self, cancel: Callable[[], None] = lambda: None) -> None:
        self._cancel: Callable[[], None] | None = cancel
        self._status: int | None = None
        self._content_type = ""
        self._parts: list[bytes] = []
        self._unread = 0  # bytes of these
        self._complete = False
        self._broken: HerdError | None = None
        self._left = False
        self._news = asyncio.Event()
        self._read = asyncio.Event()

    @classmethod
    def ready(cls, status: int, body: bytes, content_type: str = JSON) -> Self:
        """An answer that is there already."""
        answer = cls()
        answer.finish(status, body, content_type)
        return answer

    # The side that makes the answer.

    @property
    def over(self) -> bool:
        """Whether nothing can be added any more."""
        return self._complete or self._left or self._broken is not None

    @property
    def begun(self) -> bool:
        return self._status is not None

    def begin(self, status: int = 200, content_type: str = EVENT_STREAM) -> None:
        """Let the head out; the body follows by put()."""
        self._status, self._content_type = status, content_type
        self._news.set()

    def put(self, frames: bytes) -> None:
        """Add whole frames."""
        if frames and not self.over:
            self._parts.append(frames)
            self._unread += len(frames)
            self._news.set()

    @property
    def unread(self) -> int:
        """Bytes that wait for the reader."""
        return self._unread

    async def read_down_to(self, size: int) -> None:
        """Return when no more than so many bytes wait for the reader, or nobody reads any more."""
        while self._unread > size and not self.over:
            self._read.clear()
            await self._read.wait()

    def end(self) -> None:
        """The answer is whole."""
        if not self.over:
            self._complete = True
            self._cancel = None
            self._news.set()

    def finish(self, status: int, body: bytes, content_type: str = JSON) -> None:
        """The whole answer at once."""
        if not self.over:
            self.begin(status, content_type)
            self.put(body)
            self.end()

    def fail(self, error: BaseException) -> None:
        """End with an error: as the whole answer, or as the last frame of a stream that has begun."""
        if isinstance(error, UpstreamClosed):
            self.break_off(error.message)
            return
        status, body = error_answer(error)
        self._let_go()
        if self.begun:
            self.put(b"data: " + body + b"\n\n")
            self.end()
        else:
            self.finish(status, body)

    def break_off(self, reason: str) -> None:
        """The engine is gone: whoever reads on gets UpstreamClosed."""
        self.refuse(UpstreamClosed(reason))

    def refuse(self, error: HerdError) -> None:
        """There is no answer, or no more of it: the error is raised to its reader as it is."""
        if not self.over:
            self._broken = error
            self._let_go()
            self._news.set()
            self._read.set()

    def _let_go(self) -> None:
        cancel, self._cancel = self._cancel, None
        if cancel is not None:
            cancel()

    # The side that reads it.

    async def __aenter__(self) -> Self:
        try:
            while self._status is None:
                await self._wait()
        except BaseException:
            self._leave()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self._leave()

    def _leave(self) -> None:
        self._left = True
        self._take()
        self._let_go()

    def _take(self) -> list[bytes]:
        """All that is there, which is read now."""
        parts, self._parts, self._unread = self._parts, [], 0
        self._read.set()
        return parts

    async def _wait(self) -> None:
        if self._broken is not None:
            raise self._broken
        await self._news.wait()
        self._news.clear()

    @property
    def status(self) -> int:
        if self._status is None:
            raise RuntimeError("the head of this answer is not there yet")
        return self._status

    @property
    def headers(self) -> Mapping[str, str]:
        return {"content-type": self._content_type}

    @property
    def content_type(self) -> str:
        return self._content_type

    @property
    def whole(self) -> bytes | None:
        return b"".join(self._parts) if self._complete else None

    async def chunks(self) -> AsyncIterator[bytes]:
        """What is there at once comes as one chunk, of whole frames."""
        while True:
            if self._parts:
                parts = self._take()
                yield parts[0] if len(parts) == 1 else b"".join(parts)
            elif self._complete:
                return
            else:
                await self._wait()

    async def read(self, limit: int = 64 * 1024 * 1024) -> bytes:
        return await read_whole(self.chunks(), limit)


def error_answer(error: BaseException) -> tuple[int, bytes]:
    """Status and body of an error, in llama-server's form. What is no HerdError may quote the prompt: its name only."""
    match error:
        case ContextLengthExceeded():
            status, kind = 400, "exceed_context_size_error"
        case EndpointUnsupported():
            status, kind = 501, "not_supported_error"
        case InvalidRequest():
            status, kind = 400, "invalid_request_error"
        case InsufficientMemory():
            status, kind = 503, "insufficient_memory"
        case Unavailable():
            status, kind = 503, "unavailable_error"
        case HerdError(status=status, type=kind) if status < 500:
            pass
        case _:
            status, kind = 500, "server_error"
    message = error.message if isinstance(error, HerdError) else f"The model failed ({type(error).__name__})."
    told: dict[str, Any] = {"code": status, "message": message, "type": kind}
    if isinstance(error, HerdError) and error.param is not None:
        told["param"] = error.param
    return status, orjson.dumps({"error": told})
