"""The way of an inference request: wait for the model, open the engine, hand its bytes to the client."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Final

import orjson
from aiohttp import web

from manager.engines import UpstreamRequest
from manager.entry import ModelEntry
from manager.errors import GenerationFailed, RequestCancelled, UpstreamError
from manager.inflight import Running, Tokens
from manager.lease import Lease
from manager.service import Service
from manager.short_answers import JSON
from routes import sse, tokens
from routes.asked import prompts_of, tokens_to_read
from routes.body import BODY
from routes.callers import KEY
from routes.captured import hold
from routes.errors import from_engine
from routes.form import OPENAI, Form
from routes.headers import ADMISSION, REQUEST_ID
from routes.heartbeat import HEARTBEAT
from routes.leased import leased
from routes.middleware import ROUTE, as_herd_error
from routes.outcome import CANCELLED, LEFT, OK, note_end, note_start, outcome_of
from routes.outgoing import Outgoing

# Prepares the request once the engine is there (the personality of the load, the budget of tokens).
Build = Callable[[Lease], Awaitable[UpstreamRequest]]
# How the metrics call the end of a request, and its answer; no answer: what was streamed is all.
End = tuple[str, web.Response | None]
WITHOUT_FAULT: Final = frozenset({OK, LEFT, CANCELLED})
FRAME_END: Final = b"\n\n"
LINE_END: Final = b"\n"  # to count one byte is ten times as fast as to count two
# What a stream ends with, an engine's report and [DONE], is in its last pieces.
LAST_PIECES: Final = 4
EVENT_STREAM: Final = "text/event-stream"


async def relay(
    request: web.Request,
    service: Service,
    entry: ModelEntry,
    upstream: UpstreamRequest | Build,
    *,
    stream: bool = False,
    form: Form = OPENAI,
) -> web.StreamResponse:
    """Answer `request` with what the engine of `entry` says to `upstream`, or to the request that it builds.

    Loads the model where needed. Raises HerdError as long as the head of the answer is not out. A client that
    leaves cancels this handler, which closes the way upstream and so frees the engine's slot.
    """
    service.gate.check()
    key = request.get(KEY)
    capture = hold(request, service.captures)
    service.gate.enter()
    running = service.inflight.begin(request[REQUEST_ID], entry.name, key.id if key else None, request[ROUTE], stream)
    running.capture = capture
    out = Outgoing(request, running, form, partial(_what_goes_on, service, running))
    heartbeat = request.app[HEARTBEAT] if stream else None
    outcome = LEFT
    try:
        try:
            note_start(service, running)
            if heartbeat is not None:
                heartbeat.add(out)
            ended, whole = await leased(
                service, entry, running, key.priority if key else 0, partial(_ask, upstream, out)
            )
        except asyncio.CancelledError:
            if not running.excuse():
                raise
            raise RequestCancelled("An administrator cancelled this request.", should_retry=False) from None
        finally:
            service.inflight.end(running)  # the rest is between the service and its client
            if heartbeat is not None:
                heartbeat.discard(out)
                await out.settle()
        answer = await out.end() if whole is None else whole
        outcome = ended
        return answer
    except Exception as error:
        if isinstance(error, ConnectionError):
            raise  # nobody is there to read an answer
        outcome = outcome_of(error)
        if not out.begun:
            raise  # the front door answers
        return await out.fail(as_herd_error(request, error))
    finally:
        service.gate.leave()
        _account(request, service, running, outcome)


def _account(request: web.Request, service: Service, running: Running, outcome: str) -> None:
    """Note its end and what it took, about that where its engine did not get to tell."""
    if running.tokens is None and running.asked and outcome in WITHOUT_FAULT:
        running.prompt = tokens_to_read(request.get(BODY, {}))
    used = running.used
    if used is not None:
        request[ADMISSION].spent(used.prompt + used.generated)
    note_end(request, service, running, outcome)


async def _ask(upstream: UpstreamRequest | Build, out: Outgoing, lease: Lease) -> End:
    ready = upstream if isinstance(upstream, UpstreamRequest) else await upstream(lease)
    end = await _exchange(lease, ready, out)
    if end[0] == OK:
        lease.served()
    return end


def _what_goes_on(service: Service, running: Running) -> str:
    """Why a stream is quiet."""
    if running.leased_at is not None:
        return "waiting for the model"
    progress = service.pool.status(running.model).progress
    return f"loading {running.model}" + ("" if progress is None else f" {progress:.0%}")


async def _exchange(lease: Lease, upstream: UpstreamRequest, out: Outgoing) -> End:
    out.running.asked = upstream.path in tokens.COUNTED
    async with lease.engine.open(upstream) as answer:
        if answer.status >= 400:
            raise from_engine(answer.status, await answer.read(), lease.entry.name, upstream.path)
        if answer.content_type.startswith(EVENT_STREAM):
            return await pump(answer.chunks(), out), None
        body = answer.whole
        if body is None:
            body = await answer.read()
    if out.running.asked:
        took = tokens.tokens_of(body)
        if took is not None and out.several:
            prompts = prompts_of(out.body)
            if lease.entry.engine == "llama":
                took = tokens.of_all_choices(body, took, prompts)
            if len(prompts) > 1:  # as of a stream: see tokens.close
                took = took._replace(prompt_seconds=None)
        out.running.tokens = took
    finish = out.form.finish
    if finish is not None:
        body = orjson.dumps(finish(orjson.loads(body)))
    await out.settle()
    if out.begun:  # a stream was asked for and kept alive, and the engine answers whole
        if out.form.reframe is not None:
            raise UpstreamError(f"The engine of '{lease.entry.name}' did not stream its answer.")
        await out.write(b"data: " + body + b"\n\n" + sse.DONE)
        return OK, None
    out.running.sent = len(body)
    return OK, web.Response(body=body, headers={"Content-Type": JSON})


async def pump(chunks: AsyncIterator[bytes], out: Outgoing) -> str:
    """Hand on each chunk as it comes; returns what the metrics call its end.

    What fails upstream is raised; what fails downstream means nobody reads.
    """
    last: deque[bytes] = deque(maxlen=LAST_PIECES)
    reports: list[Tokens] = []
    several = out.several
    reframe = out.form.reframe
    if reframe is not None:
        async for chunk in reframe(_seen(chunks, out, last, reports)):
            await out.write(chunk)
        ended_well = tokens.close(out.running, last, reports, len(prompts_of(out.body)))
        return OK if ended_well else GenerationFailed.code
    rest = b""  # a frame is handed on whole: an error must not come in the middle of one
    async for chunk in chunks:
        if not last and out.running.first_at is None:
            out.running.first_at = time.monotonic()
        if rest or not chunk.endswith(FRAME_END):
            head, end, rest = (rest + chunk).rpartition(FRAME_END)
            chunk = head + end
        if chunk:
            out.running.lines += chunk.count(LINE_END)
            last.append(chunk)
            if several:
                reports += tokens.reports_in(chunk)
            await out.write(chunk)
    if rest:
        await out.write(rest)
    ended_well = tokens.close(out.running, last, reports, len(prompts_of(out.body)))
    return OK if ended_well else GenerationFailed.code


async def _seen(
    chunks: AsyncIterator[bytes], out: Outgoing, last: deque[bytes], reports: list[Tokens]
) -> AsyncIterator[bytes]:
    """The chunks, in whole frames, on their way to somebody who changes them."""
    running, rest = out.running, b""
    async for chunk in chunks:
        if running.first_at is None:
            running.first_at = time.monotonic()
        head, end, rest = (rest + chunk).rpartition(FRAME_END)
        if end:
            whole = head + end
            running.lines += whole.count(LINE_END)
            last.append(whole)
            if out.several:
                reports += tokens.reports_in(whole)
            yield whole
    if rest:
        yield rest
