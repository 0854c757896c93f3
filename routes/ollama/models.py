"""Which model a request of Ollama's API is for, and loading or unloading it where that is all that is asked."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from typing import Any, Final

from aiohttp import web

from manager.catalog import Found
from manager.engines import UpstreamRequest
from manager.engines.kinds import check_supported
from manager.entry import ModelEntry
from manager.errors import HerdError, InvalidRequest, ModelNotFound, PermissionDenied, RequestCancelled
from manager.inflight import Running
from manager.service import SERVICE, Service
from routes.body import BODY, check_fields, write_object
from routes.callers import KEY, is_admin
from routes.filters import filtered
from routes.form import Form
from routes.headers import REQUEST_ID
from routes.middleware import CLIENT_LEFT, ROUTE, TARGET, audit
from routes.named import named_model
from routes.ollama.asked import ModelRequest
from routes.relay import CANCELLED, LEFT, OK, outcome_of, relay

# What Ollama's clients append to a name without a tag.
LATEST: Final = ":latest"
# What no engine knows: vectors are cut here.
DIMENSIONS: Final = "dimensions"


def asked_model(request: web.Request, name: str | None) -> Found:
    """The model of that name, which may end in `:latest`; None is the default one. Raises as named_model."""
    return named_model(request, {"model": known_as(request, name)})


def known_as(request: web.Request, name: str | None) -> str | None:
    """The name by which we know the model. `:latest` means nothing, where no variant of the model is called so."""
    if name is None or not name.endswith(LATEST):
        return name
    try:
        request.app[SERVICE].pool.find(name)
    except ModelNotFound:
        return name.removesuffix(LATEST)
    return name


async def load_or_unload(request: web.Request, asked: ModelRequest) -> str:
    """What a request without a prompt is for; returns Ollama's word for what was done. Raises HerdError.

    A model that is loaded so is not the active one, as after any other request for it.
    """
    entry = asked_model(request, asked.model).entry
    service = request.app[SERVICE]
    if asked.ends_at_once:
        with _audited(request, service, entry):
            if not is_admin(request, service):
                raise PermissionDenied("To unload a model ('keep_alive' 0) takes an API key with the scope 'admin'.")
            await service.pool.unload(entry.name)
        return "unload"
    key = request.get(KEY)
    with _in_flight(request, service, entry) as running:
        lease = service.pool.try_lease(entry) or await service.pool.lease(entry, key.priority if key else 0)
        running.leased_at = time.monotonic()
        lease.release()
    return "load"


@contextlib.contextmanager
def _audited(request: web.Request, service: Service, entry: ModelEntry) -> Iterator[None]:
    """Note what an administrator does, or whoever would, with what comes of it."""
    request[TARGET] = entry.name
    status = CLIENT_LEFT
    try:
        yield
        status = 200
    except Exception as error:
        status = error.status if isinstance(error, HerdError) else HerdError.status
        raise
    finally:
        audit(request, service, status)


@contextlib.contextmanager
def _in_flight(request: web.Request, service: Service, entry: ModelEntry) -> Iterator[Running]:
    """Meanwhile the request is listed and can be cancelled, and in the end it is counted. Raises RequestCancelled."""
    key = request.get(KEY)
    service.gate.enter()
    running = service.inflight.begin(request[REQUEST_ID], entry.name, key.id if key else None, request[ROUTE], False)
    outcome = LEFT
    try:
        yield running
        outcome = OK
    except asyncio.CancelledError:
        if not running.excuse():
            raise
        outcome = CANCELLED
        raise RequestCancelled("An administrator cancelled this request.", should_retry=False) from None
    except Exception as error:
        outcome = outcome_of(error)
        raise
    finally:
        service.inflight.end(running)
        service.gate.leave()
        service.metrics.answered(running, outcome)
        service.usage.add(running.key, running.model, None, ok=outcome in {OK, LEFT})


async def without_chat(
    request: web.Request, found: Found, path: str, body: dict[str, Any], form: Form
) -> web.StreamResponse:
    """Answer with what the model's engine says to `body` at `path`, which is not that of a chat. Raises as relay."""
    entry = found.entry
    if found.personality is not None:
        raise InvalidRequest("'model': a personality is for chats only.", param="model")
    check_supported(entry, path)
    body, _ = filtered(request, found, body, None, chat=False)
    check_fields(body)
    request[BODY] = body
    sent = {name: value for name, value in body.items() if name != DIMENSIONS}
    upstream = UpstreamRequest("POST", path, write_object(sent))
    return await relay(request, request.app[SERVICE], entry, upstream, stream=body.get("stream") is True, form=form)
