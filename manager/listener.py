"""Listening sockets. Connections are counted as they are accepted, before TLS costs anything."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
from collections.abc import Iterable
from typing import Final

from manager.connections import ConnectionServer
from manager.places import Place, Places
from manager.short_answers import TooManyConnections, closing_bytes

logger = logging.getLogger(__name__)

BACKLOG: Final = 1024
ACCEPT_AT_ONCE: Final = 64
# Seconds of rest where the system has no file or memory left for a connection.
REST: Final = 1.0
TLS_HANDSHAKE: Final = 10.0
# Seconds until the loop itself ends a TLS connection that is closed. Its client gets the rest of its answer before, and
# as long as it takes any of that, it may take long: StallWatch ends it where it does not.
TLS_SHUTDOWN: Final = 86_400.0
# Seconds between the questions whether a silent peer is still there.
KEEPALIVE_EVERY: Final = 10
MOST_KEEPIDLE: Final = 32767  # what Linux takes
NO_SUCH_FAMILY: Final = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}
FULL: Final = closing_bytes(TooManyConnections("The service has as many connections as it takes.", retry_after=5))


class Listener:
    """All addresses of one host, with TLS where there is a context."""

    def __init__(self, server: ConnectionServer, places: Places, context: ssl.SSLContext | None = None) -> None:
        self._server = server
        self._places = places
        self._context = context
        self._sockets: list[socket.socket] = []
        self._beginning: dict[asyncio.Task[None], socket.socket] = {}

    async def start(self, host: str, port: int) -> None:
        """Listen; 0 takes a free port. Raises OSError where the address can't be had, ValueError where it is none."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        failure: OSError | None = None
        for family, address in dict.fromkeys((entry[0], str(entry[4][0])) for entry in found):
            try:
                self._sockets.append(_listening(family, address, port, self._server.settings.write_timeout))
            except OSError as error:
                if error.errno not in NO_SUCH_FAMILY:
                    await self.close()
                    raise
                failure = error  # a name with an IPv6 address, where only IPv4 is set up
        if not self._sockets and failure is not None:
            raise failure
        self._accept_all()

    def adopt(self, descriptors: Iterable[int]) -> None:
        """Listen on sockets that are bound and listening already; they are this listener's from now on."""
        for descriptor in descriptors:
            listening = socket.socket(fileno=descriptor)
            listening.setblocking(False)
            _notice_the_vanished(listening, self._server.settings.write_timeout)
            self._sockets.append(listening)
        self._accept_all()

    @property
    def urls(self) -> str:
        """Where it listens, with the port that the system chose."""
        scheme = "http" if self._context is None else "https"
        addresses = [listening.getsockname()[:2] for listening in self._sockets]
        return ",".join(f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}" for host, port in addresses)

    @property
    def addresses(self) -> list[str]:
        """What it listens on, without ports."""
        return [str(listening.getsockname()[0]) for listening in self._sockets]

    @property
    def port(self) -> int:
        """The port of the first address."""
        return int(self._sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Accept no more, and end what has not become a connection yet."""
        loop = asyncio.get_running_loop()
        for listening in self._sockets:
            loop.remove_reader(listening)
            listening.close()
        self._sockets.clear()
        for accepted in self._beginning.values():
            # Not cancelled: that would be before its first step, or leave a connection that is half made.
            with contextlib.suppress(OSError):
                accepted.shutdown(socket.SHUT_RDWR)
        if self._beginning:
            await asyncio.wait(self._beginning)

    def _accept_all(self) -> None:
        for listening in self._sockets:
            asyncio.get_running_loop().add_reader(listening, self._accept, listening)

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(ACCEPT_AT_ONCE):
            try:
                accepted, address = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._rest(listening, error)
                return
            accepted.setblocking(False)
            place = self._places.take(address[0])
            if place is None:
                self._refuse(accepted)
                continue
            task = asyncio.create_task(self._begin(accepted, place))
            self._beginning[task] = accepted
            task.add_done_callback(self._beginning.pop)

    def _rest(self, listening: socket.socket, error: OSError) -> None:
        """The socket stays readable: without a pause the loop would do nothing but ask again."""
        logger.error("no connection can be accepted: %s", error.strerror)
        loop = asyncio.get_running_loop()
        loop.remove_reader(listening)
        loop.call_later(REST, self._go_on, listening)

    def _go_on(self, listening: socket.socket) -> None:
        if listening in self._sockets:
            asyncio.get_running_loop().add_reader(listening, self._accept, listening)

    def _refuse(self, accepted: socket.socket) -> None:
        with accepted, contextlib.suppress(OSError):
            if self._context is None:
                accepted.send(FULL)

    async def _begin(self, accepted: socket.socket, place: Place) -> None:
        tls = self._context is not None
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: self._server.connection(place),
                accepted,
                ssl=self._context,
                ssl_handshake_timeout=TLS_HANDSHAKE if tls else None,
                ssl_shutdown_timeout=TLS_SHUTDOWN if tls else None,
            )
        except OSError as error:  # what is no TLS, an old version, a certificate that is missing, a peer that left
            logger.debug("no connection came about: %s", type(error).__name__)
            place.leave()
        except BaseException:
            place.leave()
            raise


def _listening(family: int, address: str, port: int, timeout: float) -> socket.socket:
    listening = socket.socket(family)
    try:
        listening.setblocking(False)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:  # an address of IPv4 has a socket of its own
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        _notice_the_vanished(listening, timeout)
        listening.bind((address, port))
        listening.listen(BACKLOG)
    except OSError:
        listening.close()
        raise
    return listening


def _notice_the_vanished(listening: socket.socket, timeout: float) -> None:
    """Let the system end connections whose peer is gone without a word; accepted sockets inherit these options.

    A peer that has to take an answer is known by what it does not acknowledge, one that waits by questions.
    """
    seconds = max(1, min(int(timeout), MOST_KEEPIDLE))
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, seconds * 1000)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, seconds)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_EVERY)
