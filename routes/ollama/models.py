"""Which model a request of Ollama's API is for, and loading or unloading it where that is all that is asked."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any, Final

from aiohttp import web

from manager.catalog import Found
from manager.engines import UpstreamRequest
from manager.engines.kinds import check_supported
from manager.entry import ModelEntry
from manager.errors import HerdError, InvalidRequest, ModelNotFound, PermissionDenied
from manager.service import SERVICE, Service
from routes.body import BODY, check_fields, write_object
from routes.callers import KEY, is_admin
from routes.filters import filtered
from routes.form import Form
from routes.middleware import CLIENT_LEFT, TARGET, audit
from routes.named import named_model
from routes.ollama.asked import ModelRequest
from routes.passing import in_flight
from routes.relay import relay

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
    with in_flight(request, service, entry) as passing:
        lease = service.pool.try_lease(entry) or await service.pool.lease(entry, key.priority if key else 0)
        passing.running.leased_at = time.monotonic()
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
