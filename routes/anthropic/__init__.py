"""Anthropic's Messages API, by way of a chat."""

from __future__ import annotations

from aiohttp import web

from manager.errors import EndpointUnsupported


async def create_message(request: web.Request) -> web.StreamResponse:
    """POST /v1/messages."""
    raise EndpointUnsupported("Not there yet.")


async def count_tokens(request: web.Request) -> web.StreamResponse:
    """POST /v1/messages/count_tokens."""
    raise EndpointUnsupported("Not there yet.")
