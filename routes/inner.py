"""What engines say of themselves, and their own routes for administrators."""

from __future__ import annotations

from aiohttp import web

from manager.errors import EndpointUnsupported


async def props(request: web.Request) -> web.StreamResponse:
    """GET /props?model=."""
    raise EndpointUnsupported("Not there yet.")


async def upstream(request: web.Request) -> web.StreamResponse:
    """/upstream/{model}/…: any route of an engine."""
    raise EndpointUnsupported("Not there yet.")
