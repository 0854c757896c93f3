"""Which addresses are those of the public internet, and the look-up of hosts that have no others."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from typing import Final

import psutil
from aiohttp.abc import AbstractResolver, ResolveResult

# Addresses of a host, by its name and port.
Lookup = Callable[[str, int], Awaitable[Sequence[str]]]

# Look-ups at once. Only the system's resolver ends one, and that may take half a minute.
LOOK_UPS: Final = 64
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
# Of IPv6, addresses of single hosts are given out of this alone.
_UNICAST: Final = ipaddress.ip_network("2000::/3")
# What Python's tables count as public: the relays of 6to4, documentation, and what Azure shows each of its machines.
_RESERVED: Final = tuple(map(ipaddress.ip_network, ("192.88.99.0/24", "3fff::/20", "168.63.129.16/32")))
_looking_up = threading.BoundedSemaphore(LOOK_UPS)


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet, and not this machine's own.

    Of one that carries an IPv4 address, that one counts.
    """
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        carried = ip.ipv4_mapped or ip.sixtofour
        if ip in _NAT64:
            carried = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if carried is not None:
            return is_public(str(carried)) and not _is_own(ip)
        if ip not in _UNICAST or ip.teredo is not None or ip.scope_id is not None:
            return False
    if not ip.is_global or ip.is_multicast or ip.is_reserved or any(ip in network for network in _RESERVED):
        return False
    return not _is_own(ip)


def _is_own(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    families = (socket.AF_INET, socket.AF_INET6)
    found = (one for several in psutil.net_if_addrs().values() for one in several if one.family in families)
    return any(ip == ipaddress.ip_address(one.address) for one in found)


async def look_up(host: str, port: int) -> list[str]:
    """The addresses that the system's resolver has for a host. Raises OSError, and UnicodeError where it is no name.

    Whoever stops waiting can't end a look-up. So each has a thread of its own, which holds up neither others nor the
    end of the service.
    """
    if not _looking_up.acquire(blocking=False):
        raise OSError("too many look-ups at once")
    found: Future[list[str]] = Future()
    found.set_running_or_notify_cancel()
    threading.Thread(target=_look_up, args=(host, port, found), name="look-up", daemon=True).start()
    return await asyncio.wrap_future(found)


def _look_up(host: str, port: int, found: Future[list[str]]) -> None:
    try:
        addresses = [str(address[0]) for *_, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    except (OSError, UnicodeError) as error:
        _looking_up.release()
        found.set_exception(error)
    else:
        _looking_up.release()
        found.set_result(addresses)


class PublicResolver(AbstractResolver):
    """Hosts whose addresses are all public. Raises OSError for others."""

    def __init__(self, lookup: Lookup, public: Callable[[str], bool]) -> None:
        self._lookup = lookup
        self._public = public

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        addresses = list(dict.fromkeys(await self._lookup(host, port)))
        if not addresses or not all(map(self._public, addresses)):
            raise OSError("not a public host")
        return [_result(host, port, address) for address in addresses]

    async def close(self) -> None:
        """Nothing is held."""


def _result(host: str, port: int, address: str) -> ResolveResult:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=socket.AI_NUMERICHOST)
