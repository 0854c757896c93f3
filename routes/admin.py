"""What admins see of models and requests, and what they can do to them: /admin, but for its streams."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict
from typing import Any, Final

from aiohttp import web

from manager.entry import ModelEntry
from manager.errors import ConfigError, HerdError, InvalidRequest, ModelNotFound
from manager.feed import status_dict
from manager.memory import Estimate
from manager.service import SERVICE, Service
from manager.state import SETTLED, ModelStatus
from routes.body import check_fields, read_object
from routes.models import json_response

_WORDS: Final = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off"), False),
}


def flag(request: web.Request, name: str, *, default: bool) -> bool:
    """A yes or no of the query. Raises InvalidRequest."""
    word = request.query.get(name)
    if word is None:
        return default
    if word.lower() not in _WORDS:
        raise InvalidRequest(f"'{name}' must be true or false.", param=name)
    return _WORDS[word.lower()]


# models


async def list_models(request: web.Request) -> web.Response:
    """GET /admin/models: every model of the catalog, and what still runs of those that were removed from it."""
    return json_response({"models": model_objects(request.app[SERVICE])})


async def show_model(request: web.Request) -> web.Response:
    """GET /admin/models/{id}: the same of one, what it is run with, and what loading it would take."""
    service = request.app[SERVICE]
    status, entry = find_model(service, request.match_info["id"])
    if entry is None:
        return json_response(model_object(service, status, None))
    planned = await _planned(service, entry)
    status = service.pool.status(entry.name)  # as it is after these waits
    return json_response({**model_object(service, status, entry), **_settings(entry), **planned})


async def load_model(request: web.Request) -> web.Response:
    """POST /admin/models/{id}/load `{"personality"?}`: 200 when it is ready, with `?wait=false` 202 at once."""
    service = request.app[SERVICE]
    service.gate.check()
    wait = flag(request, "wait", default=True)
    body = (await read_object(request))[1] if request.can_read_body else {}
    check_fields(body)
    name = request.match_info["id"]
    found = service.pool.find(name)
    personality = body.get("personality") or found.personality
    async with _begun(wait):
        await service.pool.load(name, personality)
    return _moved(service, found.entry.name, wait)


async def unload_model(request: web.Request) -> web.Response:
    """POST /admin/models/{id}/unload: 200 when its process is gone, with `?wait=false` 202 at once."""
    service = request.app[SERVICE]
    wait = flag(request, "wait", default=True)
    entry = service.pool.find(request.match_info["id"]).entry
    async with _begun(wait):
        await service.pool.unload(entry.name)
    return _moved(service, entry.name, wait)


@contextlib.asynccontextmanager
async def _begun(wait: bool) -> AsyncIterator[None]:
    """With `wait` all of the work in it is awaited; else it is left where it waits: the pool goes on by itself."""
    if wait:
        yield
        return
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0):
            yield


def _moved(service: Service, name: str, wait: bool) -> web.Response:
    status, entry = find_model(service, name)
    return json_response(model_object(service, status, entry), 200 if wait else 202)


def find_model(service: Service, name: str) -> tuple[ModelStatus, ModelEntry | None]:
    """A model by any of its names; without an entry where it was removed and still runs. Raises ModelNotFound."""
    try:
        entry = service.pool.find(name).entry
    except ModelNotFound:
        for status in _removed(service):
            if status.model == name:
                return status, None
        raise
    return service.pool.status(entry.name), entry


def model_objects(service: Service) -> list[dict[str, Any]]:
    """Every model as /admin/models tells of it."""
    pool = service.pool
    known = [model_object(service, pool.status(entry.name), entry) for entry in pool.catalog]
    return [*known, *(model_object(service, status, None) for status in _removed(service))]


def _removed(service: Service) -> Iterator[ModelStatus]:
    names = {entry.name for entry in service.pool.catalog}
    for status in service.pool.statuses():
        if status.model not in names and status.state not in SETTLED:
            yield status


def model_object(service: Service, status: ModelStatus, entry: ModelEntry | None) -> dict[str, Any]:
    """A model as AdminModel describes it. `entry` None: it was removed."""
    ttl = (entry.ttl or service.settings.limits.idle_ttl) if entry else None
    goes = entry is not None and not entry.pinned and ttl is not None and status.idle_since is not None
    return {
        **status_dict(status),
        "aliases": list(entry.aliases) if entry else [],
        "personalities": list(entry.personalities) if entry else [],
        "profiles": {name: profile.as_dict() for name, profile in entry.profiles.items()} if entry else {},
        "request": entry.request.as_dict() if entry else None,
        "description": entry.description if entry else None,
        "unavailable": entry.unavailable if entry else "It was removed from the catalog.",
        "active": service.pool.active == status.model,
        "default": service.pool.default == status.model,
        "pinned": bool(entry and entry.pinned),
        "preload": bool(entry and entry.preload),
        "ttl": ttl,
        "unloads_at": (status.idle_since or 0.0) + (ttl or 0.0) if goes else None,
        "engine": entry.engine if entry else None,
    }


def _settings(entry: ModelEntry) -> dict[str, Any]:
    template = entry.template
    return {
        "path": str(entry.path),
        "mmproj": str(entry.mmproj) if entry.mmproj else None,
        "template": str(template.file or template.builtin) if template else None,
        "concurrency": entry.concurrency,
        "queue": entry.queue,
        "source": entry.source,
        "params": entry.params.model_dump(mode="json", exclude_none=True),
    }


async def _planned(service: Service, entry: ModelEntry) -> dict[str, Any]:
    """What loading it takes, what there is for all models, and who would go for it (null: it can't be loaded now)."""
    pool = service.pool
    outlook = await pool.outlook(entry.name)
    expected, victims = outlook.way.expected, outlook.victims
    return {
        "estimate": _estimate_object(expected.estimate) if expected.estimate else None,
        "learnt": dict(expected.learnt),
        "needed": dict(expected.needed),
        "placement": outlook.way.device,
        "room": dict(await pool.room()),
        "total": dict(await pool.ledger.total()),
        "would_evict": None if victims is None else list(victims),
    }


def _estimate_object(estimate: Estimate) -> dict[str, Any]:
    return {
        "parts": [asdict(part) for part in estimate.parts],
        "devices": estimate.devices,
        "total": estimate.total,
        "reclaimable": estimate.reclaimable,
        "later": [asdict(part) for part in estimate.later],
    }


# requests


async def list_requests(request: web.Request) -> web.Response:
    """GET /admin/requests: the inference requests that wait or run, oldest first."""
    return json_response(
        {
            "requests": [
                {
                    "id": running.id,
                    "model": running.model,
                    "key": running.key,
                    "route": running.route,
                    "stream": running.stream,
                    "state": running.state,
                    "started": running.started,
                    "leased_at": running.running_since,
                    "first_byte_at": running.first_byte_at,
                    "bytes": running.sent,
                    "tokens": running.streamed,
                }
                for running in request.app[SERVICE].inflight
            ]
        }
    )


async def cancel_request(request: web.Request) -> web.Response:
    """DELETE /admin/requests/{id}, POST /admin/requests/{id}/cancel: its client gets 409."""
    name = request.match_info["id"]
    cancelled = request.app[SERVICE].inflight.cancel(name)
    if not cancelled:
        raise RequestNotFound(f"No request with the id '{name}' waits or runs.", param="id")
    return json_response({"cancelled": cancelled})


class RequestNotFound(HerdError):
    status = 404
    type = "not_found_error"
    code = "request_not_found"


# files


async def reload(request: web.Request) -> web.Response:
    """POST /admin/reload: read models, templates and keys again; 400 with every mistake, and the old stays."""
    service = request.app[SERVICE]
    try:
        await service.reloader.reload()
    except ConfigError as error:
        raise InvalidRequest(error.message) from error
    return json_response({"models": len(service.pool.catalog)})
