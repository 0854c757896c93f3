"""Which models there are, and loading and unloading them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from typing import Any

import orjson
from aiohttp import web

from manager.catalog import Found
from manager.description import context_length, describe, input_modalities, tasks_of
from manager.entry import ModelEntry
from manager.errors import HerdError, InvalidRequest
from manager.service import SERVICE, Service
from routes.body import check_fields, read_object
from routes.callers import may_use, usable
from routes.errors import without_folders
from routes.middleware import TARGET


def json_response(payload: Any, status: int = 200) -> web.Response:
    """An answer of JSON."""
    return web.Response(body=orjson.dumps(payload), status=status, content_type="application/json", charset="utf-8")


async def loaded_models(request: web.Request) -> web.Response:
    """GET /models: the names of the models that are loaded now, as far as the caller may use them."""
    pool = request.app[SERVICE].pool
    entries = ((name, pool.catalog.get(name)) for name in pool.loaded)  # None: removed, and still running
    return json_response([name for name, entry in entries if may_use(request, entry)])


async def load_model(request: web.Request) -> web.Response:
    """POST /loadModel `{"model", "personality"?}`: 200 when the model is ready."""
    service = request.app[SERVICE]
    service.gate.check()
    _, body = await read_object(request)
    check_fields(body)
    name = body.get("model")
    if not name:
        raise InvalidRequest("'model' is missing: the name of the model to load.", param="model")
    request[TARGET] = name
    personality = body.get("personality") or service.pool.find(name).personality
    entry = await _or_500(service.pool.load(name, personality))
    return json_response({"message": "Model loaded successfully", "model": entry.name, "personality": personality})


async def unload_model(request: web.Request) -> web.Response:
    """GET or POST /unloadModel: the active model, or `?model=`."""
    service = request.app[SERVICE]
    wanted = request.query.get("model") or None
    if wanted is not None:
        request[TARGET] = wanted
    name = request[TARGET] = await _or_500(service.pool.unload(wanted))
    return json_response({"message": "Model unloaded.", "model": name})


async def list_models(request: web.Request) -> web.Response:
    """GET /v1/models: every model that the caller may use, loaded or not, each with its profiles behind it."""
    service = request.app[SERVICE]
    found = [each for entry in service.pool.catalog if may_use(request, entry) for each in _ids(entry)]
    return json_response({"object": "list", "data": await _model_objects(service, found)})


async def show_model(request: web.Request) -> web.Response:
    """GET /v1/models/{id}: a model or one of its profiles."""
    service = request.app[SERVICE]
    found = usable(request, lambda: service.pool.find(request.match_info["id"]))
    return json_response((await _model_objects(service, [found]))[0])


def _ids(entry: ModelEntry) -> Iterator[Found]:
    """What the list has of a model."""
    yield Found(entry)
    for name, profile in entry.profiles.items():
        if profile.listed:
            yield Found(entry, profile.personality, name)


async def _model_objects(service: Service, found: Iterable[Found]) -> list[dict[str, Any]]:
    # In a thread: what is known of a model's files is read where it is asked for first.
    able = await asyncio.to_thread(lambda: [(each, _abilities(each.entry)) for each in found])
    return [{**_model_object(service, each), **abilities} for each, abilities in able]


def _abilities(entry: ModelEntry) -> dict[str, Any]:
    known = describe(entry)
    return {
        "context_length": context_length(entry, known),
        "input_modalities": input_modalities(known),
        "tasks": tasks_of(entry, known),
    }


def _model_object(service: Service, found: Found) -> dict[str, Any]:
    entry, profile = found.entry, found.profile
    suffix = "" if profile is None else f":{profile}"
    description = entry.description if profile is None else entry.profiles[profile].description
    shown = {
        "id": f"{entry.name}{suffix}",
        "object": "model",
        "created": entry.created,
        "owned_by": "local",
        "root": entry.path.name,
        "backend": "gguf" if entry.engine == "llama" else entry.engine,
        "state": service.pool.state(entry.name),
        "aliases": [f"{alias}{suffix}" for alias in entry.aliases],
        "personalities": list(entry.personalities),
        "profiles": list(entry.profiles) if profile is None else [],
    }
    if profile is not None:
        shown["parent"] = entry.name
    if description:
        shown["description"] = description
    if entry.unavailable:
        shown["unavailable"] = without_folders(entry.unavailable)
    return shown


async def _or_500(work: Any) -> Any:
    """These two routes say every failure that is not the caller's as a 500 with its reason."""
    try:
        return await work
    except HerdError as error:
        if error.status < 500:
            raise
        failed = HerdError(error.message, retry_after=error.retry_after, should_retry=error.should_retry)
        raise failed from error
