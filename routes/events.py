"""GET /admin/events: everything that happens, as a snapshot and what changes it, or from where a reader left off."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Final

from aiohttp import web

from manager.feed import Event, EventsLost
from manager.pull_state import ENDED
from manager.service import SERVICE, Service
from routes import sse
from routes.admin import model_objects
from routes.callers import still_admitted
from routes.status import HEARTBEAT

SNAPSHOT: Final = "snapshot"


async def events(request: web.Request) -> web.StreamResponse:
    """First a snapshot, or what came after `Last-Event-ID` where all of it is still known; then every event."""
    service = request.app[SERVICE]
    feed = service.pool.feed
    with feed.subscribe(sse.last_event_id(request)) as reader:
        # Made before anything is awaited: what changes from here on comes as an event.
        first = _snapshot(service) if reader.missed is None else b"".join(map(_frame, reader.missed))
        response = await sse.begin(request)
        await response.write(first or sse.comment("resumed"))
        while True:
            try:
                event = await reader.next(timeout=HEARTBEAT)
                frame = None if event is None else _frame(event)
            except TimeoutError:
                frame = sse.comment("still here")
            except EventsLost:
                reader.skip()
                frame = _snapshot(service)
            if frame is None or not still_admitted(request, service):
                return response
            await response.write(frame)


def _snapshot(service: Service) -> bytes:
    pool = service.pool
    models = model_objects(service)
    state = {
        "models": models,
        "requests": len(service.inflight),
        "memory": _sums(model["memory"]["expected"] for model in models),
        "active": pool.active,
        "default": pool.default,
        "catalog": list(pool.catalog.names),
        "capture": {"enabled": service.captures.enabled},
        "history": {"newest": service.history.last},
        "pulls": [pull.as_dict() for pull in service.pulls.list() if pull.state not in ENDED],
        "reload": asdict(service.reloader.refusal),
    }
    return _frame(Event(pool.feed.last_id, SNAPSHOT, state))


def _sums(takes: Iterable[dict[str, int]]) -> dict[str, int]:
    """Bytes by device that the models hold together, as they were admitted with."""
    sums: dict[str, int] = {}
    for one in takes:
        for device, size in one.items():
            sums[device] = sums.get(device, 0) + size
    return sums


def _frame(event: Event) -> bytes:
    return sse.event_frame(event.kind, event.data, event.id)
