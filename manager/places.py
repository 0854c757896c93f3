"""How many connections there may be: in all, and of one client."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
from collections import Counter
from typing import Final

from manager.addresses import Proxies, is_loopback, one_address
from manager.settings_server import ServerSettings

logger = logging.getLogger(__name__)

REPORT_EVERY: Final = 60.0  # seconds
# A home has up to this network (RFC 6177), and each of its machines as many addresses as it likes.
HOME_PREFIX: Final = 56
# Open files that are not clients' connections: those to models, and all else.
RESERVE: Final = 256


class Places:
    """Counts connections, in all and by address, over all listeners."""

    def __init__(self, settings: ServerSettings) -> None:
        self._most = settings.max_connections
        self._most_of_one = settings.max_connections_per_address
        self._proxies = Proxies(settings.trusted_proxies)
        self.taken = 0
        self._by_client: Counter[str] = Counter()
        self._refused = 0
        self._report_after = 0.0

    def fit_open_files(self) -> None:
        """Let this process open as many files as the connections take; fewer connections where it may not."""
        files = _raise_open_files(self._most + RESERVE)
        most = max(files - RESERVE, files // 2)
        if most < self._most:
            logger.warning(
                "only %d connections at a time, not %d (server.max_connections): the service may open %d files at most "
                "(LimitNOFILE of systemd, ulimit -Hn)",
                most,
                self._most,
                files,
            )
            self._most = most

    def take(self, address: str) -> Place | None:
        """A place for a connection from `address`; None where there is none left."""
        client = None if is_loopback(address) or address in self._proxies else one_address(address, HOME_PREFIX)
        if self.taken >= self._most or (client is not None and self._by_client[client] >= self._most_of_one):
            self._refuse()
            return None
        self.taken += 1
        if client is not None:
            self._by_client[client] += 1
        return Place(self, client)

    def give_back(self, client: str | None) -> None:
        self.taken -= 1
        if client is not None:
            self._by_client[client] -= 1
            if not self._by_client[client]:
                del self._by_client[client]  # or it would grow with every address that ever came

    def _refuse(self) -> None:
        self._refused += 1
        now = asyncio.get_running_loop().time()
        if now >= self._report_after:
            logger.warning("connections refused=%d open=%d", self._refused, self.taken)
            self._refused = 0
            self._report_after = now + REPORT_EVERY


class Place:
    """The right of one connection to be there. Given back at most once."""

    __slots__ = ("_client", "_places")

    def __init__(self, places: Places, client: str | None) -> None:
        self._places: Places | None = places
        self._client = client

    def leave(self) -> None:
        if self._places is not None:
            self._places.give_back(self._client)
            self._places = None


def _raise_open_files(wanted: int) -> int:
    """Raise the soft limit of open files to what is wanted, or as far as may be; returns how many may be open then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # some systems have a limit of their own
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            return wanted
        return soft
    return wanted
