"""Speech to text, and text to speech."""

from __future__ import annotations

from aiohttp import web

from manager.errors import EndpointUnsupported


async def transcriptions(request: web.Request) -> web.StreamResponse:
    """POST /v1/audio/transcriptions."""
    raise EndpointUnsupported("Not there yet.")


async def speech(request: web.Request) -> web.StreamResponse:
    """POST /v1/audio/speech."""
    raise EndpointUnsupported("Not there yet.")
