"""What can be told off only."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, WithJsonSchema


def _off(value: bool) -> bool:
    if value:
        raise ValueError("must be false")
    return value


# Not Literal[False], which takes 0 for it.
Off = Annotated[bool, AfterValidator(_off), WithJsonSchema({"type": "boolean", "const": False})]
