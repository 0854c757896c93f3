"""A thin HTTP/1.1 client for one child on a Unix socket: pooled connections, one retry, bytes handed on as is."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
from collections import deque
from collections.abc import AsyncIterator, Mapping
from typing import Final, cast

import httptools

from manager.engines import UpstreamRequest
from manager.errors import UpstreamClosed, UpstreamConnectError, UpstreamError

MAX_IDLE: Final = 64
# A reader that is slower than the child stops it here, and lets it go on when it has caught up.
HIGH_WATER: Final = 256 * 1024
# A full listen backlog refuses a Unix socket's connect at once. Of many who try again
# together only that many get in each time, so it is the time that is limited, not how often they try.
BACKLOG_PATIENCE: Final = 5.0
BACKLOG_PAUSES: Final = (0.001, 0.002, 0.005, 0.01)
BACKLOG_PAUSE_MOST: Final = 0.02

# A connection that is found closed so soon after a request, by an engine that is gone, was closed before it.
ENDED_BEFORE: Final = 0.05


class _Connection(asyncio.Protocol):
    """One connection and the response that is arriving on it. Also the callbacks of the httptools parser."""

    def __init__(self, client: UpstreamClient) -> None:
        self._client = client
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._paused = False
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
        self.touched = False  # a byte of this response has arrived
        self.broken: str | None = None

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are no subclass of it

    def data_received(self, data: bytes) -> None:
        self.touched = True
        try:
            self._parser.feed_data(data)
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
        self._client.forget(self)
        self._wake()

    # httptools callbacks

    def on_header(self, name: bytes, value: bytes) -> None:
        self.raw_headers.append((name, value))

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        if self.status >= 200:
            self.head_done = True
        else:  # 100 Continue and its like: the real head follows
            self.raw_headers = []

    def on_body(self, body: bytes) -> None:
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

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def take(self) -> bytes:
        """All of the body that has arrived and was not taken yet."""
        data = self.parts[0] if len(self.parts) == 1 else b"".join(self.parts)
        self.parts.clear()
        self.buffered = 0
        if self._paused and self._transport is not None and not self.lost:
            self._transport.resume_reading()
            self._paused = False
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


class Exchange:
    """One request and its response: `async with client.open(request) as response`."""

    __slots__ = ("_client", "_connection", "_request")

    def __init__(self, client: UpstreamClient, request: UpstreamRequest) -> None:
        self._client = client
        self._request = request
        self._connection: _Connection | None = None

    async def __aenter__(self) -> Exchange:
        data = self._client.encode(self._request)
        loop = asyncio.get_running_loop()
        connection = self._client.take_idle()
        if connection is not None:
            # llama-server closes kept-alive connections as it likes; a request that meets such a close, before
            # any byte of an answer, was not begun and is sent once more.
            sent = loop.time()
            if await self._send(connection, data):
                return self
            if connection.touched:
                raise self._closed(connection)
            try:
                connection = await self._client.connect()
            except UpstreamConnectError as error:
                if loop.time() - sent < ENDED_BEFORE:
                    raise
                raise self._closed(connection) from error  # it ended with the request in hand
        else:
            connection = await self._client.connect()
        sent = loop.time()
        if not await self._send(connection, data):
            if not connection.touched and loop.time() - sent < ENDED_BEFORE:
                # A process that is dying takes connections for a moment still.
                raise UpstreamConnectError("The engine closed the connection without a word.")
            raise self._closed(connection)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    async def _send(self, connection: _Connection, data: bytes) -> bool:
        """Whether the head of a response came."""
        self._connection = connection
        try:
            connection.send(data)
            while not connection.head_done:
                if connection.lost or connection.broken:
                    return False
                await connection.wait()
        except BaseException:
            self.close()
            raise
        return True

    def close(self) -> None:
        """Give the connection back, or end it where the response is unfinished: the child then frees its slot."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if connection.complete and connection.reusable and not connection.lost:
            self._client.give_back(connection)
        else:
            connection.abort()

    @property
    def status(self) -> int:
        return self._live().status

    @property
    def headers(self) -> Mapping[str, str]:
        raw = self._live().raw_headers
        return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in raw}

    @property
    def content_type(self) -> str:
        return self._live().header(b"content-type")

    @property
    def whole(self) -> bytes | None:
        connection = self._live()
        return connection.take() if connection.complete else None

    async def chunks(self) -> AsyncIterator[bytes]:
        connection = self._live()
        while True:
            if connection.parts:
                yield connection.take()
            elif connection.complete:
                return
            elif connection.lost or connection.broken:
                raise self._closed(connection)
            else:
                await connection.wait()

    async def read(self, limit: int = 64 * 1024 * 1024) -> bytes:
        pieces: list[bytes] = []
        size = 0
        async for chunk in self.chunks():
            size += len(chunk)
            if size > limit:
                raise UpstreamError(f"The engine's answer is longer than {limit} bytes.")
            pieces.append(chunk)
        return b"".join(pieces)

    def _live(self) -> _Connection:
        if self._connection is None:
            raise RuntimeError("this exchange is not open")
        return self._connection

    def _closed(self, connection: _Connection) -> UpstreamClosed:
        return UpstreamClosed(connection.broken or "The engine closed the connection before its answer was whole.")


