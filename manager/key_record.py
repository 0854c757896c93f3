"""A key as the file has it, and as people may see it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from manager.api_key import (
    AT_ONCE_MOST,
    LAST_TIME,
    PRIORITY_MOST,
    REQUESTS_MOST,
    TOKENS_MOST,
    ApiKey,
    ordered,
)

# Left out of the file where there is none: earlier versions of the service refuse what they don't know.
_NEWER: Final = {"models", "requests_per_minute", "tokens_per_day", "at_once", "former", "former_until"}
_DIGESTS: Final = {"digest", "former"}


def _dated(time: datetime) -> datetime:
    if not 0 <= time.timestamp() <= LAST_TIME:
        raise ValueError("must be a time between the years 1970 and 9999")
    return time


def _printable(text: str) -> str:
    if not text.isprintable() or text != text.strip():
        raise ValueError("must be printable characters without spaces around them")
    return text


Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Time = Annotated[AwareDatetime, AfterValidator(_dated)]
ModelName = Annotated[str, StringConstraints(min_length=1), AfterValidator(_printable)]


class Record(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    id: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8,32}$")]
    name: Annotated[str, StringConstraints(min_length=1)]
    description: str = ""
    digest: Digest
    scopes: list[Literal["inference", "admin"]]
    created: Time
    expires: Time | None = None
    last_used: Time | None = None
    priority: Annotated[int, Field(strict=True, ge=-PRIORITY_MOST, le=PRIORITY_MOST)] = 0
    models: Annotated[list[ModelName], Field(min_length=1)] | None = None
    requests_per_minute: Annotated[int, Field(strict=True, ge=1, le=REQUESTS_MOST)] | None = None
    tokens_per_day: Annotated[int, Field(strict=True, ge=1, le=TOKENS_MOST)] | None = None
    at_once: Annotated[int, Field(strict=True, ge=1, le=AT_ONCE_MOST)] | None = None
    former: Digest | None = None
    former_until: Time | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.former is None) != (self.former_until is None):
            raise ValueError("former and former_until belong together: both or neither")
        return self

    def key(self) -> ApiKey:
        return ApiKey(
            id=self.id,
            name=self.name,
            description=self.description,
            digest=self.digest,
            scopes=frozenset(self.scopes),
            created=self.created.timestamp(),
            expires=_seconds(self.expires),
            last_used=_seconds(self.last_used),
            priority=self.priority,
            models=None if self.models is None else frozenset(self.models),
            requests_per_minute=self.requests_per_minute,
            tokens_per_day=self.tokens_per_day,
            at_once=self.at_once,
            former=self.former,
            former_until=_seconds(self.former_until),
        )


class Document(BaseModel):
    """The whole file."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    keys: list[Record]


def as_json(key: ApiKey) -> dict[str, object]:
    """As the file has it."""
    return {name: value for name, value in _whole(key).items() if value is not None or name not in _NEWER}


def as_shown(key: ApiKey) -> dict[str, object]:
    """As others may see it: all but the digests."""
    return {name: value for name, value in _whole(key).items() if name not in _DIGESTS}


def iso_time(seconds: float) -> str:
    """Seconds since the epoch as ISO 8601 in UTC, to the second."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _whole(key: ApiKey) -> dict[str, object]:
    return {
        "id": key.id,
        "name": key.name,
        "description": key.description,
        "digest": key.digest,
        "scopes": ordered(key.scopes),
        "created": iso_time(key.created),
        "expires": _iso_time(key.expires),
        "last_used": _iso_time(key.last_used),
        "priority": key.priority,
        "models": None if key.models is None else sorted(key.models),
        "requests_per_minute": key.requests_per_minute,
        "tokens_per_day": key.tokens_per_day,
        "at_once": key.at_once,
        "former": key.former,
        "former_until": _iso_time(key.former_until),
    }


def _seconds(time: datetime | None) -> float | None:
    return None if time is None else time.timestamp()


def _iso_time(seconds: float | None) -> str | None:
    return None if seconds is None else iso_time(seconds)
