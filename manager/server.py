"""The running server: its address, its signals, and the order of its end."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Sequence
from typing import Final

import uvloop
from aiohttp import web

from manager import app as composition
from manager.activation import PassedSocket, PassedSockets, passed_sockets
from manager.addresses import admits, is_loopback
from manager.connections import ConnectionServer, Runner
from manager.errors import ConfigError
from manager.listener import Listener
from manager.log import logging_to
from manager.log_queue import LogEnds
from manager.notify import Notifier
from manager.places import Places
from manager.redirect import Redirect
from manager.service import SERVICE, Service
from manager.settings import Settings
from manager.short_answers import always

logger = logging.getLogger(__name__)

# After draining only feeds and idle connections are left; they get this long to end.
CLOSE_TIMEOUT: Final = 2.0
# Seconds that the end may take beside what the settings give to it, before systemd ends what is left.
END_MARGIN: Final = 30.0
# Requests leave little for the cycle collector; with its default of 700 it runs about every third of them.
GC_THRESHOLDS: Final = (20_000, 20, 50)


def run(settings: Settings) -> int:
    """Serve until a signal; returns the exit status. Raises ConfigError for a mistake in settings or files."""
    # Else it would end a service that has not come to reading files again. SIG_IGN would be inherited by children.
    signal.signal(signal.SIGHUP, lambda *_: None)
    notifier = Notifier.taken_from(os.environ)
    notifier.starting()
    passed = passed_sockets(os.environ)
    settings = passed.applied_to(settings)
    with (
        logging_to(sys.stderr, settings.server.log_level, settings.log) as ends,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        app = composition.create_app(settings)
        _log_to(ends, settings.log.format, app[SERVICE])
        runner.run(_serve(app, settings, notifier, passed))
    return 0


def _log_to(ends: LogEnds, form: str, service: Service) -> None:
    """Requests and what engines write go where all else goes, and the service shows what was logged before it was."""
    service.recent_log = ends.recent
    if service.access_log is not None:
        service.access_log.write_as(form, ends)
    if ends.files is not None:
        service.pool.engine_lines_to = ends.files.models.add


async def _serve(app: web.Application, settings: Settings, notifier: Notifier, passed: PassedSockets) -> None:
    stop = Signals(notifier)
    server = Server(app, settings, passed)
    async with notifier.telling(lambda: _status(app[SERVICE])):
        await server.start()
        try:
            stop.install(app)
            notifier.ready()  # not before: a signal would end the process
            await stop.first.wait()
            logger.info("draining in_flight=%d", app[SERVICE].gate.in_flight)
            notifier.stopping(settings.server.drain_timeout + settings.limits.stop_grace + END_MARGIN)
            await server.drain(stop.second)
        finally:
            await server.close()
    logger.info("ended")


def _status(service: Service) -> str:
    return f"{len(service.pool.catalog)} models, {len(service.pool.loaded)} loaded, {service.gate.in_flight} requests"


class Signals:
    """SIGTERM and SIGINT: the first drains, the second skips what is left of that. SIGHUP reads files again."""

    def __init__(self, notifier: Notifier) -> None:
        self._notifier = notifier
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
        self._notifier.reloading()
        task = asyncio.create_task(app[SERVICE].reloader.try_reload())
        self._reloads.add(task)
        task.add_done_callback(self._reloaded)

    def _reloaded(self, task: asyncio.Task[None]) -> None:
        self._reloads.discard(task)
        if not self._reloads and not self.first.is_set():
            self._notifier.ready()


class Server:
    """An application on its address; with TLS, also what sends clients of plain HTTP there."""

    def __init__(self, app: web.Application, settings: Settings, passed: PassedSockets = PassedSockets()) -> None:  # noqa: B008  frozen
        self._app = app
        self._settings = settings
        self._passed = passed
        self._places = Places(settings.server)
        self._runner = Runner(app, settings.server, always(settings.tls), CLOSE_TIMEOUT)
        self._listeners: list[Listener] = []
        self._redirects: ConnectionServer | None = None

    async def start(self) -> None:
        """Listen. Raises ConfigError where an address can't be had."""
        await self._runner.setup()
        self._places.fit_open_files()
        try:
            await self._listen()
        except ConfigError:
            await self._stop_listening()
            await self._runner.cleanup()
            raise
        # What start-up made lives as long as the process: the collector need not walk it again and again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        service = self._app[SERVICE]
        logger.info("listening urls=%s models=%d keys=%d", self.urls, len(service.pool.catalog), len(service.keys))
        if not service.keys_required:
            who = "on this machine" if is_loopback(self._settings.server.host) else "who reaches it"
            logger.warning("no API key is stored: everyone %s may use the service", who)
        service.pool.preload()

    @property
    def urls(self) -> str:
        """The addresses that it listens on, the port as the system chose it where it is 0."""
        return self._listeners[0].urls

    async def _listen(self) -> None:
        settings, tls = self._settings, self._app[SERVICE].tls
        assert isinstance(self._runner.server, ConnectionServer)  # noqa: S101  the runner has made it
        main = Listener(self._runner.server, self._places, tls.context if tls is not None else None)
        await self._listen_on(main, self._passed.main, settings.server.port, "server.port")
        if tls is not None and (self._passed.http or settings.tls.http_port is not None):
            redirect = Redirect(settings.tls.public_port or main.port, settings.tls.webroot, self._admits)
            self._redirects = ConnectionServer(redirect, settings.server)
            plain = Listener(self._redirects, self._places)
            await self._listen_on(plain, self._passed.http, settings.tls.http_port or 0, "tls.http_port")
            logger.info("sending plain HTTP to HTTPS urls=%s", plain.urls)

    async def _listen_on(self, listener: Listener, passed: Sequence[PassedSocket], port: int, setting: str) -> None:
        if passed:
            listener.adopt(one.descriptor for one in passed)
            self._listeners.append(listener)
            return
        host = self._settings.server.host
        try:
            await listener.start(host, port)
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "that is neither an address nor a host name"
            raise ConfigError(f"can't listen on {host} port {port} (settings server.host, {setting}): {why}") from error
        self._listeners.append(listener)
        if is_loopback(host) and (others := [address for address in listener.addresses if not is_loopback(address)]):
            # Much is allowed to a service that only this machine can reach, and by its name this one counts as such.
            raise ConfigError(
                f"server.host is {host}, but on this machine that is {', '.join(others)}, which others can reach: "
                "listen on 127.0.0.1, or mend the entry in /etc/hosts"
            )

    def _admits(self, host: str) -> bool:
        names = self._settings.server.allowed_hosts
        return not names or admits(host, names) or is_loopback(host)

    async def _stop_listening(self) -> None:
        for listener in self._listeners:
            await listener.close()
        if self._redirects is not None:
            await self._redirects.shutdown(CLOSE_TIMEOUT)

    async def drain(self, skip: asyncio.Event) -> None:
        """Admit nothing, end the feeds, and wait for what is in flight: up to the limit, or until `skip`."""
        service = self._app[SERVICE]
        service.gate.close()
        service.pool.end_feeds()
        waits = [asyncio.create_task(service.gate.wait_empty()), asyncio.create_task(skip.wait())]
        await asyncio.wait(waits, timeout=self._settings.server.drain_timeout, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    async def close(self) -> None:
        """Stop every child, end every handler, stop listening."""
        service = self._app[SERVICE]
        await service.reloader.close()  # or a reading that ends now would tell a pool that has ended
        # The children first: what did not end in time hears of it and has done, where aiohttp would wait for it twice.
        await service.pool.close()
        await self._stop_listening()
        await self._runner.cleanup()
