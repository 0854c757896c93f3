"""GET /admin/models/{id}/logs: what a model's engine writes, its last lines or for ever."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from aiohttp import web

from manager.errors import InvalidRequest
from manager.logbuf import LogBuffer
from manager.pool import ModelPool
from manager.service import SERVICE, Service
from manager.state import SETTLED
from routes import sse
from routes.admin import find_model, flag
from routes.callers import still_admitted
from routes.relay import EVENT_STREAM
from routes.status import HEARTBEAT

TAIL: Final = 100


async def logs(request: web.Request) -> web.StreamResponse:
    """The last `tail` lines as text; with `follow`, or for who accepts an event stream, them and all that follow."""
    pool = request.app[SERVICE].pool
    name = find_model(request.app[SERVICE], request.match_info["id"])[0].model
    tail = _tail(request)
    if flag(request, "follow", default=EVENT_STREAM in request.headers.get("Accept", "")):
        return await _follow(request, request.app[SERVICE], name, tail)
    log = pool.log(name)
    lines = log.tail(tail) if log else ()
    return web.Response(text="".join(f"{line}\n" for line in lines))


def _tail(request: web.Request) -> int:
    text = request.query.get("tail", str(TAIL))
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise InvalidRequest("'tail' must be a number of lines, 0 or more.", param="tail")
    return int(text)


async def _follow(request: web.Request, service: Service, name: str, tail: int) -> web.StreamResponse:
    """Over every life of the model, until the service ends, the model is no more, or the key is."""
    pool = service.pool
    follower = _Follower(pool, name, tail)
    with pool.bus.subscribe() as changes:
        response = await sse.begin(request)
        change = asyncio.create_task(changes.next())
        try:
            while still_admitted(request, service):
                if frames := follower.read():
                    await response.write(frames)
                elif change.done():
                    if change.result() is None or follower.over:
                        return response
                    change = asyncio.create_task(changes.next())
                elif not await follower.wait(change):
                    await response.write(sse.comment("still here"))
            return response
        finally:
            change.cancel()
            await asyncio.wait({change})


class _Follower:
    """The place of one reader in the logs of a model's lives."""

    def __init__(self, pool: ModelPool, name: str, tail: int) -> None:
        self._pool = pool
        self._name = name
        self._log: LogBuffer | None = None
        self._tail: int | None = tail  # of the log that there is at first; of later ones every line counts
        self._number = 0

    @property
    def over(self) -> bool:
        """Whether the model was removed and does not run any more."""
        return self._pool.catalog.get(self._name) is None and self._pool.state(self._name) in SETTLED

    def read(self) -> bytes:
        """What came since the last time, as events: of the old log first, then the next one's beginning."""
        frames = b"" if self._log is None else self._lines(self._log)
        log = self._pool.log(self._name)
        if log is not None and log is not self._log:
            self._number = 0 if self._tail is None else max(0, log.total - self._tail)
            self._log = log
            frames += sse.event_frame("life", {"model": self._name, "pid": self._pool.status(self._name).pid})
            frames += self._lines(log)
        self._tail = None
        return frames

    def _lines(self, log: LogBuffer) -> bytes:
        lines, self._number = log.since(self._number)
        first = self._number - len(lines) + 1
        return b"".join(sse.event_frame("log", {"line": line, "n": n}) for n, line in enumerate(lines, first))

    async def wait(self, change: asyncio.Task[Any]) -> bool:
        """Until there may be more to read; False where nothing came for the time of a heartbeat."""
        waits: set[asyncio.Task[Any]] = {change}
        if self._log is not None and not self._log.closed:
            waits.add(asyncio.create_task(self._log.wait(self._number)))
        try:
            done, _ = await asyncio.wait(waits, timeout=HEARTBEAT, return_when=asyncio.FIRST_COMPLETED)
            return bool(done)
        finally:
            for wait in waits - {change}:
                wait.cancel()
