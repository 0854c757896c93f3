"""Answers of engines that are handed on as they come: their status, their content type and their bytes."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from typing import Final

from aiohttp import web

from manager.engines import UpstreamRequest, UpstreamResponse
from manager.entry import ModelEntry
from manager.errors import HerdError, RequestCancelled
from manager.inflight import Running
from manager.service import SERVICE, Service
from routes.callers import KEY
from routes.captured import hold, keep_head
from routes.errors import from_engine
from routes.headers import REQUEST_ID, mark
from routes.middleware import ROUTE
from routes.outcome import CANCELLED, LEFT, OK, note_end, note_start, outcome_of

# What of a request's headers engines may see: no key, no cookie, nothing of the way to here.
_PASSED: Final = ("Content-Type", "Accept")


def passed_headers(request: web.Request) -> dict[str, str]:
    """The headers of a request that go to an engine. JSON is what engines take by themselves."""
    found = {name: request.headers[name] for name in _PASSED if name in request.headers}
    if request.content_type in {"application/json", "application/octet-stream"}:  # the latter: none was given
        found.pop("Content-Type", None)
    return found


@contextlib.contextmanager
def in_flight(request: web.Request, service: Service, entry: ModelEntry) -> Iterator[Running]:
    """Meanwhile the request is listed and can be cancelled; in the end it is counted, as one without tokens.

    Raises RequestCancelled.
    """
    key = request.get(KEY)
    service.gate.enter()
    running = service.inflight.begin(request[REQUEST_ID], entry.name, key.id if key else None, request[ROUTE], False)
    running.capture = hold(request, service.captures)
    outcome = LEFT
    try:
        note_start(service, running)
        yield running
        outcome = OK
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
    service = request.app[SERVICE]
    with in_flight(request, service, entry) as running:
        response = await _exchange(request, service, entry, upstream, running, errors)
        await response.write_eof()
    return response


async def _exchange(
    request: web.Request, service: Service, entry: ModelEntry, upstream: UpstreamRequest, running: Running, errors: bool
) -> web.StreamResponse:
    key = request.get(KEY)
    lease = service.pool.try_lease(entry) or await service.pool.lease(entry, key.priority if key else 0)
    with lease:
        running.leased_at = time.monotonic()
        async with lease.engine.open(upstream) as answer:
            if answer.status >= 400 and not errors:
                raise from_engine(answer.status, await answer.read(), entry.name, upstream.path)
            response = web.StreamResponse(status=answer.status)
            if answer.content_type:
                response.headers["Content-Type"] = answer.content_type
            mark(request, response)
            await response.prepare(request)
            keep_head(request, running, response)
            try:
                await _copy(answer, response, running)
            except (HerdError, asyncio.CancelledError) as error:
                _cut_off(request)
                if isinstance(error, HerdError):
                    raise ConnectionError("The engine's answer broke off.") from error
                raise
            lease.served()
    return response


async def _copy(answer: UpstreamResponse, response: web.StreamResponse, running: Running) -> None:
    async for chunk in answer.chunks():
        if running.first_at is None:
            running.first_at = time.monotonic()
        running.sent += len(chunk)
        if running.capture is not None:
            running.capture.sent(chunk)
        await response.write(chunk)


def _cut_off(request: web.Request) -> None:
    """The head is out, and no error can be told any more: the end of the connection must tell it."""
    if request.transport is not None:
        request.transport.abort()
