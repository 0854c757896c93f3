"""Connections held to their times: how long a client may take to send a request and to read its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from aiohttp import hdrs, web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.web_protocol import RequestHandler

from manager.errors import HerdError, InvalidRequest
from manager.places import Place
from manager.settings_server import ServerSettings
from manager.short_answers import HeadTimeout, HeadTooLarge, Refusal, closing_bytes, closing_response

# Of the head of a request, in bytes: the URL with its method, one header; and how many headers.
MAX_LINE: Final = 8190
MAX_HEADER: Final = 8190
MAX_HEADERS: Final = 128
# Bytes of a head that comes in pieces, whatever it is made of.
MAX_HEAD: Final = 64 * 1024
# Bytes of an answer that wait for the client in this process, beyond those that the system holds for it.
WRITE_BUFFER: Final = 64 * 1024
# A client that ends its sending side has nearly always left, which must end what it asked for; one that has not gets
# what is answered at once: within so many turns of the loop, with so many seconds between them.
TURNS: Final = 10
TURN: Final = 0.002
# Seconds that the last bytes of answers, and the end of TLS, may take when the service ends.
GOODBYE: Final = 0.5
LATE: Final = closing_bytes(HeadTimeout("The head of the request took too long to come."))
TOO_LARGE: Final = closing_bytes(HeadTooLarge(f"The head of the request is larger than {MAX_HEAD} bytes."))

Handler = Callable[[Any], Awaitable[web.StreamResponse]]


class Connection(RequestHandler):
    """One client's connection, whose client must send its requests and take its answers in time.

    The body of a request is the business of whoever reads it.
    """

    __slots__ = (
        "_half_closed_timer",
        "_head_size",
        "_head_timeout",
        "_head_timer",
        "_place",
        "_write_timeout",
        "_write_timer",
    )

    def __init__(self, server: ConnectionServer, place: Place, **options: Any) -> None:
        super().__init__(server, loop=asyncio.get_running_loop(), **options)
        self._place = place
        self._head_timeout = server.settings.header_timeout
        self._write_timeout = server.settings.write_timeout
        self._head_size = 0  # bytes of a head that came in pieces
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._half_closed_timer: asyncio.TimerHandle | None = None

    @property
    def _idle(self) -> bool:
        """Whether no request is there: aiohttp waits for one exactly so long."""
        return self._waiter is not None and not self._waiter.done()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert self.transport is not None  # noqa: S101  it is there now
        self.transport.set_write_buffer_limits(WRITE_BUFFER)  # with TLS it would be 512 KiB
        self._head_timer = self._loop.call_later(self._head_timeout, self._refuse, LATE)

    def connection_lost(self, exc: BaseException | None) -> None:
        for timer in (self._head_timer, self._write_timer, self._half_closed_timer):
            if timer is not None:
                timer.cancel()
        self._place.leave()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        # What came and made no request is part of a head. Most heads come in one piece, and have no timer.
        if self._idle:
            if not data:
                return
            self._head_size += len(data)
            if self._head_size > MAX_HEAD:
                self._refuse(TOO_LARGE)
            elif self._head_timer is None:
                self._head_timer = self._loop.call_later(self._head_timeout, self._refuse, LATE)
        elif self._head_timer is not None and self._request_count:
            self._head_timer.cancel()
            self._head_timer = None
            self._head_size = 0

    def eof_received(self) -> bool:  # type: ignore[override]  # asyncio heeds it
        """The client sends no more. True keeps the other direction open, which TLS knows no way to do."""
        if self._idle or self.transport is None or self.ssl_context is not None:
            return False
        self._close_soon(TURNS)
        return True

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.transport is not None:
            self._write_timer = self._loop.call_later(self._write_timeout, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        if isinstance(resp, web.HTTPException):  # that no route has answered for: no expectation that is known, `*`
            resp = closing_response(Refusal(resp.status))
        content = request.content
        if not content.is_eof() and hdrs.CONTENT_ENCODING in request.headers:
            # aiohttp reads for some seconds what nobody wanted, and would inflate it: there is no end to that.
            resp.force_close()
            content.feed_eof()
        return await super().finish_response(request, resp, start_time)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to what aiohttp can't parse, without a byte of it: a key could be among them."""
        super().handle_error(request, status, exc, message)  # logs; raises where an answer has begun
        if isinstance(exc, LineTooLong):
            return closing_response(InvalidRequest(f"The URL or a header is longer than {MAX_HEADER} bytes."))
        if status == 400:
            return closing_response(InvalidRequest("This is not a valid HTTP request."))
        return closing_response(HerdError("The service made a mistake. Its log has more."))

    def _close_soon(self, turns: int) -> None:
        if turns:
            self._half_closed_timer = self._loop.call_later(TURN, self._close_soon, turns - 1)
        elif self.transport is not None:
            self.transport.close()

    def _refuse(self, answer: bytes) -> None:
        if self.transport is not None:
            self.transport.write(answer)
            self.force_close()


class ConnectionServer(web.Server):
    """Makes the connections of one handler. A client that leaves cancels what it asked for."""

    def __init__(self, handler: Handler, settings: ServerSettings, request_factory: Any = None) -> None:
        super().__init__(handler, request_factory=request_factory, handler_cancellation=True)
        self.settings = settings
        self._open: dict[RequestHandler, asyncio.Transport] = {}
        self._goodbyes: asyncio.Future[None] | None = None

    def connection(self, place: Place) -> Connection:
        """One that is not made yet; it gives its place back when it is lost."""
        return Connection(
            self,
            place,
            access_log=None,
            keepalive_timeout=self.settings.keepalive_timeout,
            max_line_size=MAX_LINE,
            max_field_size=MAX_HEADER,
            max_headers=MAX_HEADERS,
        )

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        self._open[handler] = transport

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        super().connection_lost(handler, exc)
        self._open.pop(handler, None)
        if self._goodbyes is not None and not self._open and not self._goodbyes.done():
            self._goodbyes.set_result(None)

    async def shutdown(self, timeout: float | None = None) -> None:
        """End every handler, then every connection: with TLS that takes an answer, which not everyone gives."""
        await super().shutdown(timeout)
        if not self._open:
            return
        self._goodbyes = asyncio.get_running_loop().create_future()
        await asyncio.wait({self._goodbyes}, timeout=GOODBYE)
        for transport in list(self._open.values()):
            transport.abort()
        await asyncio.sleep(0)  # each hears of it in the loop's next turn


class Runner(web.AppRunner):
    """An application whose connections are held to the limits."""

    def __init__(self, app: web.Application, settings: ServerSettings, shutdown_timeout: float) -> None:
        super().__init__(app, shutdown_timeout=shutdown_timeout)
        self._settings = settings

    async def _make_server(self) -> ConnectionServer:
        made = await super()._make_server()
        return ConnectionServer(made.request_handler, self._settings, made.request_factory)
