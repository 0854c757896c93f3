"""What engines say of themselves, and their own routes for administrators."""

from __future__ import annotations

import re
from typing import Any, Final
from urllib.parse import unquote

from aiohttp import web

from manager.engines import UpstreamRequest
from manager.entry import ModelEntry
from manager.errors import InvalidRequest
from manager.pool import ModelPool
from manager.service import SERVICE
from routes.admin import flag
from routes.body import read_body
from routes.callers import is_admin, usable
from routes.errors import without_folders
from routes.form import Form
from routes.middleware import TARGET
from routes.named import named_model
from routes.passing import pass_on, passed_headers
from routes.relay import relay

_UPSTREAM: Final = "/upstream/"
# A request line takes nothing else.
_SENDABLE: Final = re.compile(r"[!-~]*")
# Ids have few slashes, and every part of the rest would be looked for.
_MOST_PARTS: Final = 16
# Texts of templates and tokens may look like paths, and are none.
_NO_PATHS: Final = ("chat_template", "bos_token", "eos_token")


async def props(request: web.Request) -> web.StreamResponse:
    """GET /props?model=: what the engine says of the model and its settings. Loads it, but with `autoload=false`.

    Without `model` the default one. Folders are shown to admins only.
    """
    service = request.app[SERVICE]
    entry = named_model(request, {"model": request.query.get("model")}).entry
    if not flag(request, "autoload", default=True) and service.pool.state(entry.name) != "ready":
        raise InvalidRequest(f"The model '{entry.name}' is not loaded.", param="model")
    form = Form() if is_admin(request, service) else Form(finish=_without_places)
    return await relay(request, service, entry, UpstreamRequest("GET", "/props"), form=form)


def _without_places(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: value if name.startswith(_NO_PATHS) else _bare(value) for name, value in answer.items()}


def _bare(value: Any) -> Any:
    if isinstance(value, dict):
        return _without_places(value)
    if isinstance(value, list):
        return [_bare(item) for item in value]
    return without_folders(value) if isinstance(value, str) else value


async def upstream(request: web.Request) -> web.StreamResponse:
    """GET and POST /upstream/{model}/…: any route of an engine, for admins. Loads the model where needed.

    Status, content type and bytes are the engine's; nothing of the request is checked. A model's id may be escaped;
    where it is not, the longest one that fits counts.
    """
    name, path = split_path(request.app[SERVICE].pool, request.rel_url.raw_path.removeprefix(_UPSTREAM))
    request[TARGET] = name
    entry: ModelEntry = usable(request, lambda: request.app[SERVICE].pool.find(name)).entry
    query = request.rel_url.raw_query_string
    target = f"{path}?{query}" if query else path
    if not _SENDABLE.fullmatch(target):
        raise InvalidRequest("The path and the query must be ASCII, all else escaped.")
    body = await read_body(request) if request.method == "POST" else b""
    asked = UpstreamRequest(request.method, target, body, passed_headers(request))
    return await pass_on(request, entry, asked, errors=True)


def split_path(pool: ModelPool, path: str) -> tuple[str, str]:
    """The model's id, without escapes, and the path within its engine, as it came.

    `path` has escapes. Of an id that is not known it is the first part.
    """
    parts = path.split("/")
    for count in range(min(len(parts), _MOST_PARTS), 0, -1):
        name = unquote("/".join(parts[:count]))
        if name in pool.catalog:
            break
    else:
        count, name = 1, unquote(parts[0])
    return name, "/" + "/".join(parts[count:])
