"""Who is asking: the caller's key and address, and what they let it do and see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from aiohttp import web

from manager.auth import ApiKey
from manager.catalog import Found
from manager.entry import ModelEntry
from manager.errors import InvalidKey, ModelNotAllowed, ModelNotFound, PermissionDenied
from manager.key_rules import Asker, NoKey
from manager.service import Service
from routes.foreign import follows_link, refuse_foreign_pages, refuse_forwarded

KEY: Final = web.RequestKey("key", ApiKey)
# In place of a scope: a key is needed, whatever it is for.
ANY: Final = "any"


NEEDED: Final = "This service needs an API key: send it as 'Authorization: Bearer <key>'."


def authorise(
    request: web.Request, service: Service, scope: str | None, *, action: bool = False, linked: bool = False
) -> bool:
    """Find the caller's key and hold it to `scope`, which may be ANY; without keys, keep pages from elsewhere out.

    `action`: other pages of this machine, too. `linked`: whoever follows a link of such a page is let in.
    Raises InvalidKey or PermissionDenied. False: a wrong key on a route that is open to all, which is no error there,
    but a guess.
    """
    if not service.keys_required:
        refuse_forwarded(request, service)
        if not (linked and follows_link(request)):
            refuse_foreign_pages(request, service, action=action)
        return True
    offered = _offered(request)
    if offered is None:
        if scope is None:
            return True
        raise NoKey(NEEDED)
    try:
        key = service.keys.authenticate(_token(offered))
    except InvalidKey:
        if scope is None:
            return False
        raise
    request[KEY] = key
    if scope is not None and scope != ANY and scope not in key.scopes:
        raise PermissionDenied(f"This API key lacks the scope '{scope}'.")
    return True


def authorise_again(request: web.Request, service: Service) -> None:
    """Hold a caller that was let in to the same now: meanwhile its key may have been revoked, or the first one made.

    Raises InvalidKey or PermissionDenied.
    """
    if KEY not in request:
        if service.keys_required:
            raise NoKey(NEEDED)
        return
    key = service.keys.authenticate(_token(_offered(request) or ""))
    if lost := request[KEY].scopes - key.scopes:
        raise PermissionDenied(f"This API key lacks the scope '{min(lost)}'.")


def still_admitted(request: web.Request, service: Service) -> bool:
    """Whether the key by which a feed was opened would open it now."""
    try:
        authorise_again(request, service)
    except (InvalidKey, PermissionDenied):
        return False
    return True


def asker_of(request: web.Request) -> Asker:
    """The caller, as the store of keys has to know who changes them."""
    return Asker(_token(_offered(request) or "") if KEY in request else None)


def client_of(request: web.Request, service: Service) -> str:
    """The address of whoever asks, which a reverse proxy may tell."""
    return service.proxies.client_of(request.remote, request.headers.getall("X-Forwarded-For", ()))


def may_use(request: web.Request, entry: ModelEntry | None) -> bool:
    """Whether the caller's key, where there is one, is for this model. None is a model that was removed."""
    key = request.get(KEY)
    if key is None or key.models is None:
        return True
    return entry is not None and not key.models.isdisjoint((entry.name, *entry.aliases))


def usable(request: web.Request, find: Callable[[], Found]) -> Found:
    """What `find` finds, where the caller may use it. A key for a model is for all its profiles and personalities.

    Raises ModelNotAllowed where the caller's key is for other models, and ModelNotFound, which then names no others.
    """
    key = request.get(KEY)
    try:
        found = find()
    except ModelNotFound:
        if key is not None and key.models is not None:
            message = f"There is no such model for this API key; it is for: {_models_of(key)}."
            raise ModelNotFound(message, param="model") from None
        raise
    if key is not None and not may_use(request, found.entry):
        message = f"This API key may not use the model '{found.entry.name}'; it is for: {_models_of(key)}."
        raise ModelNotAllowed(message, param="model")
    return found


def _models_of(key: ApiKey) -> str:
    return ", ".join(sorted(key.models or ()))


def is_admin(request: web.Request, service: Service) -> bool:
    """Whether the caller may see what concerns others: its key has the scope `admin`, or none is asked for."""
    key = request.get(KEY)
    return not service.keys_required or (key is not None and "admin" in key.scopes)


def knows_caller(request: web.Request, service: Service) -> bool:
    """Whether the caller may see names: it holds a key, or none is asked for."""
    return not service.keys_required or request.get(KEY) is not None


def _offered(request: web.Request) -> str | None:
    """The key that was sent, as an Authorization header has it; Anthropic's clients send `x-api-key`."""
    header = request.headers.get("Authorization")
    if header is None and (key := request.headers.get("X-Api-Key")) is not None:
        return f"Bearer {key}"
    return header


def _token(header: str) -> str:
    if header.startswith("Bearer "):
        return header[7:].strip()
    kind, _, token = header.partition(" ")
    if kind.lower() != "bearer":
        raise InvalidKey("The Authorization header must read 'Bearer <key>'.")
    return token.strip()
