"""The running server: its address, its signals, and the order of its end."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys
from typing import Final

import uvloop
from aiohttp import web

from manager import app as composition
from manager.errors import ConfigError
from manager.log import logging_to
from manager.service import SERVICE
from manager.settings import Settings

logger = logging.getLogger(__name__)

# After draining only feeds and idle connections are left; they get this long to end.
CLOSE_TIMEOUT: Final = 2.0
# Requests leave little for the cycle collector; with its default of 700 it runs about every third of them.
GC_THRESHOLDS: Final = (20_000, 20, 50)


def run(settings: Settings) -> int:
    """Serve until a signal; returns the exit status. Raises ConfigError for a mistake in settings or files."""
    app = composition.create_app(settings)
    with (
        logging_to(sys.stderr, settings.server.log_level),
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        runner.run(_serve(app, settings))
    return 0


async def _serve(app: web.Application, settings: Settings) -> None:
    stop = Signals()
    server = Server(app, settings)
    await server.start()
    try:
        stop.install(app)
        await stop.first.wait()
        logger.info("draining in_flight=%d", app[SERVICE].gate.in_flight)
        await server.drain(stop.second)
    finally:
        await server.close()
    logger.info("ended")


class Signals:
    """SIGTERM and SIGINT: the first drains, the second skips what is left of that. SIGHUP reads files again."""

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        self._reloads: set[asyncio.Task[None]] = set()

    def install(self, app: web.Application) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        loop.add_signal_handler(signal.SIGHUP, self._hang_up, app)

    def _stop(self) -> None:
        (self.second if self.first.is_set() else self.first).set()

    def _hang_up(self, app: web.Application) -> None:
        task = asyncio.create_task(app[SERVICE].reloader.try_reload())
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)


class Server:
    """An application on its address."""

    def __init__(self, app: web.Application, settings: Settings) -> None:
        self._app = app
        self._settings = settings.server
        # handler_cancellation: a client that leaves must free its slot at once.
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=CLOSE_TIMEOUT)

    async def start(self) -> None:
        """Listen. Raises ConfigError where the address can't be had."""
        await self._runner.setup()
        host, port = self._settings.host, self._settings.port
        try:
            await web.TCPSite(self._runner, host, port, backlog=1024).start()
        except OSError as error:
            await self._runner.cleanup()
            raise ConfigError(
                f"can't listen on {host} port {port} (settings server.host, server.port): {error.strerror}"
            ) from error
        # What start-up made lives as long as the process: the collector need not walk it again and again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        service = self._app[SERVICE]
        logger.info("listening urls=%s models=%d keys=%d", self.urls, len(service.pool.catalog), len(service.keys))
        if not service.keys_required:
            logger.warning("no API key is stored: everyone on this machine may use the service")
        service.pool.preload()

    @property
    def urls(self) -> str:
        """The addresses that it listens on, the port as the system chose it where it is 0."""
        return ",".join(
            f"http://{'[' + host + ']' if ':' in host else host}:{port}" for host, port, *_ in self._runner.addresses
        )

    async def drain(self, skip: asyncio.Event) -> None:
        """Admit nothing, end the feeds, and wait for what is in flight: up to the limit, or until `skip`."""
        service = self._app[SERVICE]
        service.gate.close()
        service.pool.end_feeds()
        waits = [asyncio.create_task(service.gate.wait_empty()), asyncio.create_task(skip.wait())]
        await asyncio.wait(waits, timeout=self._settings.drain_timeout, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    async def close(self) -> None:
        """Stop every child, end every handler, stop listening."""
        service = self._app[SERVICE]
        await service.reloader.close()  # or a reading that ends now would tell a pool that has ended
        # The children first: what did not end in time hears of it and has done, where aiohttp would wait for it twice.
        await service.pool.close()
        await self._runner.cleanup()
