"""What Ollama's clients ask of models: which there are, which are loaded, and what one of them is like."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from hashlib import sha256
from typing import Any, Final

from aiohttp import web

from manager.description import describe, template_of, window_of
from manager.entry import ModelEntry
from manager.errors import InvalidRequest
from manager.memory import HOST
from manager.service import SERVICE, Service
from manager.state import LOADED, ModelStatus
from routes.body import read_object
from routes.callers import may_use
from routes.models import json_response
from routes.ollama.answers import moment
from routes.ollama.asked import ShowRequest
from routes.ollama.description import capabilities, details_of
from routes.ollama.models import asked_model
from routes.parsing import parse

# The version of Ollama whose API this is: clients ask for the least that they know.
VERSION: Final = "0.13.0"
# When a model goes that nothing unloads by itself.
NEVER: Final = "9999-12-31T23:59:59Z"
# Ollama's names of what an entry may say of generating.
_PARAMETERS: Final = {
    **{name: name for name in ("temperature", "top_k", "top_p", "min_p", "typical_p", "repeat_penalty")},
    **{name: name for name in ("repeat_last_n", "presence_penalty", "frequency_penalty", "seed")},
    "n_predict": "num_predict",
    "ctx_size": "num_ctx",
}

Object = dict[str, Any]


async def version(request: web.Request) -> web.StreamResponse:
    """GET /api/version: the version of Ollama whose API this is."""
    return json_response({"version": VERSION})


async def tags(request: web.Request) -> web.StreamResponse:
    """GET /api/tags: the models that the caller may use and that can be loaded, each with its profiles behind it."""
    catalog = request.app[SERVICE].pool.catalog
    entries = [entry for entry in catalog if may_use(request, entry) and entry.unavailable is None]
    found = await asyncio.to_thread(lambda: [one for entry in entries for one in _listed(entry)])
    return json_response({"models": found})


async def ps(request: web.Request) -> web.StreamResponse:
    """GET /api/ps: the models that are loaded, as far as the caller may use them."""
    service = request.app[SERVICE]
    running = []
    for status in service.pool.statuses():
        entry = service.pool.catalog.get(status.model)
        if status.state in LOADED and entry is not None and may_use(request, entry):
            running.append((entry, status))
    found = await asyncio.to_thread(lambda: [_running(service, entry, status) for entry, status in running])
    return json_response({"models": found})


async def show(request: web.Request) -> web.StreamResponse:
    """POST /api/show: what a model is like, by its entry and the headers of its files."""
    _, body = await read_object(request)
    asked = parse(ShowRequest, body)
    name = asked.model or asked.name
    if not name:
        raise InvalidRequest("'model' is missing: the name of the model to show.", param="model")
    entry = asked_model(request, name).entry
    return json_response(await asyncio.to_thread(_shown, entry))


def _named(entry: ModelEntry) -> Object:
    # The digest tells one state of the files from another; theirs would take reading all of them.
    digest = sha256(repr((entry.name, str(entry.path), entry.stamps)).encode(errors="replace")).hexdigest()
    return {"name": entry.name, "model": entry.name, "digest": digest, "details": details_of(describe(entry))}


def _listed(entry: ModelEntry) -> Iterator[Object]:
    model = {**_named(entry), "modified_at": _changed(entry), "size": sum(size for _, size in entry.stamps)}
    yield model
    details = {**model["details"], "parent_model": entry.name}
    for profile in (f"{entry.name}:{name}" for name, profile in entry.profiles.items() if profile.listed):
        yield {**model, "name": profile, "model": profile, "details": details}


def _changed(entry: ModelEntry) -> str:
    return moment(max((changed for changed, _ in entry.stamps), default=0) / 1e9 or entry.created)


def _running(service: Service, entry: ModelEntry, status: ModelStatus) -> Object:
    memory = status.measured or status.memory
    ttl = None if entry.pinned else entry.ttl or service.settings.limits.idle_ttl
    return {
        **_named(entry),
        "expires_at": NEVER if ttl is None else moment((status.idle_since or time.time()) + ttl),
        "size": sum(memory.values()),
        "size_vram": sum(size for device, size in memory.items() if device != HOST),
        "context_length": window_of(entry, describe(entry)),
    }


def _shown(entry: ModelEntry) -> Object:
    known = describe(entry)
    template = template_of(entry, known)
    given = ((name, getattr(entry.params, field)) for field, name in _PARAMETERS.items())
    parameters = [(name, value) for name, value in given if value is not None]
    lines = (f"PARAMETER {name} {value}" for name, value in parameters)
    return {
        "modelfile": "\n".join([f"FROM {entry.path.name}", *lines]) + "\n",
        "parameters": "\n".join(f"{name:<30} {value}" for name, value in parameters),
        "template": template,
        "license": str(known.info.get("general.license", "")),
        "modified_at": _changed(entry),
        "details": details_of(known),
        "model_info": dict(known.info),
        "capabilities": capabilities(entry, known, template),
    }
