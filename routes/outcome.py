"""How an inference request ends, and all the places where its begin and its end are noted."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from manager.errors import HerdError, RequestCancelled
from manager.inflight import Running
from manager.service import Service
from routes.captured import keep_end

# How the metrics call an end that no error has a code for.
OK: Final = "ok"
LEFT: Final = "left"
CANCELLED: Final = "cancelled"


def outcome_of(error: Exception) -> str:
    """What the metrics call a request that ended so."""
    if isinstance(error, RequestCancelled):
        return CANCELLED
    return error.code if isinstance(error, HerdError) else HerdError.code


def note_start(service: Service, running: Running) -> None:
    """Tell that it was accepted."""
    feed = service.pool.feed
    if feed.heard():
        told = {"key": running.key, "route": running.route, "stream": running.stream, "started": running.started}
        feed.publish("request", {"id": running.id, "model": running.model, "state": "started", **told})


def note_end(request: web.Request, service: Service, running: Running, outcome: str) -> None:
    """Count what it took, remember it, and tell of it."""
    used = running.used
    keep_end(request, running)
    service.metrics.answered(running, outcome)
    service.usage.add(running.key, running.model, used, ok=outcome in {OK, LEFT})
    service.samples.ended(running, used)
    ended = service.history.add(running, outcome)
    feed = service.pool.feed
    if feed.heard():
        feed.publish("request", {**ended.as_dict(), "state": "ended", "status": outcome})
