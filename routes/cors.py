"""Cross-origin requests: which web pages from elsewhere may use the API. Not there at all where no origin is set."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from aiohttp import web

from routes.middleware import Handler

ALLOWED_HEADERS: Final = "Authorization, Content-Type, X-Api-Key, X-Request-ID"
EXPOSED_HEADERS: Final = ", ".join(
    (
        *("Date", "X-Request-ID", "Retry-After", "x-should-retry"),
        *(f"x-ratelimit-{what}-{of}" for of in ("requests", "tokens") for what in ("limit", "remaining", "reset")),
    )
)
PREFLIGHT_SECONDS: Final = "600"


def setup(app: web.Application, origins: Collection[str]) -> None:
    """Answer preflights and mark answers for pages of `origins`; `*` is every page."""

    def admits(origin: str | None) -> bool:
        return origin is not None and ("*" in origins or origin in origins)

    @web.middleware
    async def preflights(request: web.Request, handler: Handler) -> web.StreamResponse:
        asked = request.headers.get("Access-Control-Request-Method")
        if request.method != "OPTIONS" or asked is None or not admits(request.headers.get("Origin")):
            return await handler(request)
        return web.Response(
            status=204,
            headers={
                "Access-Control-Allow-Methods": asked,
                # Clients have headers of their own (x-stainless-*), and none of them is a danger.
                "Access-Control-Allow-Headers": request.headers.get("Access-Control-Request-Headers", ALLOWED_HEADERS),
                "Access-Control-Max-Age": PREFLIGHT_SECONDS,
            },
        )

    async def mark(request: web.Request, response: web.StreamResponse) -> None:
        origin = request.headers.get("Origin")
        response.headers.add("Vary", "Origin")
        if origin is not None and admits(origin):
            # Keys travel in a header, never in cookies: no credentials mode is offered.
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Expose-Headers"] = EXPOSED_HEADERS

    app.middlewares.append(preflights)
    app.on_response_prepare.append(mark)
