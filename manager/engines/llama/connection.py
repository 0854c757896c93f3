"""One kept-alive HTTP/1.1 connection to a child: the response that is arriving on it, parsed by httptools."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, cast

import httptools

# A reader that is slower than the child stops it here, and lets it go on when it has caught up.
HIGH_WATER: Final = 256 * 1024
# What llama-server sends every 30 s on a silent stream. It comes from an HTTP thread, whatever inference does.
PING: Final = b":\n\n"


class Connection(asyncio.Protocol):
    """One connection and the response that is arriving on it. Also the callbacks of the httptools parser."""

    def __init__(self, on_lost: Callable[[Connection], None], on_heard: Callable[[], None]) -> None:
        self._on_lost = on_lost
        self._on_heard = on_heard  # called at what comes of a body; a head may come before inference did anything
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._paused = self._body_came = False
        self._now = asyncio.get_running_loop().time
        self.lost = False
        self.reset()

    def reset(self) -> None:
        """Make ready for the next response."""
        self.status = 0
        self.raw_headers: list[tuple[bytes, bytes]] = []
        self.parts: deque[bytes] = deque()
        self.buffered = 0
        self.head_done = False
        self.complete = False
        self.reusable = False
        # While an answer is due: the loop's time of its last byte, or of the request's.
        self.heard_at: float | None = None
        self.touched = False  # a byte of this response has arrived
        self.broken: str | None = None

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are no subclass of it

    def data_received(self, data: bytes) -> None:
        self.touched = True
        try:
            self._parser.feed_data(data)
            if self._body_came:
                self._body_came = False
                self.heard_at = self._now()
                self._on_heard()
        except httptools.HttpParserError as error:
            self.broken = f"the engine sent no valid HTTP ({type(error).__name__})"
            self.abort()
        if self.buffered > HIGH_WATER and not self._paused and self._transport is not None:
            self._transport.pause_reading()
            self._paused = True
        self._wake()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if self.head_done and not self.complete and self._ends_with_connection() and exc is None:
            self.complete = True
        self._on_lost(self)
        self._wake()

    # httptools callbacks

    def on_header(self, name: bytes, value: bytes) -> None:
        self.raw_headers.append((name, value))

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        if self.status >= 200:
            self.head_done = True
            self.heard_at = self._now()
        else:  # 100 Continue and its like: the real head follows
            self.raw_headers = []

    def on_body(self, body: bytes) -> None:
        if body != PING:
            self._body_came = True  # told of once for all that came together: many tokens may
        self.parts.append(body)
        self.buffered += len(body)

    def on_message_complete(self) -> None:
        if self.head_done:
            self.complete = True
            self.reusable = self._parser.should_keep_alive()

    # for the exchange

    def send(self, data: bytes) -> None:
        assert self._transport is not None  # noqa: S101  connection_made ran before anyone got this connection
        self._transport.write(data)
        self.heard_at = self._now()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    @property
    def due_since(self) -> float | None:
        """Since when a byte of the engine has been waited for, by the loop's clock; None where none is due."""
        return None if self.complete or self.lost or self._paused else self.heard_at

    def take(self) -> bytes:
        """All of the body that has arrived and was not taken yet."""
        data = self.parts[0] if len(self.parts) == 1 else b"".join(self.parts)
        self.parts.clear()
        self.buffered = 0
        if self._paused and self._transport is not None and not self.lost:
            self._transport.resume_reading()
            self._paused = False
            self.heard_at = self._now()
        return data

    def header(self, wanted: bytes) -> str:
        """The value of a header, by its name in lower case; empty where it is missing."""
        for name, value in self.raw_headers:
            if len(name) == len(wanted) and name.lower() == wanted:
                return value.decode("latin-1")
        return ""

    async def wait(self) -> None:
        """Until something has changed."""
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _ends_with_connection(self) -> bool:
        return not self.header(b"content-length") and not self.header(b"transfer-encoding")
