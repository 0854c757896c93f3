"""OpenAI's Responses API, by way of a chat."""

from __future__ import annotations

from aiohttp import web

from manager.errors import EndpointUnsupported


async def create(request: web.Request) -> web.StreamResponse:
    """POST /v1/responses."""
    raise EndpointUnsupported("Not there yet.")


async def count_input(request: web.Request) -> web.StreamResponse:
    """POST /v1/responses/input_tokens."""
    raise EndpointUnsupported("Not there yet.")
