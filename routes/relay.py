"""The way of an inference request: wait for the model, open the engine, hand its bytes to the client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import orjson
from aiohttp import web

from manager.engines import UpstreamRequest
from manager.entry import ModelEntry
from manager.errors import GenerationFailed, HerdError, UpstreamConnectError, UpstreamError
from manager.lease import Lease
from manager.service import Service
from routes import sse
from routes.errors import error_object, from_engine
from routes.middleware import REQUEST_ID, as_herd_error

# Prepares the request once the engine is there (the personality of the load, the budget of tokens).
Build = Callable[[Lease], Awaitable[UpstreamRequest]]
# Changes a whole, successful JSON answer.
Finish = Callable[[dict[str, Any]], dict[str, Any]]
# Makes another event stream out of the engine's.
Reframe = Callable[[AsyncIterator[bytes]], AsyncIterator[bytes]]
EVENT_STREAM: Final = "text/event-stream"
JSON: Final = "application/json; charset=utf-8"


class Outgoing:
    """The client's side of one answer. Its head is sent with the first byte, and at most once."""

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self._response: web.StreamResponse | None = None

    @property
    def begun(self) -> bool:
        return self._response is not None

    async def write(self, data: bytes) -> None:
        """Send a part of an event stream. ConnectionError where the client is gone."""
        if self._response is None:
            self._response = web.StreamResponse(headers={**sse.HEADERS, "X-Request-ID": self._request[REQUEST_ID]})
            await self._response.prepare(self._request)
        await self._response.write(data)

    async def end(self) -> web.StreamResponse:
        if self._response is None:
            await self.write(b"")
        assert self._response is not None  # noqa: S101  write() made it
        await self._response.write_eof()
        return self._response

    async def fail(self, error: HerdError) -> web.StreamResponse:
        """The head is out: the error becomes the last frame, and no [DONE] follows."""
        await self.write(sse.data_frame(error_object(error)))
        return await self.end()


async def relay(
    request: web.Request,
    service: Service,
    entry: ModelEntry,
    upstream: UpstreamRequest | Build,
    *,
    stream: bool = False,
    finish: Finish | None = None,
    reframe: Reframe | None = None,
) -> web.StreamResponse:
    """Answer `request` with what the engine of `entry` says to `upstream`, or to the request that it builds.

    Loads the model where needed. Raises HerdError as long as the head of the answer is not out. A client that
    leaves cancels this handler, which closes the way upstream and so frees the engine's slot.
    """
    service.gate.enter()
    out = Outgoing(request)
    try:
        again = True
        while True:
            lease = service.pool.try_lease(entry) or await _wait_for_lease(service, entry, out if stream else None)
            with lease:
                try:
                    ready = upstream if isinstance(upstream, UpstreamRequest) else await upstream(lease)
                    return await _exchange(lease, ready, out, finish, reframe)
                except (UpstreamError, GenerationFailed) as error:
                    if again and isinstance(error, UpstreamConnectError) and await lease.engine_lost():
                        again = False  # its process had just ended, and nobody got the request: the next one may
                        continue
                    _record(service, lease, error)
                    raise
    except Exception as error:
        if not out.begun or isinstance(error, ConnectionError):
            raise  # the front door answers; or nobody is there to read an answer
        return await out.fail(as_herd_error(request, error))
    finally:
        service.gate.leave()


def _record(service: Service, lease: Lease, error: HerdError) -> None:
    """Remember the failure. What an engine says of a request may quote it: that is for its sender alone."""
    name, log = lease.entry.name, lease.engine.log.tail()
    if isinstance(error, GenerationFailed):
        error, log = GenerationFailed(f"The engine of '{name}' failed at a request ({error.code})."), ()
    service.pool.record_error(name, error, log)


async def _wait_for_lease(service: Service, entry: ModelEntry, out: Outgoing | None) -> Lease:
    """Wait until the model is ready; a streaming client gets a comment now and then, so that nothing cuts it off."""
    if out is None:
        return await service.pool.lease(entry)
    waiting = asyncio.create_task(service.pool.lease(entry))
    try:
        while not waiting.done():
            await asyncio.wait({waiting}, timeout=service.settings.limits.stream_heartbeat)
            if not waiting.done():
                await out.write(sse.comment(f"loading {entry.name}"))
        return waiting.result()
    except BaseException:
        waiting.cancel()
        waiting.add_done_callback(_release_unclaimed)
        raise


def _release_unclaimed(waiting: asyncio.Task[Lease]) -> None:
    if not waiting.cancelled() and waiting.exception() is None:
        waiting.result().release()


async def _exchange(
    lease: Lease,
    upstream: UpstreamRequest,
    out: Outgoing,
    finish: Finish | None,
    reframe: Reframe | None,
) -> web.StreamResponse:
    model = lease.entry.name
    async with lease.engine.open(upstream) as answer:
        if answer.status >= 400:
            raise from_engine(answer.status, await answer.read(), model, upstream.path)
        if answer.content_type.startswith(EVENT_STREAM):
            return await _pump(reframe(answer.chunks()) if reframe else answer.chunks(), out)
        body = answer.whole
        if body is None:
            body = await answer.read()
    if finish is not None:
        body = orjson.dumps(finish(orjson.loads(body)))
    if out.begun:  # a stream was asked for and kept alive, and the engine answers whole
        await out.write(b"data: " + body + b"\n\n" + sse.DONE)
        return await out.end()
    return web.Response(body=body, headers={"Content-Type": JSON})


async def _pump(chunks: AsyncIterator[bytes], out: Outgoing) -> web.StreamResponse:
    """Hand on each chunk as it comes. What fails upstream is raised; what fails downstream means nobody reads."""
    async for chunk in chunks:
        await out.write(chunk)
    return await out.end()
