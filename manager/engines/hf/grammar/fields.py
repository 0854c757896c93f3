"""Which form an answer must have, by the fields of its request. It reads and checks; grammar.py compiles."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from manager.engines.hf.wire.unsupported import FieldError
from manager.mistakes import shown

# Space between the parts of JSON, as llama.cpp allows it: without a bound a model at a high temperature never stops.
# oneOf is read as anyOf there, too.
JSON_OPTIONS: dict[str, Any] = {"whitespace_pattern": r"[ ]|\n{1,2}[ \t]{0,20}", "coerce_one_of": True}

# Properties of one object that may each come next: all are looked at for every token, so many for 15 ms.
MOST_OPTIONAL = 1000

# Where a schema has other schemas, one or by name or in a list.
_NESTED = ("items", "additionalProperties")
_NAMED = ("properties", "$defs", "definitions", "patternProperties")
_LISTED = ("anyOf", "oneOf", "prefixItems")


@dataclass(frozen=True, slots=True)
class GrammarSpec:
    """A grammar that is not compiled yet. `field`: what to name where it is wrong.

    `after`: it holds only behind this text; empty: from the start. Until then the answer is free, and it may end there
    where `must` is false. `again`: free again behind it, until the text comes again.
    """

    kind: Literal["json_schema", "gbnf", "lark"]
    text: str
    field: str
    after: str = ""
    must: bool = True
    again: bool = False


def grammar_spec(body: Mapping[str, Any]) -> GrammarSpec | None:
    """What response_format, json_schema and grammar ask for; None: nothing. FieldError names a wrong one."""
    schema, field = _schema(body)
    grammar = body.get("grammar") or None
    if grammar is None:
        return None if schema is None else schema_spec(schema, field)
    if not isinstance(grammar, str):
        raise FieldError("grammar", "must be a string")
    if schema is not None:
        raise FieldError("grammar", f"can't be used together with '{field}'")
    return GrammarSpec("gbnf", grammar, "grammar")


def schema_spec(schema: Mapping[str, Any] | bool, field: str) -> GrammarSpec:
    """A JSON schema's grammar. One that says nothing means any object, as in llama.cpp."""
    try:
        if _optional(schema) > MOST_OPTIONAL:
            raise FieldError(field, f"has an object with more than {MOST_OPTIONAL} properties that may be left out")
        text = json.dumps(closed(schema) if schema and schema is not True else {"type": "object"}, ensure_ascii=False)
    except RecursionError:
        raise FieldError(field, "is nested too deeply") from None
    return GrammarSpec("json_schema", text, field)


def _optional(schema: Any) -> int:
    """The most properties that one object in it has and that may be left out."""
    if isinstance(schema, list):
        return max(map(_optional, schema), default=0)
    if not isinstance(schema, Mapping):
        return 0
    properties, required = schema.get("properties"), schema.get("required")
    own = len(properties) if isinstance(properties, Mapping) else 0
    if isinstance(required, list):
        own -= len(required)
    return max(own, max(map(_optional, schema.values()), default=0))


def closed(schema: Any) -> Any:
    """The schema, with objects that list their properties and say nothing of others allowing no others (llama.cpp).

    Schemas with allOf are left as they are: what one part of it forbids another may ask for.
    """
    return schema if _has_all_of(schema) else _closed(schema)


def _closed(schema: Any) -> Any:
    if not isinstance(schema, Mapping):
        return schema
    result = dict(schema)
    for key in _NESTED:
        if isinstance(schema.get(key), Mapping):
            result[key] = _closed(schema[key])
    for key in _NAMED:
        if isinstance(schema.get(key), Mapping):
            result[key] = {name: _closed(nested) for name, nested in schema[key].items()}
    for key in _LISTED:
        if isinstance(schema.get(key), list):
            result[key] = [_closed(nested) for nested in schema[key]]
    if _lists_all(schema):
        result["additionalProperties"] = False
    return result


def _lists_all(schema: Mapping[str, Any]) -> bool:
    properties = schema.get("properties")
    if not isinstance(properties, Mapping) or any(
        key in schema for key in ("additionalProperties", "unevaluatedProperties", "patternProperties", "$ref")
    ):
        return False
    required = schema.get("required")
    return not isinstance(required, list) or all(isinstance(name, str) and name in properties for name in required)


def _has_all_of(schema: Any) -> bool:
    if isinstance(schema, Mapping):
        return "allOf" in schema or any(_has_all_of(value) for value in schema.values())
    return isinstance(schema, list) and any(_has_all_of(value) for value in schema)


def _schema(body: Mapping[str, Any]) -> tuple[Mapping[str, Any] | bool | None, str]:
    """The schema and the field that gave it; response_format goes before json_schema, as in llama.cpp."""
    schema = body.get("json_schema")
    if schema is not None and not isinstance(schema, Mapping | bool):
        raise FieldError("json_schema", "must be an object")
    wanted = body.get("response_format")
    if wanted is None:
        return schema, "json_schema"
    if not isinstance(wanted, Mapping):
        raise FieldError("response_format", "must be an object")
    match wanted.get("type", "text"):
        case "text":
            return schema, "json_schema"
        case "json_object":
            if "schema" in wanted or schema is None:
                schema = wanted.get("schema", {})
            field = "response_format.schema"
        case "json_schema":
            inside = wanted.get("json_schema", wanted)
            schema = inside.get("schema", {}) if isinstance(inside, Mapping) else None
            field = "response_format.json_schema"
        case other:
            raise FieldError("response_format.type", f"must be text, json_object or json_schema (got {shown(other)})")
    if not isinstance(schema, Mapping | bool):
        raise FieldError(field, "must hold a schema, which is an object")
    return schema, "response_format"
