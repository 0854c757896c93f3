"""A thin HTTP/1.1 client for one child on a Unix socket: pooled connections, one retry, bytes handed on as is."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
from collections.abc import AsyncIterator, Mapping
from typing import Final

from manager.engines import UpstreamRequest, read_whole
from manager.engines.llama.connection import Connection
from manager.errors import UpstreamClosed, UpstreamConnectError

MAX_IDLE: Final = 64
# A full listen backlog refuses a Unix socket's connect at once. Of many who try again
# together only that many get in each time, so it is the time that is limited, not how often they try.
BACKLOG_PATIENCE: Final = 5.0
BACKLOG_PAUSES: Final = (0.001, 0.002, 0.005, 0.01)
BACKLOG_PAUSE_MOST: Final = 0.02

# A connection that is found closed so soon after a request, by an engine that is gone, was closed before it.
ENDED_BEFORE: Final = 0.05
# One that is closed later than this had taken the request: if that ends engines, it must not end another one.
BEGUN_AFTER: Final = 0.5


class Exchange:
    """One request and its response: `async with client.open(request) as response`."""

    __slots__ = ("_client", "_connection", "_request")

    def __init__(self, client: UpstreamClient, request: UpstreamRequest) -> None:
        self._client = client
        self._request = request
        self._connection: Connection | None = None

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
            if connection.touched or loop.time() - sent > BEGUN_AFTER:
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

    async def _send(self, connection: Connection, data: bytes) -> bool:
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
            self._client.give_up(connection)

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
        return await read_whole(self.chunks(), limit)

    def _live(self) -> Connection:
        if self._connection is None:
            raise RuntimeError("this exchange is not open")
        return self._connection

    def _closed(self, connection: Connection) -> UpstreamClosed:
        return UpstreamClosed(connection.broken or "The engine closed the connection before its answer was whole.")


class UpstreamClient:
    """The connections to one child. Not bound to a task; everything runs on the loop that made it."""

    def __init__(self, socket: str, key: str) -> None:
        self._socket = socket
        self._authorization = f"Host: localhost\r\nAuthorization: Bearer {key}\r\n"
        self._heads: dict[tuple[str, str], bytes] = {}
        self._idle: list[Connection] = []
        self._open: set[Connection] = set()
        self._closed = False
        # Seconds that requests waited that were given up since the last byte, and when the last of them was.
        self._vain = self._given_up_at = 0.0

    def open(self, request: UpstreamRequest) -> Exchange:
        return Exchange(self, request)

    @property
    def connections(self) -> int:
        return len(self._open)

    @property
    def due_since(self) -> float | None:
        """Since when the request that has waited longest for its next byte waits, by the loop's clock."""
        return min((since for each in self._open if (since := each.due_since) is not None), default=None)

    @property
    def in_vain(self) -> float:
        """Seconds for which a byte has been waited for: by the request that has waited longest, and by those before it
        that were given up since any body got a byte. Times in between without a request don't count.
        """
        return self._waited(self.due_since)

    def _waited(self, since: float | None) -> float:
        if since is None:
            return self._vain
        now = asyncio.get_running_loop().time()
        return max(now - since, self._vain + now - max(since, self._given_up_at))

    def heard(self) -> None:
        """A body got a byte."""
        self._vain = self._given_up_at = 0.0

    def give_up(self, connection: Connection) -> None:
        """End a connection whose answer is unfinished."""
        since = connection.due_since
        if since is not None:
            self._vain, self._given_up_at = self._waited(since), asyncio.get_running_loop().time()
        connection.abort()

    def close(self) -> None:
        """End every connection; requests in flight get UpstreamClosed."""
        self._closed = True
        for connection in list(self._open):
            connection.abort()

    def encode(self, request: UpstreamRequest) -> bytes:
        """Head and body in one piece."""
        which = (request.method, request.path)
        head = self._heads.get(which)
        if head is None or request.headers:
            kind = "" if "Content-Type" in request.headers else "Content-Type: application/json\r\n"
            text = f"{request.method} {request.path} HTTP/1.1\r\n{self._authorization}{kind}"
            head = text.encode("latin-1")
            # Nearly all paths are those of our own routes; others (/upstream) must not fill memory.
            if len(self._heads) < 64 and not request.headers:
                self._heads[which] = head
        extra = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items()).encode("latin-1")
        return b"%bContent-Length: %d\r\n%b\r\n%b" % (head, len(request.body), extra, request.body)

    def take_idle(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if not connection.lost and not connection.touched:  # bytes nobody asked for belong to no answer
                return connection
            connection.abort()
        return None

    def give_back(self, connection: Connection) -> None:
        connection.take()  # what nobody read; a connection that it had paused reads on
        if self._closed or len(self._idle) >= MAX_IDLE:
            connection.abort()
        else:
            connection.reset()
            self._idle.append(connection)

    def forget(self, connection: Connection) -> None:
        self._open.discard(connection)
        with contextlib.suppress(ValueError):
            self._idle.remove(connection)

    async def connect(self) -> Connection:
        """A new connection. Raises UpstreamConnectError where nobody listens."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + BACKLOG_PATIENCE
        for pause in itertools.chain(BACKLOG_PAUSES, itertools.repeat(BACKLOG_PAUSE_MOST)):
            if self._closed:
                raise UpstreamConnectError("The engine has been stopped.")
            try:
                _, connection = await loop.create_unix_connection(
                    lambda: Connection(self.forget, self.heard), self._socket
                )
            except OSError as error:
                if error.errno != errno.EAGAIN or loop.time() > deadline:
                    raise UpstreamConnectError("The engine can't be reached.") from error
                await asyncio.sleep(pause)
            else:
                break
        self._open.add(connection)
        return connection
