"""Request bodies as typed objects: pydantic checks them, and what is wrong is told with the field's name."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Discriminator, GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema, ErrorDetails

from manager.errors import InvalidRequest

# Bytes of a body from which on the work on it would hold up all other requests: it is done in a thread.
LARGE: Final = 256 * 1024
# Types of core schemas, whose values have any number of items.
_OF_MANY: Final = ("list", "dict")

Result = TypeVar("Result")


def stop_at_first(schema: Any) -> None:
    """Make lists and objects fail at the first item that is wrong: errors of all would take far more memory than they.

    `schema` is a part of a core schema, and is changed in place.
    """
    if isinstance(schema, dict):
        if schema.get("type") in _OF_MANY:
            schema["fail_fast"] = True
        for part in schema.values():
            stop_at_first(part)
    elif isinstance(schema, list | tuple):
        for part in schema:
            stop_at_first(part)


class RequestBody(BaseModel):
    """A body, or a part of one. Fields that are not declared are let through and can be read as attributes.

    A field that may be left out may be null as well, as everywhere in this API: declare it `T | None = None`.
    """

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False, protected_namespaces=())

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema = handler(source)
        stop_at_first(schema)
        return schema


Body = TypeVar("Body", bound=RequestBody)


def parse(model: type[Body], body: dict[str, Any]) -> Body:
    """The body as that model has it. Raises InvalidRequest that names the first field at fault."""
    try:
        return model.model_validate(body)
    except ValidationError as error:
        detail = error.errors(include_url=False, include_input=False)[0]
        field = _field(body, detail["loc"])
        raise InvalidRequest(f"'{field}' {_worded(detail)}.", param=field) from None


async def prepared(raw: bytes, prepare: Callable[[], Result]) -> Result:
    """What `prepare` makes of a body that came as `raw`, in a thread where the body is large."""
    return prepare() if len(raw) < LARGE else await asyncio.to_thread(prepare)


def told_apart(tell: Callable[[Any], Any], must: str) -> Discriminator:
    """Tells the members of a union apart by what `tell` says, a tag or else anything; `must` is what a value must be.

    Pydantic's own words would quote what the caller wrote.
    """

    def tag(value: Any) -> str | None:
        kind = tell(value)
        return kind if isinstance(kind, str) else None

    return Discriminator(tag, custom_error_type="kind", custom_error_message=must)


def by_field(field: str, must: str) -> Discriminator:
    """Tells objects apart by their `field`."""
    return told_apart(lambda value: value.get(field) if isinstance(value, dict) else getattr(value, field, None), must)


def _worded(detail: ErrorDetails) -> str:
    """Without the value: it may be long, and it is the caller's own."""
    if detail["type"] == "missing":
        return "is missing"
    if detail["type"] == "extra_forbidden":
        return "is unknown"
    message = detail["msg"].removeprefix("Value error, ")
    return message.replace("Input should", "must", 1) if message.startswith("Input should") else message


def _field(body: Any, location: Sequence[int | str]) -> str:
    """The place of a mistake as `messages[0].content`. Names of a union's members are no part of it."""
    path = ""
    for step in location:
        if isinstance(body, dict) and isinstance(step, str) and (step in body or step == location[-1]):
            path += f".{step}" if path else step
            body = body.get(step)
        elif isinstance(body, list) and isinstance(step, int):
            path += f"[{step}]"
            body = body[step] if step < len(body) else None
    return path
