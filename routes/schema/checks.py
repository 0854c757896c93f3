"""The checks of single fields, made of the models that describe them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, TypeAdapter
from pydantic_core import CoreConfig, SchemaValidator

from routes.parsing import stop_at_first

Check = Callable[[Any], bool]

_CORE = CoreConfig(strict=True, allow_inf_nan=False)
_STRICT = ConfigDict(strict=True, allow_inf_nan=False)
_NOUNS = {
    "string": "a string",
    "boolean": "true or false",
    "integer": "an integer",
    "number": "a number",
    "object": "an object",
}


def checks_of(*models: type[BaseModel]) -> dict[str, tuple[Check, str]]:
    """For each field that may be left out, whether a value fits, and in words what it must be."""
    checks: dict[str, tuple[Check, str]] = {}
    for model in models:
        for name, field in model.model_fields.items():
            if not field.is_required():
                hint: Any = Annotated[field.annotation, field]
                adapter = TypeAdapter(hint, config=_STRICT)
                schema = adapter.core_schema
                stop_at_first(schema)
                # Of a compiled validator: the way of TypeAdapter itself costs more than the check.
                fits: Check = SchemaValidator(schema, _CORE).isinstance_python
                checks[name] = fits, f"must be {_worded(adapter.json_schema())}"
    return checks


def _worded(schema: dict[str, Any]) -> str:
    """A field's JSON Schema in words. What is within an object is not said: nothing of it is checked here."""
    if "anyOf" in schema:
        return " or ".join(_worded(one) for one in schema["anyOf"] if one.get("type") != "null")
    if "enum" in schema:
        return " or ".join(f"'{value}'" for value in schema["enum"])
    if schema["type"] == "array":
        items = schema.get("items", {})
        return f"an array of {items['type']}s" if "type" in items else "an array"
    bounds = [
        f"{word} {schema[key]:g}" for key, word in (("minimum", "at least"), ("maximum", "at most")) if key in schema
    ]
    return _NOUNS[schema["type"]] + (" of " + " and ".join(bounds) if bounds else "")
