"""models.json for administrators: read, checked and replaced as a text, and the models that are pinned in it."""

from __future__ import annotations

import asyncio
from functools import lru_cache, partial
from typing import Any, Final, TypeVar

from aiohttp import web

from manager.errors import BodyTooLarge
from manager.models_schema import schema
from manager.models_text import check_models_text, read_models_text, write_models_text
from manager.pins import NoEntry, set_pinned
from manager.service import SERVICE
from routes.admin import find_model, model_object
from routes.body import parse_object, read_body
from routes.middleware import TARGET
from routes.models import json_response
from routes.parsing import parse, prepared
from routes.schema.models_file import MOST_TEXT, ModelsFileChange, ModelsFileText

# Quotes and ends of lines are escaped in it.
_MOST_BODY: Final = 2 * MOST_TEXT

Asked = TypeVar("Asked", ModelsFileText, ModelsFileChange)


async def show_file(request: web.Request) -> web.Response:
    """GET /admin/models-file: its text, and the version to name when it is replaced. `{}` where there is no file."""
    models_file = request.app[SERVICE].settings.storage.models_file
    return json_response((await asyncio.to_thread(read_models_text, models_file)).as_dict())


async def replace_file(request: web.Request) -> web.Response:
    """PUT /admin/models-file: the text takes the place of the file, which must still have `version`, and is read.

    400 with the mistakes in `error.mistakes`, and nothing is written; 409 where the file was changed meanwhile.
    """
    service = request.app[SERVICE]
    service.gate.check()
    settings = service.settings
    request[TARGET] = settings.storage.models_file.name
    asked = await _asked(request, ModelsFileChange)
    change = partial(write_models_text, settings, asked.text, asked.version)
    return json_response((await service.reloader.reload_after(change)).as_dict())


async def check_file(request: web.Request) -> web.Response:
    """POST /admin/models-file/check: the mistakes for which the text would be refused; nothing is written."""
    service = request.app[SERVICE]
    asked = await _asked(request, ModelsFileText)
    mistakes = await service.reloader.alone(partial(check_models_text, service.settings, asked.text))
    return json_response({"mistakes": mistakes})


async def show_schema(request: web.Request) -> web.Response:
    """GET /admin/models-file/schema: what may be in it, as a JSON schema."""
    return json_response(await asyncio.to_thread(_schema))


async def pin_model(request: web.Request) -> web.Response:
    """POST /admin/models/{id}/pin: once loaded it stays. models.json says so from now on; nothing is restarted."""
    return await _pinned(request, pinned=True)


async def unpin_model(request: web.Request) -> web.Response:
    """POST /admin/models/{id}/unpin: it may be unloaded again. models.json says so from now on."""
    return await _pinned(request, pinned=False)


async def _pinned(request: web.Request, *, pinned: bool) -> web.Response:
    service = request.app[SERVICE]
    service.gate.check()
    status, entry = find_model(service, request.match_info["id"])
    if entry is None:
        raise NoEntry(f"The model '{status.model}' was removed: it has no entry in models.json any more.", param="id")
    await service.reloader.reload_after(partial(set_pinned, service.settings, entry, pinned=pinned))
    return json_response(model_object(service, *find_model(service, entry.name)))


async def _asked(request: web.Request, model: type[Asked]) -> Asked:
    """The body, of which most is the text. Raises BodyTooLarge where no text that is taken can be in it."""
    raw = await read_body(request)
    if len(raw) > _MOST_BODY:
        raise BodyTooLarge(f"The request's body is larger than {_MOST_BODY} bytes.")
    return await prepared(raw, lambda: parse(model, parse_object(raw)))


@lru_cache
def _schema() -> dict[str, Any]:
    return schema()
