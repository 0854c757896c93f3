"""How many connections there may be: in all, and of one client."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import Final

from manager.addresses import Proxies, is_loopback, one_address
from manager.settings_server import ServerSettings

logger = logging.getLogger(__name__)

REPORT_EVERY: Final = 60.0  # seconds


class Places:
    """Counts connections, in all and by address, over all listeners."""

    def __init__(self, settings: ServerSettings) -> None:
        self._most = settings.max_connections
        self._most_of_one = settings.max_connections_per_address
        self._proxies = Proxies(settings.trusted_proxies)
        self._taken = 0
        self._by_client: Counter[str] = Counter()
        self._refused = 0
        self._report_after = 0.0

    @property
    def taken(self) -> int:
        return self._taken

    def take(self, address: str) -> Place | None:
        """A place for a connection from `address`; None where there is none left."""
        client = None if is_loopback(address) or address in self._proxies else one_address(address)
        if self._taken >= self._most or (client is not None and self._by_client[client] >= self._most_of_one):
            self._refuse()
            return None
        self._taken += 1
        if client is not None:
            self._by_client[client] += 1
        return Place(self, client)

    def give_back(self, client: str | None) -> None:
        self._taken -= 1
        if client is not None:
            self._by_client[client] -= 1
            if not self._by_client[client]:
                del self._by_client[client]  # or it would grow with every address that ever came

    def _refuse(self) -> None:
        self._refused += 1
        now = asyncio.get_running_loop().time()
        if now >= self._report_after:
            logger.warning("connections refused=%d open=%d", self._refused, self._taken)
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
