"""A connection held to its times: how long a client may take to send a request and to read its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Final

from aiohttp import HttpVersion10, HttpVersion11, hdrs, web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import RequestHandler

from manager.errors import HerdError, InvalidRequest
from manager.places import Place
from manager.short_answers import HeadTimeout, HeadTooLarge, Refusal, VersionNotSpoken, closing_bytes, closing_response
from manager.stall import StallWatch

# Bytes of one header.
MAX_HEADER: Final = 8190
# Bytes of a head that comes in pieces, whatever it is made of.
MAX_HEAD: Final = 64 * 1024
# Bytes of an answer that wait for the client in this process, beyond those that the system holds for it.
WRITE_BUFFER: Final = 64 * 1024
# A client that ends its sending side has nearly always left, which must end what it asked for; one that has not gets
# what is answered at once: within so many turns of the loop, with so many seconds between them.
TURNS: Final = 10
TURN: Final = 0.002
VERSIONS: Final = (HttpVersion11, HttpVersion10)
LATE: Final = HeadTimeout("The head of the request took too long to come.")
TOO_LARGE: Final = HeadTooLarge(f"The head of the request is larger than {MAX_HEAD} bytes.")
NO_SUCH_VERSION: Final = VersionNotSpoken("This service speaks HTTP/1.1 and HTTP/1.0.")

Handler = Callable[[Any], Awaitable[web.StreamResponse]]


class Terms:
    """What all connections of a server are held to. Times in seconds; answers have the headers `always`."""

    def __init__(self, header_timeout: float, write_timeout: float, always: Mapping[str, str]) -> None:
        self.header_timeout = header_timeout
        self.write_timeout = write_timeout
        self.always = always
        self.late, self.too_large, self.no_such_version = (
            closing_bytes(error, always) for error in (LATE, TOO_LARGE, NO_SUCH_VERSION)
        )


class Connection(RequestHandler):
    """One client's connection, whose client must send its requests and take its answers in time.

    The body of a request is the business of whoever reads it.
    """

    __slots__ = (
        "_half_closed_timer",
        "_head_size",
        "_head_timer",
        "_link",
        "_payload",
        "_place",
        "_terms",
        "_watch",
    )

    def __init__(self, server: web.Server, terms: Terms, place: Place, **options: Any) -> None:
        super().__init__(server, loop=asyncio.get_running_loop(), **options)
        self._terms = terms
        self._place = place
        self._payload: StreamReader = EMPTY_PAYLOAD  # the body of the last request that came
        self._head_size = 0  # bytes of a head that came in pieces
        self._head_timer: asyncio.TimerHandle | None = None
        self._half_closed_timer: asyncio.TimerHandle | None = None
        self._link: asyncio.Transport | None = None  # until it is lost; aiohttp's `transport` until it is closed
        self._watch: StallWatch | None = None

    @property
    def is_open(self) -> bool:
        """Whether it has been made and is not lost; it may be closing."""
        return self._link is not None

    @property
    def _idle(self) -> bool:
        """Whether no request is there: aiohttp waits for one exactly so long."""
        return self._waiter is not None and not self._waiter.done()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert self.transport is not None and self._task_handler is not None  # noqa: S101, PT018  they are there now
        self._link = self.transport
        self._link.set_write_buffer_limits(WRITE_BUFFER)  # with TLS it would be 512 KiB
        self._watch = StallWatch(self._link, self._terms.write_timeout)
        self._task_handler.add_done_callback(self._watch_the_end)
        self._await_head()

    def connection_lost(self, exc: BaseException | None) -> None:
        for timer in (self._head_timer, self._watch, self._half_closed_timer):
            if timer is not None:
                timer.cancel()
        self._link = None
        self._place.leave()
        super().connection_lost(exc)

    def abort(self) -> None:
        """Lose it at once."""
        if self._link is not None:
            self._link.abort()

    def data_received(self, data: bytes) -> None:
        count, whole = self._request_count, self._payload.is_eof()
        super().data_received(data)
        if self._request_count != count:
            self._payload = self._messages[-1][1]
            self._head_size = 0
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None
        elif whole and data and not self._upgraded:
            # What made no request and is no body is part of a head. Most heads come in one piece, and have no timer.
            self._head_size += len(data)
            if self._idle:
                self._continue_head()
            elif self._head_size > MAX_HEAD:
                self.close()  # after the answer that is on its way: what comes from now on is not kept

    def eof_received(self) -> bool:  # type: ignore[override]  # asyncio heeds it
        """The client sends no more. True keeps the other direction open, which TLS knows no way to do."""
        if self._idle or self.transport is None or self.ssl_context is not None:
            return False
        self._close_soon(TURNS)
        return True

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._watch is not None:
            self._watch.begin()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._watch is not None and self.transport is not None and not self.transport.is_closing():
            self._watch.cancel()

    def _handle_request(
        self,
        request: web.BaseRequest,
        start_time: float | None,
        request_handler: Handler,
    ) -> Coroutine[Any, Any, tuple[web.StreamResponse, bool]]:
        if request.version in VERSIONS:
            return super()._handle_request(request, start_time, request_handler)
        return self._refuse_version()

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        if isinstance(resp, web.HTTPException):  # that no route has answered for: no expectation that is known, `*`
            resp = closing_response(Refusal(resp.status))
        if not resp.prepared and hdrs.SERVER not in resp.headers:  # nor has a route of the application
            resp.headers.update(self._terms.always)
        content = request.content
        if not content.is_eof() and hdrs.CONTENT_ENCODING in request.headers:
            # aiohttp reads for some seconds what nobody wanted, and would inflate it: there is no end to that.
            resp.force_close()
            content.feed_eof()
        declined = self._upgraded
        if hdrs.UPGRADE in request.headers and not declined:
            resp.force_close()  # aiohttp drops what came behind an offer it does not know, and would read on after that
        answered = await super().finish_response(request, resp, start_time)
        if declined and self._messages:  # what came behind the offer of another protocol is parsed now
            self._payload = self._messages[-1][1]
        if self._head_size and answered[0].keep_alive and not self._messages and self.transport is not None:
            self._continue_head()
        return answered

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

    def _await_head(self) -> None:
        self._head_timer = self._loop.call_later(self._terms.header_timeout, self._refuse, self._terms.late)

    def _continue_head(self) -> None:
        if self._head_size > MAX_HEAD:
            self._refuse(self._terms.too_large)
        elif self._head_timer is None:
            self._await_head()

    def _close_soon(self, turns: int) -> None:
        if turns:
            self._half_closed_timer = self._loop.call_later(TURN, self._close_soon, turns - 1)
        elif self.transport is not None:
            self.transport.close()

    def _refuse(self, answer: bytes) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(answer)
            self.force_close()

    async def _refuse_version(self) -> tuple[web.StreamResponse, bool]:
        """aiohttp would answer in the version of the request."""
        self._refuse(self._terms.no_such_version)
        return web.Response(), True

    def _watch_the_end(self, _: asyncio.Task[None]) -> None:
        """Nobody handles requests any more: the client has to take what is left, and with TLS say goodbye."""
        if self._link is not None and self._watch is not None:
            self._watch.begin()