class UpstreamClient:
    """The connections to one child. Not bound to a task; everything runs on the loop that made it."""

    def __init__(self, socket: str, key: str) -> None:
        self._socket = socket
        self._authorization = f"Host: localhost\r\nAuthorization: Bearer {key}\r\n"
        self._heads: dict[tuple[str, str], bytes] = {}
        self._idle: list[_Connection] = []
        self._open: set[_Connection] = set()
        self._closed = False

    def open(self, request: UpstreamRequest) -> Exchange:
        return Exchange(self, request)

    def close(self) -> None:
        """End every connection; requests in flight get UpstreamClosed."""
        self._closed = True
        for connection in list(self._open):
            connection.abort()

    def encode(self, request: UpstreamRequest) -> bytes:
        """Head and body in one piece."""
        which = (request.method, request.path)
        head = self._heads.get(which)
        if head is None:
            text = (
                f"{request.method} {request.path} HTTP/1.1\r\n{self._authorization}Content-Type: application/json\r\n"
            )
            head = text.encode("latin-1")
            if len(self._heads) < 64:  # paths come from our own route table; a query string must not fill memory
                self._heads[which] = head
        extra = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items()).encode("latin-1")
        return b"%bContent-Length: %d\r\n%b\r\n%b" % (head, len(request.body), extra, request.body)

    def take_idle(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if not connection.lost and not connection.touched:  # bytes nobody asked for belong to no answer
                return connection
            connection.abort()
        return None

    def give_back(self, connection: _Connection) -> None:
        connection.take()  # what nobody read; a connection that it had paused reads on
        if self._closed or len(self._idle) >= MAX_IDLE:
            connection.abort()
        else:
            connection.reset()
            self._idle.append(connection)

    def forget(self, connection: _Connection) -> None:
        self._open.discard(connection)
        with contextlib.suppress(ValueError):
            self._idle.remove(connection)

    async def connect(self) -> _Connection:
        """A new connection. Raises UpstreamConnectError where nobody listens."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + BACKLOG_PATIENCE
        for pause in itertools.chain(BACKLOG_PAUSES, itertools.repeat(BACKLOG_PAUSE_MOST)):
            if self._closed:
                raise UpstreamConnectError("The engine has been stopped.")
            try:
                _, connection = await loop.create_unix_connection(lambda: _Connection(self), self._socket)
            except OSError as error:
                if error.errno != errno.EAGAIN or loop.time() > deadline:
                    raise UpstreamConnectError("The engine can't be reached.") from error
                await asyncio.sleep(pause)
            else:
                break
        self._open.add(connection)
        return connection
