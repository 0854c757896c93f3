"""POST /api/pull: Ollama's way of fetching a model, from the hub that is set."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, Final

import orjson
from aiohttp import web

from manager.errors import HerdError, InvalidKey, InvalidRequest, ModelNotFound
from manager.model_store import BadSource
from manager.pulls import ENDED, PullState, Wanted
from manager.service import SERVICE, Service
from routes import sse
from routes.body import read_object
from routes.callers import still_admitted
from routes.errors import plain_error
from routes.middleware import TARGET
from routes.models import json_response
from routes.ollama.answers import NDJSON
from routes.ollama.asked import PullRequest
from routes.ollama.models import LATEST, known_as
from routes.parsing import parse
from routes.pulls import changes

Object = dict[str, Any]
_BEGINS: Final = {"status": "pulling manifest"}
_SUCCESS: Final = {"status": "success"}


async def pull(request: web.Request) -> web.StreamResponse:
    """POST /api/pull: fetch a model, `hf.co/org/repo:QUANT`; lines of its progress unless `stream` is false.

    What the catalog has is there already. Who leaves does not end the pull.
    """
    service = request.app[SERVICE]
    service.gate.check()
    asked = parse(PullRequest, (await read_object(request))[1])
    name = asked.model or asked.name
    if not name:
        raise InvalidRequest("'model' is missing: the name of the model to fetch.", param="model")
    lines = _known() if _is_known(request, service, name) else _fetched(request, service, name.removesuffix(LATEST))
    async with aclosing(lines):
        if asked.stream is not False:
            return await _stream(request, lines)
        async for line in lines:
            last = line
    return json_response(last)


def _is_known(request: web.Request, service: Service, name: str) -> bool:
    try:
        service.pool.find(known_as(request, name) or name)
    except ModelNotFound:
        return False
    return True


async def _known() -> AsyncGenerator[Object, None]:
    yield _BEGINS
    yield _SUCCESS


async def _fetched(request: web.Request, service: Service, source: str) -> AsyncGenerator[Object, None]:
    """The lines of a pull. Raises what it fails with."""
    if "/" not in source:
        raise InvalidRequest(
            f"'model': the hub has no '{source}'; a model there is called hf.co/org/repo:QUANT.", param="model"
        )
    try:
        one = service.pulls.start(Wanted(source))
    except BadSource as error:
        raise InvalidRequest(f"'model': {error.message}", param="model") from error
    request[TARGET] = one.source
    yield _BEGINS
    last = _BEGINS
    async with aclosing(changes(request, service, one)) as states:
        async for state in states:
            # A line that was there before is a sign of life.
            last = last if state is None else _line(state) or last
            yield last
    if one.state not in ENDED and not still_admitted(request, service):
        raise InvalidKey("The API key of this request is not valid any more. The pull goes on without it.")
    await service.pulls.done(one)
    yield _SUCCESS


def _line(state: Mapping[str, Any]) -> Object | None:
    """The progress of all files together, under the digest of the first one."""
    if state["state"] not in (PullState.FETCHING, PullState.DONE):
        return None
    digest = next((file["sha256"] for file in state["files"] if file["sha256"]), None)
    line = {"status": "pulling" if digest is None else f"pulling {digest[:12]}", "total": state["total"]}
    line["completed"] = state["bytes"]
    if digest is not None:
        line["digest"] = f"sha256:{digest}"
    return {name: value for name, value in line.items() if value is not None}


async def _stream(request: web.Request, lines: AsyncGenerator[Object, None]) -> web.StreamResponse:
    """What fails at once is an answer with that status, what fails later is the last line."""
    first = await anext(lines)
    response = await sse.begin(request, NDJSON)
    await response.write(_as_line(first))
    try:
        async for line in lines:
            await response.write(_as_line(line))
    except HerdError as error:
        await response.write(_as_line(plain_error(error)))
    return response


def _as_line(line: Object) -> bytes:
    return orjson.dumps(line) + b"\n"
