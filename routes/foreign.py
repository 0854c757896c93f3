"""Web pages that must not use a service without keys: those from elsewhere, and those that call it by another name."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from functools import lru_cache
from typing import Final

from aiohttp import hdrs, web

from manager.errors import PermissionDenied

ADVICE: Final = "With a key ('llamaherd key create NAME') it answers to any name."
_SITE: Final = "Sec-Fetch-Site"


def refuse_foreign_pages(request: web.Request, allowed_origins: Collection[str]) -> None:
    """Raise PermissionDenied where a page in this machine's browser that nobody admitted is behind the request.

    Programs send neither an origin nor a name of somebody's domain. Browsers tell the origin of a page, but not
    with every GET (of an image, say); then they tell whether it is another site. A page whose own domain was made
    to point to this machine has the service's origin, but its domain is the host.
    """
    headers = request.headers
    host = headers.get(hdrs.HOST)
    if host is not None and not _is_loopback(host):
        raise PermissionDenied(f"Without API keys this service answers to localhost only. {ADVICE}")
    origin = headers.get(hdrs.ORIGIN)
    if origin is None:
        foreign = headers.get(_SITE) == "cross-site"
    else:
        foreign = origin not in allowed_origins and not _is_loopback(origin.partition("://")[2])
    if foreign and "*" not in allowed_origins:
        raise PermissionDenied(
            "Without API keys no page from elsewhere may use this service, but those of cors.allowed_origins."
        )


@lru_cache(maxsize=128)  # every request asks, and nearly all of them for the same name
def _is_loopback(authority: str) -> bool:
    """Whether `host` or `host:port` is this machine, in a way that no name server can make it so."""
    if authority.startswith("["):
        host, _, rest = authority[1:].partition("]")
        colon, port = rest[:1], rest[1:]
    else:
        host, colon, port = authority.partition(":")
    if (colon and not port.isdecimal()) or colon not in {"", ":"}:
        return False
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
