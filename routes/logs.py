"""The logs that administrators read, their last lines or for ever: a model's engine's, and the service's own."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, Final, Protocol

from aiohttp import web

from manager.errors import InvalidRequest
from manager.event_id import EventId
from manager.log_recent import KeptLine, RecentLog
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
        return await _follow(request, service, _Follower(service.pool, name, tail, _after(request)))
    log = service.pool.log(name)
    return _as_text(log.tail(tail) if log else ())


async def service_logs(request: web.Request) -> web.StreamResponse:
    """GET /admin/logs: the service's own last `tail` lines as text; with `follow`, or for who accepts an event stream,
    them and all that follow as events. With `access=false` without those about requests that were answered.
    """
    service = request.app[SERVICE]
    tail, access = _tail(request), flag(request, "access", default=True)
    if _follows(request):
        follower = _ServiceFollower(service.recent_log, tail, _after(request), access=access)
        return await _follow(request, service, follower)
    return _as_text(kept.line.text for kept in service.recent_log.tail(tail, access=access)[0])


def _tail(request: web.Request) -> int:
    text = request.query.get("tail", str(TAIL))
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise InvalidRequest("'tail' must be a number of lines, 0 or more.", param="tail")
    return int(text)


def _after(request: web.Request) -> EventId | None:
    return EventId.parse(sse.last_event_id(request))


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
        clock = asyncio.get_running_loop().time
        said = clock()
        try:
            while still_admitted(request, service):
                frames = reader.read()
                if not frames and change.done():
                    if change.result() is None or reader.over:
                        return response
                    change = asyncio.create_task(changes.next())
                # Not after a wait alone: what changes without a line to tell must not put it off.
                if not frames and clock() - said >= HEARTBEAT:
                    frames = sse.comment("still here")
                if frames:
                    await response.write(frames)
                    said = clock()
                else:
                    await _wait(change, reader.more(), said + HEARTBEAT - clock())
            return response
        finally:
            change.cancel()
            await asyncio.wait({change})


async def _wait(change: asyncio.Task[Any], more: Coroutine[Any, Any, None] | None, longest: float) -> None:
    """Until there may be more to read, `longest` seconds."""
    waits = {change} if more is None else {change, asyncio.create_task(more)}
    try:
        await asyncio.wait(waits, timeout=longest, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits - {change}:
            wait.cancel()


class _Follower:
    """The place of one reader in the logs of a model's lives.

    `after`: what it has read last, of one of them. Then `tail` does not count; else it does for the log that there is
    at first, and of later ones every line is told.
    """

    def __init__(self, pool: ModelPool, name: str, tail: int, after: EventId | None = None) -> None:
        self._pool = pool
        self._name = name
        self._log: LogBuffer | None = None
        self._tail = tail if after is None else None
        self._after = after
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
            self._log, self._number = log, self._start(log)
            life = {"model": self._name, "pid": self._pool.status(self._name).pid, "run": log.run}
            frames += sse.event_frame("life", life, EventId(log.run, self._number))
            frames += self._lines(log)
        self._tail = None
        return frames

    def _start(self, log: LogBuffer) -> int:
        """How many of its lines the reader has, or wants not."""
        if self._after is not None and self._after.run == log.run:
            return min(self._after.number, log.total)
        return 0 if self._tail is None else max(0, log.total - self._tail)

    def _lines(self, log: LogBuffer) -> bytes:
        lines, self._number = log.since(self._number)
        return b"".join(
            sse.event_frame("log", {"line": line, "n": n}, EventId(log.run, n))
            for n, line in enumerate(lines, self._number - len(lines) + 1)
        )

    def more(self) -> Coroutine[Any, Any, None] | None:
        return None if self._log is None or self._log.closed else self._log.wait(self._number)


class _ServiceFollower:
    """The place of one reader in the service's log. `after`: what it has read last, of this run or another one."""

    over = False

    def __init__(self, log: RecentLog, tail: int, after: EventId | None, *, access: bool) -> None:
        self._log = log
        self._access = access
        if after is None:
            first, self._number = log.tail(tail, access=access)
        else:
            first, self._number = log.since(after.number if after.run == log.run else 0, access=access)
        begins = EventId(log.run, first[0].n - 1 if first else self._number)
        self._first = sse.event_frame("run", {"run": log.run}, begins) + self._frames(first)

    def read(self) -> bytes:
        """What came since the last time, as events; the numbers leave out what is not kept any more."""
        new, self._number = self._log.since(self._number, access=self._access)
        first, self._first = self._first, b""
        return first + self._frames(new)

    def more(self) -> Coroutine[Any, Any, None]:
        return self._log.wait(self._number, access=self._access)

    def _frames(self, kept: Iterable[KeptLine]) -> bytes:
        run = self._log.run
        return b"".join(sse.event_frame("log", {"n": one.n, **one.line._asdict()}, EventId(run, one.n)) for one in kept)
