"""The model that a request is for."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from manager.catalog import Found
from manager.errors import ModelNotFound
from manager.pool import ModelPool
from manager.service import SERVICE
from routes.body import check_fields
from routes.callers import usable


def named_model(request: web.Request, body: dict[str, Any], *, lenient: bool = False) -> Found:
    """The entry that a request is for, and the personality or profile in its id.

    No name means the default model; with `lenient` an unknown name means it too, but not what a known model
    does not have. Raises ModelNotFound, or ModelNotAllowed where the caller's key is for others.
    """
    return usable(request, lambda: _named(request.app[SERVICE].pool, body, lenient))


def _named(pool: ModelPool, body: dict[str, Any], lenient: bool) -> Found:
    name = body.get("model")
    if name is not None:
        check_fields({"model": name})
    if name:
        try:
            return pool.find(name)
        except ModelNotFound:
            if not lenient or name.rpartition(":")[0] in pool.catalog:
                raise
    default = pool.default
    if default is None:
        raise ModelNotFound("No model is configured: data/models.json is empty and nothing was discovered.")
    return pool.find(default)
