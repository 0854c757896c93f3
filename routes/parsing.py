"""Request bodies as typed objects: pydantic checks them, and what is wrong is told with the field's name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from manager.errors import InvalidRequest


class RequestBody(BaseModel):
    """A body, or a part of one. Fields that are not declared are let through and can be read as attributes.

    A field that may be left out may be null as well, as everywhere in this API: declare it `T | None = None`.
    """

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False, protected_namespaces=())


Body = TypeVar("Body", bound=RequestBody)


def parse(model: type[Body], body: dict[str, Any]) -> Body:
    """The body as that model has it. Raises InvalidRequest that names the first field at fault."""
    try:
        return model.model_validate(body)
    except ValidationError as error:
        detail = error.errors(include_url=False, include_input=False)[0]
        field = _field(body, detail["loc"])
        raise InvalidRequest(f"'{field}' {_worded(detail)}.", param=field) from None


def _worded(detail: ErrorDetails) -> str:
    """Without the value: it may be long, and it is the caller's own."""
    if detail["type"] == "missing":
        return "is missing"
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
