"""Headers that every answer has: its request's id, what browsers may do with it, and the limits of its key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from aiohttp import web

from manager.settings_server import TlsSettings
from manager.short_answers import SECURITY

REQUEST_ID: Final = web.RequestKey("request_id", str)
LIMITS: Final = web.RequestKey("limits", Mapping[str, str])  # x-ratelimit-* of the request's key
ALWAYS: Final = web.AppKey("headers", dict[str, str])


def always(tls: TlsSettings) -> dict[str, str]:
    """What does not depend on the request."""
    if not tls.wanted or tls.hsts is None:
        return dict(SECURITY)
    return {**SECURITY, "Strict-Transport-Security": f"max-age={int(tls.hsts)}"}


def mark(request: web.Request, response: web.StreamResponse) -> None:
    """Before its head goes out. What a handler says itself, as a page its policy, stays.

    Not by aiohttp's signal on_response_prepare, which costs every answer some microseconds more.
    """
    headers = response.headers
    for name, value in request.app[ALWAYS].items():
        if name not in headers:
            headers[name] = value
    headers["X-Request-ID"] = request[REQUEST_ID]
    if limits := request.get(LIMITS):
        headers.update(limits)
