"""What may be made of a key, and of the keys that are stored. Nothing here touches the file."""

from __future__ import annotations

import math
import secrets
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Any, TypedDict

from manager.api_key import (
    AT_ONCE_MOST,
    LAST_TIME,
    MODEL_NAME_MOST,
    MODELS_MOST,
    OVERLAP_MOST,
    PRIORITY_MOST,
    REQUESTS_MOST,
    SCOPES,
    TOKENS_MOST,
    ApiKey,
)
from manager.errors import HerdError, InvalidKey, InvalidRequest


class NoKey(InvalidKey):
    """No key was sent: that is no guess."""


class KeyNotFound(InvalidRequest):
    """No key has that id or name."""

    status = 404
    type = "not_found_error"
    code = "key_not_found"


class LastAdminKey(HerdError):
    """Nobody could administer the service any more."""

    status = 409
    type = "invalid_request_error"
    code = "last_admin_key"


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks over HTTP for a change of keys. `token` is the key that came with it, None where none was asked for."""

    token: str | None = field(repr=False)


class Changes(TypedDict, total=False):
    """What can be changed of a key, by the names of its fields. None takes away a limit or the expiry."""

    description: str
    scopes: Collection[str]
    expires: float | None
    priority: int
    models: Collection[str] | None
    requests_per_minute: int | None
    tokens_per_day: int | None
    at_once: int | None


def one(keys: Collection[ApiKey], id_or_name: str) -> ApiKey:
    """The key with this id, else with this name. Raises KeyNotFound, and InvalidRequest where there are several."""
    found = [key for key in keys if key.id == id_or_name] or [key for key in keys if key.name == id_or_name]
    if not found:
        raise KeyNotFound(f"No key has the id or the name {id_or_name!r}.", param="key")
    if len(found) > 1:
        ids = ", ".join(key.id for key in found)
        raise InvalidRequest(f"{len(found)} keys are named {id_or_name!r}; give an id: {ids}.", param="key")
    return found[0]


def fitted(key: ApiKey, keys: Collection[ApiKey], now: float) -> ApiKey:
    """A new key as it can be stored beside these. Raises InvalidRequest naming the field at fault."""
    key = _conform(replace(key, expires=_checked_expiry(key.expires, now)))
    _refuse_namesake(key, keys, now, "name")
    ids = {other.id for other in keys}
    while key.id in ids:
        key = replace(key, id=secrets.token_hex(4))
    return key


def changed(key: ApiKey, changes: Changes, keys: Collection[ApiKey], now: float) -> ApiKey:
    """The key with other fields, beside these. Raises InvalidRequest naming the one at fault."""
    fields: dict[str, Any] = {**changes}
    if "expires" in fields:
        fields["expires"] = _checked_expiry(fields["expires"], now)
    new = _conform(replace(key, **fields))
    if key.expired(now) and not new.expired(now):
        _refuse_namesake(new, keys, now, "expires")
    return new


def rotated(key: ApiKey, digest: str, overlap: float, now: float) -> ApiKey:
    """The key with a new digest, the old one valid for `overlap` seconds more. Raises InvalidRequest."""
    if not 0 <= overlap <= OVERLAP_MOST:
        raise InvalidRequest(f"An overlap is 0 to {OVERLAP_MOST / 86_400:g} days.", param="overlap")
    if key.expired(now):
        raise InvalidRequest(f"The key {key.name!r} has expired; change its expiry first.", param="key")
    return replace(key, digest=digest, former=key.digest, former_until=float(int(now + overlap)))


def check_first(key: ApiKey, others: Collection[ApiKey], now: float) -> None:
    """Raise InvalidRequest naming the field at fault where nobody could administer the service beside this new key."""
    if any(_administers(other, now) for other in others):
        return
    reason = "from now on a key is asked for, and nobody could make another one"
    if "admin" not in key.scopes:
        raise InvalidRequest(f"The first key needs the scope 'admin': {reason}.", param="scopes")
    if key.expires is not None:
        raise InvalidRequest(f"The first key must not expire: {reason} after that.", param="expires")


def check_last(old: ApiKey, new: ApiKey | None, keys: Collection[ApiKey], now: float) -> None:
    """Raise LastAdminKey where with `new` in place of `old` the service could be administered for a shorter time.

    `keys` are all keys, and `new` is None where `old` is revoked.
    """
    left = [key for key in keys if key.id != old.id] + ([] if new is None else [new])
    if _administered_until(left, now) >= _administered_until(keys, now):
        return
    if new is None:
        what = "can't be revoked"
    elif "admin" not in new.scopes:
        what = "needs the scope 'admin'"
    else:
        what = "can't end sooner"
    raise LastAdminKey(
        f"No other key that may administer lasts as long as {old.name!r}: it {what}. Make another one first."
    )


def _administered_until(keys: Collection[ApiKey], now: float) -> float:
    """When the last of them ends; before all times where none is valid."""
    return max((_end(key) for key in keys if _administers(key, now)), default=-math.inf)


def _administers(key: ApiKey, now: float) -> bool:
    return "admin" in key.scopes and not key.expired(now)


def _end(key: ApiKey) -> float:
    return math.inf if key.expires is None else key.expires


def _conform(key: ApiKey) -> ApiKey:
    """The key as it is to be stored. Raises InvalidRequest naming the field at fault."""
    name, description = key.name.strip(), key.description.strip()
    if not 1 <= len(name) <= 100 or not name.isprintable():
        raise InvalidRequest("The name of a key is 1 to 100 printable characters.", param="name")
    if len(description) > 500 or not description.isprintable():
        raise InvalidRequest("The description of a key is at most 500 printable characters.", param="description")
    if not -PRIORITY_MOST <= key.priority <= PRIORITY_MOST:
        raise InvalidRequest(f"A priority is {-PRIORITY_MOST} to {PRIORITY_MOST}.", param="priority")
    _check_limit("requests_per_minute", key.requests_per_minute, REQUESTS_MOST)
    _check_limit("tokens_per_day", key.tokens_per_day, TOKENS_MOST)
    _check_limit("at_once", key.at_once, AT_ONCE_MOST)
    scopes = _checked_scopes(key.scopes)
    models = None if key.models is None else _checked_models(key.models)
    return replace(key, name=name, description=description, scopes=scopes, models=models)


def _checked_expiry(expires: float | None, now: float) -> float | None:
    """The expiry in whole seconds, as the file has it. Raises InvalidRequest where it lies behind or has no date."""
    if expires is None:
        return None
    if not expires <= LAST_TIME:  # as NaN is not, either
        raise InvalidRequest("The expiry of a key must lie before the year 9999.", param="expires")
    whole = float(int(max(expires, 0.0)))
    if whole <= now:
        raise InvalidRequest("The expiry of a key must lie in the future.", param="expires")
    return whole


def _refuse_namesake(key: ApiKey, keys: Collection[ApiKey], now: float, param: str) -> None:
    """`param` is what is at fault."""
    for other in keys:
        if other.name == key.name and other.id != key.id and not other.expired(now):
            message = f"There is a key named {key.name!r} already, with the id {other.id}; revoke it first."
            raise InvalidRequest(message, param=param)


def _checked_scopes(scopes: Collection[str]) -> frozenset[str]:
    if unknown := sorted(set(scopes) - set(SCOPES)):
        raise InvalidRequest(f"Unknown scope {unknown[0]!r}; there are: {', '.join(SCOPES)}.", param="scopes")
    if not scopes:
        raise InvalidRequest(f"A key needs a scope: {', '.join(SCOPES)}.", param="scopes")
    return frozenset(scopes)


def _checked_models(models: Collection[str]) -> frozenset[str]:
    models = frozenset(model.strip() for model in models)
    if not models:
        raise InvalidRequest("A key needs a model that it may use.", param="models")
    if not all(model and model.isprintable() for model in models):
        raise InvalidRequest("The models of a key are names of printable characters.", param="models")
    if len(models) > MODELS_MOST or any(len(model) > MODEL_NAME_MOST for model in models):
        raise InvalidRequest(
            f"The models of a key are at most {MODELS_MOST:,} names of at most {MODEL_NAME_MOST} characters.",
            param="models",
        )
    return models


def _check_limit(name: str, value: int | None, most: int) -> None:
    if value is not None and not 1 <= value <= most:
        raise InvalidRequest(f"{name.replace('_', ' ').capitalize()}: 1 to {most:,}.", param=name)
