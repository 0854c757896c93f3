"""Headers that every answer has: its request's id, what browsers may do with it, and the limits of its key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from aiohttp import web

from manager.short_answers import SECURITY

REQUEST_ID: Final = web.RequestKey("request_id", str)
LIMITS: Final = web.RequestKey("limits", Mapping[str, str])  # x-ratelimit-* of the request's key


def setup(app: web.Application, hsts: float | None) -> None:
    """Mark every answer; what a handler says itself, as a page its policy, stays.

    `hsts`: seconds that browsers shall come over HTTPS only.
    """
    always = dict(SECURITY)
    if hsts is not None:
        always["Strict-Transport-Security"] = f"max-age={int(hsts)}"

    async def mark(request: web.Request, response: web.StreamResponse) -> None:
        headers = response.headers
        for name, value in always.items():
            if name not in headers:
                headers[name] = value
        if (request_id := request.get(REQUEST_ID)) is not None:
            headers["X-Request-ID"] = request_id
        if limits := request.get(LIMITS):
            headers.update(limits)

    app.on_response_prepare.append(mark)
