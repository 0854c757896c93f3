"""Who is asking, also behind reverse proxies, and whom: addresses, and the names of hosts."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import Final

# Whoever has an IPv6 address has at least such a network to themselves (RFC 6177).
IPV6_PREFIX: Final = 64
UNKNOWN: Final = "unknown"


class Proxies:
    """The reverse proxies whose word on the client's address counts: addresses and networks."""

    def __init__(self, networks: Sequence[str]) -> None:
        self._networks = tuple(ipaddress.ip_network(network) for network in networks)

    def __contains__(self, address: str) -> bool:
        if not self._networks:
            return False
        ip = _parsed(address)
        return ip is not None and any(ip in network for network in self._networks)

    def client_of(self, peer: str | None, forwarded: Sequence[str]) -> str:
        """The client's address, given the connection's peer and the values of X-Forwarded-For.

        Each proxy adds at the end whom it heard, and a client may have sent anything before: the last address that is
        no proxy of ours is the client's.
        """
        if peer is None:
            return UNKNOWN
        if not forwarded or peer not in self:
            return peer
        for hop in reversed([part.strip() for value in forwarded for part in value.split(",")]):
            ip = _parsed(hop) or _parsed(host_of(hop) or "")  # some proxies write the port, too
            if ip is None:
                return peer  # a proxy that hides whom it heard
            peer = str(ip)
            if peer not in self:
                return peer
        return peer


def one_address(address: str, prefix: int = IPV6_PREFIX) -> str:
    """What counts as one client: an IPv4 address, or the network of an IPv6 address, whose first bits count."""
    ip = _parsed(address)
    if isinstance(ip, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((ip, prefix), strict=False))
    return str(ip) if ip is not None else address


def callable_at(host: str) -> str:
    """The host by which this machine itself reaches a service that listens on `host`, which may mean all addresses."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  no bind


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a service on `host`."""
    if host.lower() == "localhost":
        return True
    ip = _parsed(host)
    return ip is not None and ip.is_loopback


def _parsed(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])  # without the zone of a link-local address
    except ValueError:
        return None
    return (ip.ipv4_mapped or ip) if isinstance(ip, ipaddress.IPv6Address) else ip


@lru_cache(maxsize=256)  # every request asks, and nearly all of them for the same name
def host_of(authority: str) -> str | None:
    """The host of `host` or `host:port`, in lower case, an IPv6 address without brackets; None where it is neither."""
    if authority.startswith("["):
        host, closed, rest = authority[1:].partition("]")
        if not closed or _parsed(host) is None:
            return None
    else:
        host, colon, port = authority.partition(":")
        rest = colon + port
    if rest and not (rest[0] == ":" and rest[1:].isdecimal()):
        return None
    return host.lower().removesuffix(".") or None


def admits(host: str, names: Collection[str]) -> bool:
    """Whether `host` is one of the names, or below one that begins with `*.`."""
    _, _, parent = host.partition(".")
    return host in names or (bool(parent) and f"*.{parent}" in names)
