"""API keys: what is asked for, and what is told of them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, StringConstraints

from manager.api_key import (
    AT_ONCE_MOST,
    MODEL_NAME_MOST,
    MODELS_MOST,
    OVERLAP_MOST,
    PRIORITY_MOST,
    REQUESTS_MOST,
    TOKENS_MOST,
)
from routes.parsing import RequestBody
from routes.schema.answer import Answer, example

Scope = Literal["inference", "admin"]
ModelName = Annotated[str, StringConstraints(max_length=MODEL_NAME_MOST)]


class Rights(RequestBody):
    """What can be said of a key. A field that is no such thing is refused: a limit that is misspelt would be none."""

    model_config = ConfigDict(extra="forbid")

    description: str | None = Field(None, max_length=500, description="What the key is for.")
    scopes: list[Scope] | None = Field(None, description="What it allows.")
    expires: float | None = Field(None, description="When it ends, in seconds since the epoch; null: never.")
    priority: int | None = Field(
        None,
        ge=-PRIORITY_MOST,
        le=PRIORITY_MOST,
        description="Among requests that wait, a point counts as a second of having waited longer.",
    )
    models: list[ModelName] | None = Field(
        None, max_length=MODELS_MOST, description="Names or aliases of the models that it may use; null: all."
    )
    requests_per_minute: int | None = Field(None, ge=1, le=REQUESTS_MOST, description="Null: no limit.")
    tokens_per_day: int | None = Field(
        None, ge=1, le=TOKENS_MOST, description="Of prompts and answers, in a day of UTC; null: no limit."
    )
    at_once: int | None = Field(None, ge=1, le=AT_ONCE_MOST, description="Requests at the same time; null: no limit.")


class KeyRequest(Rights):
    """A key to make. Left out, `scopes` is `["inference"]`, and every other field what it allows most."""

    model_config = ConfigDict(json_schema_extra=example(name="laptop", scopes=["inference"], requests_per_minute=60))

    name: str = Field(min_length=1, description="A name that no other valid key has.")


class KeyChange(Rights):
    """What is to be different about a key. What is left out stays."""


class KeyRotation(RequestBody):
    """How a key is replaced."""

    model_config = ConfigDict(extra="forbid")

    overlap: float | None = Field(
        None, ge=0, le=OVERLAP_MOST, description="Seconds for which the old key stays valid; left out: a day."
    )


class CallerKey(Answer):
    """The key that asks."""

    id: str
    name: str
    models: list[str] | None = Field(description="The models that it may use; null: all.")
    requests_per_minute: int | None
    tokens_per_day: int | None
    at_once: int | None
    expires: float | None


class Caller(Answer):
    """What the caller may do."""

    keys_required: bool = Field(description="False: the service has no keys, and its machine may do everything.")
    scopes: list[Scope]
    key: CallerKey | None
    version: str = Field(description="Of the service.")


class Key(CallerKey):
    """What is known of a key, but for the key itself. Times are seconds since the epoch."""

    description: str
    scopes: list[Scope]
    created: float
    last_used: float | None
    priority: int
    former_until: float | None = Field(
        description="Until when the key is valid too that this one has replaced; null where none is."
    )
    current: bool = Field(description="Whether this is the key that asks.")
    tokens_today: int = Field(description="What it has used of its tokens since the day (UTC) began.")


class MadeKey(Key):
    """A key that was just made. This is the only answer with the key itself."""

    key: str


class Keys(Answer):
    """All keys, oldest first; those that have expired too."""

    keys: list[Key]
