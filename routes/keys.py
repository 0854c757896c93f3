"""API keys over HTTP: what the caller's own is for, and keys made, changed, replaced and revoked by administrators.

The rules are the store's. It blocks, so that all that touches its file is done in threads.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, Final, TypeVar, cast

from aiohttp import web

from manager.api_key import SCOPES, ApiKey, ordered
from manager.auth import KeyStore
from manager.errors import ConfigError, HerdError, InvalidRequest
from manager.key_rules import Changes, KeyNotFound
from manager.service import SERVICE
from routes.body import read_object
from routes.callers import KEY, asker_of
from routes.middleware import TARGET
from routes.models import json_response
from routes.parsing import parse
from routes.schema.keys import KeyChange, KeyRequest, KeyRotation

VERSION: Final = version("llamaherd")
# Of these null says that there is to be none; of the others it is the same as leaving them out.
_LIMITS: Final = frozenset({"expires", "models", "requests_per_minute", "tokens_per_day", "at_once"})
OVERLAP: Final = 86_400.0  # seconds, where none is asked for

Result = TypeVar("Result")


class KeysUnavailable(HerdError):
    """The file of keys can't be read or written; no key has changed."""

    status = 503
    code = "keys_unavailable"


async def show_caller(request: web.Request) -> web.Response:
    """GET /v1/key: what the caller may do, by its key or because none is asked for."""
    service, key = request.app[SERVICE], request.get(KEY)
    return json_response(
        {
            "keys_required": service.keys_required,
            "scopes": list(SCOPES) if key is None else ordered(key.scopes),
            "key": None if key is None else _caller_key(key),
            "version": VERSION,
        }
    )


async def list_keys(request: web.Request) -> web.Response:
    """GET /admin/keys: all keys with what they allow and when they were last used, oldest first."""
    return json_response({"keys": [_key_object(request, key) for key in request.app[SERVICE].keys.list()]})


async def show_key(request: web.Request) -> web.Response:
    """GET /admin/keys/{id}: one of them."""
    return json_response(_key_object(request, _known(request)))


async def create_key(request: web.Request) -> web.Response:
    """POST /admin/keys: make a key. Only this answer has it.

    Where there was none, a key is asked for from now on, so that the first one must be able to administer.
    """
    keys = request.app[SERVICE].keys
    asked = parse(KeyRequest, (await read_object(request))[1])
    token, key = await _stored(
        lambda: keys.create(
            asked.name,
            asked.description or "",
            ("inference",) if asked.scopes is None else asked.scopes,
            asked.expires,
            priority=asked.priority or 0,
            models=asked.models,
            requests_per_minute=asked.requests_per_minute,
            tokens_per_day=asked.tokens_per_day,
            at_once=asked.at_once,
            asker=asker_of(request),
        )
    )
    request[TARGET] = key.id
    response = json_response({**_key_object(request, key), "key": token}, 201)
    response.headers["Location"] = f"/admin/keys/{key.id}"
    return response


async def change_key(request: web.Request) -> web.Response:
    """PATCH /admin/keys/{id}: other limits, models, scopes, description, expiry or priority; null takes a limit away.

    It counts from the next request on.
    """
    _, body = await read_object(request)
    if "name" in body:
        raise InvalidRequest("'name' can't be changed: make another key.", param="name")
    given = parse(KeyChange, body).model_dump(exclude_unset=True)
    # The fields of the one are those of the other.
    changes = cast(Changes, {name: value for name, value in given.items() if value is not None or name in _LIMITS})
    if not changes:
        return json_response(_key_object(request, _known(request)))
    asker = asker_of(request)
    key = await _done_to(request, lambda keys, id_: keys.change(id_, asker=asker, **changes))
    return json_response(_key_object(request, key))


async def rotate_key(request: web.Request) -> web.Response:
    """POST /admin/keys/{id}/rotate `{"overlap"?}`: a new key in place of the old one, which stays valid for a while.

    Only this answer has it. All that is known of the old one stays, its id too.
    """
    body = (await read_object(request))[1] if request.can_read_body else {}
    asked = parse(KeyRotation, body).overlap
    overlap, asker = OVERLAP if asked is None else asked, asker_of(request)
    token, key = await _done_to(request, lambda keys, id_: keys.rotate(id_, overlap, asker=asker))
    return json_response({**_key_object(request, key), "key": token})


async def revoke_key(request: web.Request) -> web.Response:
    """DELETE /admin/keys/{id}: end it at once; requests that run are finished."""
    asker = asker_of(request)
    return json_response(_key_object(request, await _done_to(request, lambda keys, id_: keys.revoke(id_, asker=asker))))


async def _stored(work: Callable[[], Result]) -> Result:
    """Do what touches the file, in a thread. It goes on where the client leaves."""
    try:
        return await asyncio.to_thread(work)
    except ConfigError as error:
        raise KeysUnavailable(
            f"No key was changed: {error.message}",
            retry_after=error.retry_after,
            should_retry=None if error.retry_after else False,  # else somebody has to mend it
        ) from error
    except InvalidRequest as error:
        if error.param == "key":  # so the command line calls it
            error.param = "id"
        raise


async def _done_to(request: web.Request, work: Callable[[KeyStore, str], Result]) -> Result:
    """The same to the key with the id in the path. Raises KeyNotFound."""
    keys, id_ = request.app[SERVICE].keys, request.match_info["id"]

    def done() -> Result:
        keys.reload_if_changed()
        _known(request)  # the store would take it for a name
        return work(keys, id_)

    return await _stored(done)


def _known(request: web.Request) -> ApiKey:
    """The key in memory with the id in the path. Raises KeyNotFound."""
    id_ = request.match_info["id"]
    for key in request.app[SERVICE].keys.list():
        if key.id == id_:
            return key
    raise KeyNotFound(f"No key has the id {id_!r}.", param="id")


def _caller_key(key: ApiKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "models": None if key.models is None else sorted(key.models),
        "requests_per_minute": key.requests_per_minute,
        "tokens_per_day": key.tokens_per_day,
        "at_once": key.at_once,
        "expires": key.expires,
    }


def _key_object(request: web.Request, key: ApiKey) -> dict[str, Any]:
    service = request.app[SERVICE]
    own = request.get(KEY)
    return {
        **_caller_key(key),
        "description": key.description,
        "scopes": ordered(key.scopes),
        "created": key.created,
        "last_used": key.last_used,
        "priority": key.priority,
        "former_until": key.former_until if key.former_valid(time.time()) else None,
        "current": own is not None and own.id == key.id,
        "tokens_today": service.quotas.tokens_today(key.id),
    }
