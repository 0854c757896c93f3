"""How an inference request ends, and all the places where its beginning and its end are noted."""

from __future__ import annotations

from typing import Any, Final

from aiohttp import web

from manager.errors import HerdError, RequestCancelled
from manager.inflight import Running
from manager.service import Service
from routes.body import BODY
from routes.callers import KEY
from routes.captured import hold, keep_end
from routes.errors import from_http_exception
from routes.headers import REQUEST_ID

# How the metrics call an end that no error has a code for.
OK: Final = "ok"
LEFT: Final = "left"
CANCELLED: Final = "cancelled"
# An error of an engine's own that was handed on as it came.
UPSTREAM_STATUS: Final = "upstream_status"

# What ran for a request, from when its end is noted.
_NOTED: Final = web.RequestKey("noted", Running)


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
    keep_end(request, running, ok=outcome == OK)
    service.metrics.answered(running, outcome)
    service.usage.add(running.key, running.model, used, ok=outcome in {OK, LEFT})
    service.samples.ended(running, used)
    _remember(request, service, running, outcome)


def note_refusal(request: web.Request, service: Service, route: str, error: Exception, seconds: float) -> None:
    """Remember a request that came to no model, and why, after so long; not one whose end is noted already.

    Nothing is counted of it for any model.
    """
    if _NOTED in request:
        return
    if isinstance(error, web.HTTPException):
        error = from_http_exception(error, request)
    key, body = request.get(KEY), request.get(BODY, {})
    model = _known_model(service, body.get("model"))
    running = Running(request[REQUEST_ID], model, key.id if key else None, route, body.get("stream") is True)
    running.release()
    running.started -= seconds
    running.began -= seconds
    running.capture = hold(request, service.captures)
    service.samples.ended(running, None)
    _remember(request, service, running, outcome_of(error))


def leased_model(request: web.Request) -> str | None:
    """The model that it had a lease of; None where it had none, or its end is not noted yet."""
    running = request.get(_NOTED)
    return running.model if running is not None and running.leased_at is not None else None


def _known_model(service: Service, asked: Any) -> str:
    """The name of the model that was asked for; empty where there is none of that name."""
    if not isinstance(asked, str):
        return ""
    catalog = service.pool.catalog
    entry = catalog.get(asked) or catalog.get(asked.rpartition(":")[0])
    return entry.name if entry is not None else ""


def _remember(request: web.Request, service: Service, running: Running, outcome: str) -> None:
    request[_NOTED] = running
    ended = service.history.add(running, outcome)
    feed = service.pool.feed
    if feed.heard():
        feed.publish("request", {**ended.as_dict(), "state": "ended", "status": outcome})
