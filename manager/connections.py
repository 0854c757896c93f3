"""All connections of a server: how they are made, and how they end with it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from manager.connection import MAX_HEADER, Connection, Handler, Terms
from manager.places import Place
from manager.settings_server import ServerSettings
from manager.short_answers import SECURITY

# Of the head of a request: bytes of the URL with its method, and how many headers.
MAX_LINE: Final = 8190
MAX_HEADERS: Final = 128
# Seconds that the last bytes of answers, and the end of TLS, may take when the service ends.
GOODBYE: Final = 0.5


class ConnectionServer(web.Server):
    """Makes the connections of one handler. A client that leaves cancels what it asked for.

    Answers have the headers `always`, where the handler has not put them there itself.
    """

    def __init__(
        self,
        handler: Handler,
        settings: ServerSettings,
        always: Mapping[str, str] = SECURITY,
        request_factory: Any = None,
    ) -> None:
        super().__init__(handler, request_factory=request_factory, handler_cancellation=True)
        self.settings = settings
        self._terms = Terms(settings.header_timeout, settings.write_timeout, always)
        self._leaving: set[RequestHandler] = set()
        self._goodbyes: asyncio.Future[None] | None = None

    def connection(self, place: Place) -> Connection:
        """One that is not made yet; it gives its place back when it is lost."""
        return Connection(
            self,
            self._terms,
            place,
            access_log=None,
            keepalive_timeout=self.settings.keepalive_timeout,
            max_line_size=MAX_LINE,
            max_field_size=MAX_HEADER,
            max_headers=MAX_HEADERS,
        )

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        super().connection_lost(handler, exc)
        if self._goodbyes is not None:
            self._leaving.discard(handler)
            if not self._leaving and not self._goodbyes.done():
                self._goodbyes.set_result(None)

    async def shutdown(self, timeout: float | None = None) -> None:
        """End every handler, then every connection: with TLS that takes an answer, which not everyone gives."""
        connections = [connection for connection in self.connections if isinstance(connection, Connection)]
        await super().shutdown(timeout)
        leaving = [connection for connection in connections if connection.is_open]
        if not leaving:
            return
        self._leaving.update(leaving)
        self._goodbyes = asyncio.get_running_loop().create_future()
        await asyncio.wait({self._goodbyes}, timeout=GOODBYE)
        for connection in leaving:
            connection.abort()
        await asyncio.sleep(0)  # each hears of it in the loop's next turn


class Runner(web.AppRunner):
    """An application whose connections are held to the limits."""

    def __init__(
        self, app: web.Application, settings: ServerSettings, always: Mapping[str, str], shutdown_timeout: float
    ) -> None:
        super().__init__(app, shutdown_timeout=shutdown_timeout)
        self._settings = settings
        self._always = always

    async def _make_server(self) -> ConnectionServer:
        made = await super()._make_server()
        return ConnectionServer(made.request_handler, self._settings, self._always, made.request_factory)
