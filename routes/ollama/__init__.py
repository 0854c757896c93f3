"""Ollama's API, as far as clients insist on it."""

from __future__ import annotations

from aiohttp import web

from manager.errors import EndpointUnsupported


async def tags(request: web.Request) -> web.StreamResponse:
    """GET /api/tags."""
    raise EndpointUnsupported("Not there yet.")


async def show(request: web.Request) -> web.StreamResponse:
    """POST /api/show."""
    raise EndpointUnsupported("Not there yet.")


async def ps(request: web.Request) -> web.StreamResponse:
    """GET /api/ps."""
    raise EndpointUnsupported("Not there yet.")


async def version(request: web.Request) -> web.StreamResponse:
    """GET /api/version."""
    raise EndpointUnsupported("Not there yet.")


async def chat(request: web.Request) -> web.StreamResponse:
    """POST /api/chat."""
    raise EndpointUnsupported("Not there yet.")


async def generate(request: web.Request) -> web.StreamResponse:
    """POST /api/generate."""
    raise EndpointUnsupported("Not there yet.")


async def embed(request: web.Request) -> web.StreamResponse:
    """POST /api/embed."""
    raise EndpointUnsupported("Not there yet.")


async def embeddings(request: web.Request) -> web.StreamResponse:
    """POST /api/embeddings."""
    raise EndpointUnsupported("Not there yet.")
