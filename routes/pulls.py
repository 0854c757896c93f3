"""Models that the service fetches: begun, watched and cancelled by administrators."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from aiohttp import web

from manager.feed import EventsLost, Reader
from manager.pulls import ENDED, Pull, Wanted
from manager.service import SERVICE, Service
from routes import sse
from routes.admin import flag
from routes.body import read_object
from routes.callers import still_admitted
from routes.middleware import TARGET
from routes.models import json_response
from routes.parsing import parse
from routes.relay import EVENT_STREAM
from routes.schema.pulls import PullRequest
from routes.status import HEARTBEAT


async def start_pull(request: web.Request) -> web.StreamResponse:
    """POST /admin/models/pull: fetch a model and list it in models.json. 202 at once, and the pull goes on by itself.

    With `?wait=true` 200 or the error when it has ended; with `?stream=true`, or for who accepts an event stream, its
    progress until then. The same pull twice is one.
    """
    service = request.app[SERVICE]
    service.gate.check()
    wait = flag(request, "wait", default=False)
    stream = _streams(request)
    asked = parse(PullRequest, (await read_object(request))[1])
    wanted = Wanted(asked.source, asked.quant, asked.revision, asked.name, asked.mmproj is not False)
    pull = service.pulls.start(wanted)
    request[TARGET] = pull.source
    if stream:
        return await follow(request, service, pull)
    if wait:
        await service.pulls.done(pull)
    response = json_response(pull.as_dict(), 200 if wait else 202)
    response.headers["Location"] = f"/admin/pulls/{pull.id}"
    return response


async def list_pulls(request: web.Request) -> web.Response:
    """GET /admin/pulls: those that wait or run, and the last 50 that have ended; oldest first."""
    return json_response({"pulls": [pull.as_dict() for pull in request.app[SERVICE].pulls.list()]})


async def show_pull(request: web.Request) -> web.StreamResponse:
    """GET /admin/pulls/{id}: how far it is; with `?stream=true` until it has ended."""
    service = request.app[SERVICE]
    pull = service.pulls.get(request.match_info["id"])
    return await follow(request, service, pull) if _streams(request) else json_response(pull.as_dict())


async def cancel_pull(request: web.Request) -> web.Response:
    """DELETE /admin/pulls/{id}: end it. What has come stays, and the same pull goes on from it."""
    return json_response((await request.app[SERVICE].pulls.cancel(request.match_info["id"])).as_dict())


async def follow(request: web.Request, service: Service, pull: Pull) -> web.StreamResponse:
    """Its present state, then every change, as `event: pull`. Whoever leaves does not end it."""
    async with aclosing(changes(request, service, pull)) as states:
        response = await sse.begin(request)
        async for state in states:
            await response.write(sse.comment("still here") if state is None else sse.event_frame("pull", state))
    return response


async def changes(request: web.Request, service: Service, pull: Pull) -> AsyncGenerator[dict[str, Any] | None, None]:
    """Its present state, then every change until it has ended; None where nothing changed for a while.

    It is over, too, when the service ends or the caller's key does.
    """
    with service.pool.feed.subscribe() as reader:
        state = pull.as_dict()
        yield state
        while state["state"] not in ENDED and still_admitted(request, service):
            try:
                async with asyncio.timeout(HEARTBEAT):
                    change = await _next(reader, pull)
            except TimeoutError:
                yield None
                continue
            if change is None:
                return
            state = change
            yield state


async def _next(reader: Reader, pull: Pull) -> dict[str, Any] | None:
    """Its state after the next change; None at the end of the feed."""
    while True:
        try:
            event = await reader.next()
        except EventsLost:
            reader.skip()
            return pull.as_dict()
        if event is None:
            return None
        if event.kind == "pull" and event.data["id"] == pull.id:
            return dict(event.data)


def _streams(request: web.Request) -> bool:
    return flag(request, "stream", default=EVENT_STREAM in request.headers.get("Accept", ""))
