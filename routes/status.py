"""GET /status: the feed of the service's state, for ever."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from manager.service import SERVICE
from manager.summary import ServiceStatus
from routes import sse
from routes.callers import still_admitted
from routes.errors import without_folders

# Proxies cut a connection that says nothing; a minute is the shortest of their usual limits.
HEARTBEAT: Final = 15.0


async def status(request: web.Request) -> web.StreamResponse:
    """The present state at once, then every change, as `event: message`."""
    service = request.app[SERVICE]
    pool = service.pool
    with pool.bus.subscribe() as subscription:
        response = await sse.begin(request)
        await response.write(_frame(pool.service_status()))
        while True:
            try:
                change = await subscription.next(timeout=HEARTBEAT)
                frame = None if change is None else _frame(change)
            except TimeoutError:
                frame = sse.comment("still here")
            if frame is None or not still_admitted(request, service):
                return response
            await response.write(frame)


def _frame(status: ServiceStatus) -> bytes:
    return sse.event_frame(
        "message", {"status": status.status, "info": without_folders(status.info), "models": list(status.models)}
    )
