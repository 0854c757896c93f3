"""Whom the service answers by name: the hosts that it may be called by, and web pages that must not use it keyless."""

from __future__ import annotations

import ipaddress
from typing import Final

from aiohttp import hdrs, web
from multidict import istr

from manager.addresses import admits, host_of, is_loopback
from manager.errors import MisdirectedRequest, PermissionDenied
from manager.service import Service

ADVICE: Final = "With a key ('llamaherd key create NAME') it answers to any name."
_SITE: Final = "Sec-Fetch-Site"
# Programs do not say it; "none" is what its user has typed, or has a bookmark of.
_OWN_SITES: Final = frozenset({None, "same-origin", "none"})
_MODE: Final = "Sec-Fetch-Mode"
# By these a proxy says that the request is somebody else's.
_FORWARDED: Final = (hdrs.X_FORWARDED_FOR, hdrs.FORWARDED, istr("X-Real-IP"))


def refuse_unknown_host(request: web.Request, service: Service) -> None:
    """Raise MisdirectedRequest where the request is for a host that server.allowed_hosts does not have.

    Without keys, and where none are named, that is every host but this machine, or every name where others are let
    in: a page whose own domain was made to point here has the service's origin, but its domain is the host.
    """
    authority = request.headers.get(hdrs.HOST)
    if authority is None:  # HTTP/1.0; no browser speaks it
        return
    names = service.settings.server.allowed_hosts
    if not names and service.keys_required:
        return
    host = host_of(authority)
    if host is None or not (is_loopback(host) or admits(host, names) or _is_own_address(host, service)):
        if names:
            raise MisdirectedRequest("This service is not called by that name (setting server.allowed_hosts).")
        raise PermissionDenied(f"Without API keys this service answers to localhost only. {ADVICE}")


def _is_own_address(host: str, service: Service) -> bool:
    """Whether it is an address, by which an open service may be called: no name server is behind it."""
    if service.keys_required or not service.settings.server.dangerously_serve_without_keys:
        return False
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def refuse_forwarded(request: web.Request, service: Service) -> None:
    """Raise PermissionDenied where a proxy on this machine brings somebody else to a service without keys."""
    if service.settings.server.dangerously_serve_without_keys:
        return
    if any(name in request.headers for name in _FORWARDED):
        raise PermissionDenied(f"Without API keys this service answers to nobody whom a proxy brings. {ADVICE}")


def follows_link(request: web.Request) -> bool:
    """Whether a browser will show the answer as a page of its own, out of reach of the page that has the link."""
    return request.method == hdrs.METH_GET and request.headers.get(_MODE) == "navigate"


def refuse_foreign_pages(request: web.Request, service: Service, *, action: bool = False) -> None:
    """Raise PermissionDenied where a page in a browser that nobody admitted is behind a request without a key.

    Other pages of this machine may use it, too, but an `action` is for its own: any user of the machine may have a port
    there, and what a page sends is done even where it may not read the answer.
    Programs send no origin. Browsers tell the origin of a page, but not with every GET (of an image, say); then they
    tell whether it is another site.
    """
    allowed = service.settings.cors.allowed_origins
    origin, site = request.headers.get(hdrs.ORIGIN), request.headers.get(_SITE)
    if "*" in allowed or origin in allowed:
        return
    authority = (origin or "").partition("://")[2]
    own = origin is None or authority == request.headers.get(hdrs.HOST)
    if action:
        foreign = not own or site not in _OWN_SITES
    elif origin is None:
        foreign = site == "cross-site"
    else:
        foreign = not own and not _is_local(authority)
    if foreign:
        whom = "page but its own may administer" if action else "page from elsewhere may use"
        raise PermissionDenied(f"Without API keys no {whom} this service, but those of cors.allowed_origins.")


def _is_local(authority: str) -> bool:
    host = host_of(authority)
    return host is not None and is_loopback(host)
