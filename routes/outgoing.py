"""The client's side of an inference request: its head, the parts of a stream, signs of life, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

from aiohttp import web

from manager.errors import HerdError
from manager.inflight import Running
from routes import sse
from routes.asked import asks_for_several
from routes.body import BODY
from routes.captured import keep_head
from routes.form import Form


class Outgoing:
    """One answer. Its head is sent with the first byte, and at most once.

    `says` tells why a stream is quiet; `sent_at` is when something was last sent, by time.monotonic.
    """

    def __init__(self, request: web.Request, running: Running, form: Form, says: Callable[[], str] = str) -> None:
        self.running = running
        self.body = request.get(BODY, {})
        self.several = asks_for_several(self.body)
        self.form = form
        self.sent_at = time.monotonic()
        self._says = says
        self._request = request
        self._response: web.StreamResponse | None = None
        self._writing = False
        self._pulse: asyncio.Task[None] | None = None

    @property
    def begun(self) -> bool:
        return self._response is not None

    async def write(self, data: bytes) -> None:
        """Send a part of a stream. ConnectionError where the client is gone."""
        if self._pulse is not None:
            await self.settle()
        self._writing = True
        try:
            await self._write(data)
        finally:
            self._writing = False

    async def _write(self, data: bytes) -> None:
        running = self.running
        if self._response is None:
            self._response = await sse.begin(self._request, self.form.headers)
            keep_head(self._request, running, self._response)
        running.sent += len(data)
        if running.capture is not None:
            running.capture.sent(data)
        self.sent_at = time.monotonic()
        await self._response.write(data)

    def beat(self) -> None:
        """Send a sign of life, unless something is on its way: a client that takes nothing gets nothing more."""
        if not self._writing and (self._pulse is None or self._pulse.done()):
            self._pulse = asyncio.create_task(self._beat(self.form.pulse(self._says())))

    async def _beat(self, data: bytes) -> None:
        with contextlib.suppress(ConnectionError):  # which the next part will meet, too
            await self._write(data)

    async def settle(self) -> None:
        """Wait for a sign of life that is on its way. Whether the answer has begun is certain then."""
        if self._pulse is not None:
            await asyncio.wait({self._pulse})
            self._pulse = None

    async def end(self) -> web.StreamResponse:
        if self._response is None:
            await self.write(b"")
        assert self._response is not None  # noqa: S101  write() made it
        await self._response.write_eof()
        return self._response

    async def fail(self, error: HerdError) -> web.StreamResponse:
        """The head is out: the error becomes the last frame, and no [DONE] follows."""
        await self.write(self.form.failed(error))
        return await self.end()
