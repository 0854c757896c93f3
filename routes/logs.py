"""The logs that administrators read, their last lines or for ever: a model's engine's, and the service's own."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, Final, Protocol

from aiohttp import web

from manager.errors import InvalidRequest
from manager.log_recent import RecentLog
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
    service = request.app[SERVICE]
    name = find_model(service, request.match_info["id"])[0].model
    tail = _tail(request)
    if _follows(request):
        return await _follow(request, service, _Follower(service.pool, name, tail))
    log = service.pool.log(name)
    return _as_text(log.tail(tail) if log else ())


async def service_logs(request: web.Request) -> web.StreamResponse:
    """GET /admin/logs: the service's own last `tail` lines as text; with `follow`, or for who accepts an event stream,
    them and all that follow as events. With `access=false` without those about requests that were answered.
    """
    service = request.app[SERVICE]
    tail, access = _tail(request), flag(request, "access", default=True)
    if _follows(request):
        return await _follow(request, service, _ServiceFollower(service.recent_log, tail, access))
    return _as_text(kept.line.text for kept in service.recent_log.tail(tail, access=access)[0])


def _tail(request: web.Request) -> int:
    text = request.query.get("tail", str(TAIL))
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise InvalidRequest("'tail' must be a number of lines, 0 or more.", param="tail")
    return int(text)


def _follows(request: web.Request) -> bool:
    return flag(request, "follow", default=EVENT_STREAM in request.headers.get("Accept", ""))


def _as_text(lines: Iterable[str]) -> web.Response:
    return web.Response(text="".join(f"{line}\n" for line in lines))


class _Reader(Protocol):
    """The place of one reader in a log."""

    @property
    def over(self) -> bool:
        """Whether nothing more can come."""

    def read(self) -> bytes:
        """What came since the last time, as events."""

    def more(self) -> Coroutine[Any, Any, None] | None:
        """Waits until there is more to read; None where only a change of the models can bring it."""


async def _follow(request: web.Request, service: Service, reader: _Reader) -> web.StreamResponse:
    """Until the service ends, the log does, or the key is no more."""
    with service.pool.bus.subscribe() as changes:
        response = await sse.begin(request)
        change = asyncio.create_task(changes.next())
        try:
            while still_admitted(request, service):
                if frames := reader.read():
                    await response.write(frames)
                elif change.done():
                    if change.result() is None or reader.over:
                        return response
                    change = asyncio.create_task(changes.next())
                elif not await _wait(change, reader.more()):
                    await response.write(sse.comment("still here"))
            return response
        finally:
            change.cancel()
            await asyncio.wait({change})


async def _wait(change: asyncio.Task[Any], more: Coroutine[Any, Any, None] | None) -> bool:
    """Until there may be more to read; False where nothing came for the time of a heartbeat."""
    waits = {change} if more is None else {change, asyncio.create_task(more)}
    try:
        done, _ = await asyncio.wait(waits, timeout=HEARTBEAT, return_when=asyncio.FIRST_COMPLETED)
        return bool(done)
    finally:
        for wait in waits - {change}:
            wait.cancel()


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

    def more(self) -> Coroutine[Any, Any, None] | None:
        return None if self._log is None or self._log.closed else self._log.wait(self._number)


class _ServiceFollower:
    """The place of one reader in the log of the service."""

    over = False

    def __init__(self, log: RecentLog, tail: int, access: bool) -> None:
        self._log = log
        self._access = access
        self._first, self._number = log.tail(tail, access=access)

    def read(self) -> bytes:
        """What came since the last time, as events; the numbers leave out what is not kept any more."""
        new, self._number = self._log.since(self._number, access=self._access)
        kept, self._first = [*self._first, *new], []
        return b"".join(sse.event_frame("log", {"n": one.n, **one.line._asdict()}) for one in kept)

    def more(self) -> Coroutine[Any, Any, None]:
        return self._log.wait(self._number, access=self._access)
