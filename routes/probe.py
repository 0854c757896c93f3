"""What watchers ask: ping, health and metrics."""

from __future__ import annotations

from aiohttp import web

from manager.service import SERVICE
from routes.middleware import knows_caller
from routes.models import json_response


async def ping(_: web.Request) -> web.Response:
    """GET /ping: the process answers."""
    return web.Response(text="pong")


async def health(request: web.Request) -> web.Response:
    """GET /health. Names only to a holder of a key, where keys are on."""
    service = request.app[SERVICE]
    known = knows_caller(request, service)
    return json_response(
        {
            "status": "ok",
            "default_model": service.pool.default if known else None,
            "models": list(service.pool.catalog.names) if known else [],
        }
    )


async def metrics(request: web.Request) -> web.Response:
    """GET /metrics, in Prometheus' text form."""
    service = request.app[SERVICE]
    service.metrics.in_flight.set(service.gate.in_flight)
    return web.Response(body=service.metrics.render(), headers={"Content-Type": "text/plain; version=0.0.4"})
