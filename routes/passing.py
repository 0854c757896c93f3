"""Answers of engines that are handed on as they come: their status, their content type and their bytes."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final

from aiohttp import web

from manager.engines import UpstreamRequest, UpstreamResponse
from manager.entry import ModelEntry
from manager.errors import RequestCancelled
from manager.inflight import Running
from manager.lease import Lease
from manager.service import SERVICE, Service
from routes.callers import KEY
from routes.captured import hold, keep_head
from routes.errors import from_engine
from routes.headers import REQUEST_ID, mark
from routes.leased import leased
from routes.middleware import ROUTE, as_herd_error
from routes.outcome import CANCELLED, LEFT, OK, UPSTREAM_STATUS, note_end, note_start, outcome_of
from routes.relay import EVENT_STREAM

# What of a request's headers engines may see: no key, no cookie, nothing of the way to here.
_PASSED: Final = ("Content-Type", "Accept")


def passed_headers(request: web.Request) -> dict[str, str]:
    """The headers of a request that go to an engine. JSON is what engines take by themselves."""
    found = {name: request.headers[name] for name in _PASSED if name in request.headers}
    if request.content_type in {"application/json", "application/octet-stream"}:  # the latter: none was given
        found.pop("Content-Type", None)
    return found


@dataclass(slots=True)
class Passing:
    """A request in flight, and how the metrics are to call its end where no error ends it."""

    running: Running
    outcome: str = OK


@contextlib.contextmanager
def in_flight(request: web.Request, service: Service, entry: ModelEntry) -> Iterator[Passing]:
    """Meanwhile the request is listed and can be cancelled; in the end it is counted, as one without tokens.

    Raises RequestCancelled.
    """
    service.gate.check()
    key = request.get(KEY)
    capture = hold(request, service.captures)
    service.gate.enter()
    running = service.inflight.begin(request[REQUEST_ID], entry.name, key.id if key else None, request[ROUTE], False)
    running.capture = capture
    passing, outcome = Passing(running), LEFT
    try:
        note_start(service, running)
        yield passing
        outcome = passing.outcome
    except asyncio.CancelledError:
        if not running.excuse():
            raise
        outcome = CANCELLED
        raise RequestCancelled("An administrator cancelled this request.", should_retry=False) from None
    except Exception as error:
        if not isinstance(error, ConnectionError):
            outcome = outcome_of(error)
        raise
    finally:
        service.inflight.end(running)
        service.gate.leave()
        note_end(request, service, running, outcome)


async def pass_on(
    request: web.Request, entry: ModelEntry, upstream: UpstreamRequest, *, errors: bool = False
) -> web.StreamResponse:
    """Answer `request` with what the engine of `entry` says to `upstream`. Loads the model where needed.

    With `errors` those of the engine are handed on, too; else they are raised as ours.
    """
    service, key = request.app[SERVICE], request.get(KEY)
    response = web.StreamResponse()
    try:
        with in_flight(request, service, entry) as passing, _cut_off(request, response):
            exchange = partial(_exchange, request, response, upstream, passing, errors)
            await leased(service, entry, passing.running, key.priority if key else 0, exchange)
            await response.write_eof()
    except Exception as error:
        if not response.prepared or isinstance(error, ConnectionError):
            raise
        as_herd_error(request, error)  # which logs what is no error of ours
    return response


async def _exchange(
    request: web.Request,
    response: web.StreamResponse,
    upstream: UpstreamRequest,
    passing: Passing,
    errors: bool,
    lease: Lease,
) -> None:
    running = passing.running
    async with lease.engine.open(upstream) as answer:
        if answer.status >= 400:
            if not errors:
                raise from_engine(answer.status, await answer.read(), lease.entry.name, upstream.path)
            passing.outcome = UPSTREAM_STATUS
        running.stream = answer.content_type.startswith(EVENT_STREAM)
        response.set_status(answer.status)
        if answer.content_type:
            response.headers["Content-Type"] = answer.content_type
        mark(request, response)
        await response.prepare(request)
        keep_head(request, running, response)
        await _copy(answer, response, running)
    if passing.outcome == OK:
        lease.served()


async def _copy(answer: UpstreamResponse, response: web.StreamResponse, running: Running) -> None:
    async for chunk in answer.chunks():
        if running.stream and running.first_at is None:
            running.first_at = time.monotonic()
        running.sent += len(chunk)
        if running.capture is not None:
            running.capture.sent(chunk)
        await response.write(chunk)


@contextlib.contextmanager
def _cut_off(request: web.Request, response: web.StreamResponse) -> Iterator[None]:
    """Once the head is out no error can be told any more: the end of the connection must tell it."""
    try:
        yield
    except BaseException:
        if response.prepared and request.transport is not None:
            request.transport.abort()
        raise
