"""What watchers ask: ping, health and metrics."""

from __future__ import annotations

import asyncio

from aiohttp import web

from manager import engine_metrics, gauges
from manager.service import SERVICE
from routes.callers import knows_caller, may_use
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


async def models_health(request: web.Request) -> web.Response:
    """GET /v1/health: of the service, and of each loaded model that the caller may use."""
    pool = request.app[SERVICE].pool
    engines = {name: one for name, one in pool.engines().items() if may_use(request, pool.catalog.get(name))}
    well = dict(zip(engines, await asyncio.gather(*(engine.answers() for engine in engines.values())), strict=True))
    told = [{"id": name, "state": pool.state(name), "healthy": healthy} for name, healthy in well.items()]
    return json_response({"status": "ok" if all(well.values()) else "degraded", "models": told})


async def metrics(request: web.Request) -> web.Response:
    """GET /metrics, in Prometheus' text form: what the service counts, and what its engines do."""
    service = request.app[SERVICE]
    pool = service.pool
    engines, total, room = await asyncio.gather(engine_metrics.ask(pool.engines()), pool.ledger.total(), pool.room())
    more = [*engines, gauges.of_certificate(service.tls.expires)] if service.tls else engines
    page = service.metrics.render(
        pool.statuses(),
        known=pool.catalog.names,
        in_flight=service.gate.in_flight,
        total=total,
        room={device: size for device, size in room.items() if device in total},  # else a number of models
        more=more,
    )
    return web.Response(body=page, headers={"Content-Type": "text/plain; version=0.0.4"})
