"""Grammars that force calls of tools in one format, with arguments that fit the tools' schemas."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from manager.engines.hf.chat.call_formats import CallFormat
from manager.engines.hf.chat.tool_fields import Tool
from manager.engines.hf.grammar.fields import JSON_OPTIONS, closed

# Where a schema has those that it refers to, from its root.
_DEFINITIONS = ("$defs", "definitions")


class CallGrammar:
    """Lark rules for calls in one format. `tokens`: ids of the tokenizer's added tokens by their text."""

    def __init__(self, form: CallFormat, tools: Iterable[Tool], tokens: Mapping[str, int]) -> None:
        self._form = form
        self._tools = tuple(tools)
        self._tokens = tokens
        self._rules: list[str] = []

    def whole(self, *, many: bool, instead: Mapping[str, Any] | None = None) -> str:
        """One call, or some, with all around them; or JSON of the schema `instead`."""
        if instead is not None and not self._form.open:
            # Two ways to write JSON in one grammar would shut each other out at the first brace.
            calls = " | ".join(json_rule(self._as_schema(tool)) for tool in self._tools)
            return self._text(f"({calls})", many=False, instead=instead)
        return self._text(f"{self._literal(self._form.open)} {self._inside(many=many)}", many=many, instead=instead)

    def rest(self, *, many: bool) -> str:
        """What must come behind `open`."""
        return self._text(self._inside(many=many and self._form.listed), many=False)

    def _text(self, start: str, *, many: bool, instead: Mapping[str, Any] | None = None) -> str:
        if many and not self._form.listed and self._form.open:
            between = self._literal("\n" if self._form.padding else "")
            start = f"{start} ({between} {start}){{0,15}}"
        if instead is not None:
            start = f"{start} | answer"
            self._rules.append(f"answer: {json_rule(instead, lenient=False)}")
        return "%llguidance {}\n" + "\n".join((f"start: {start}", *dict.fromkeys(self._rules))) + "\n"

    def _inside(self, *, many: bool) -> str:
        calls = [self._call(at, tool) for at, tool in enumerate(self._tools)]
        self._rules.append("call: " + " | ".join(calls))
        inside = 'call (", " call){0,15}' if many and self._form.listed else "call"
        if self._form.listed:
            inside = f'"[" {inside} "]"'
        # Models leave it out where a token holds the end of the marker and the beginning of the call.
        padding = f"{self._literal(self._form.padding)}?" if self._form.padding else ""
        return f"{padding} {inside} {padding} {self._literal(self._form.close)}"

    def _call(self, at: int, tool: Tool) -> str:
        name, schema = tool["function"]["name"], tool["function"]["parameters"]
        if self._form.form == "tagged":
            return self._tagged(at, name, schema)
        self._rules.append(f"args_{at}: {json_rule({'type': 'object', **closed(schema)})}")
        if self._form.form == "named":
            return f"{self._literal(name)} {self._literal(self._form.between)} args_{at}"
        head = f'{{"{self._form.name_key}": {json.dumps(name, ensure_ascii=False)}, "{self._form.arguments_key}": '
        return f'{self._literal(head)} args_{at} "}}"'

    def _as_schema(self, tool: Tool) -> dict[str, Any]:
        """A call that is the whole answer, as JSON."""
        parameters = tool["function"]["parameters"]
        named = {"const": tool["function"]["name"]}
        arguments = {"type": "object", **closed(parameters)}
        return {
            "type": "object",
            "properties": {self._form.name_key: named, self._form.arguments_key: arguments},
            "required": [self._form.name_key, self._form.arguments_key],
            "additionalProperties": False,
            **{key: parameters[key] for key in _DEFINITIONS if key in parameters},
        }

    def _tagged(self, at: int, name: str, schema: Mapping[str, Any]) -> str:
        tags = self._form.tags
        assert tags is not None  # noqa: S101  the form is tagged
        required = schema.get("required")
        pieces = [self._literal(tags.name[0] + name + tags.name[1])]
        for number, (key, value) in enumerate((schema.get("properties") or {}).items()):
            rule = f"arg_{at}_{number}"
            head = self._literal(tags.key[0] + key + tags.key[1])
            if is_text(value):
                self._rules.append(f"{rule}[suffix={_quoted(tags.value_end)}]: /(?s:.*)/")
                piece = f"{head} {rule}"
            else:
                self._rules.append(f"{rule}: {json_rule(_with_definitions(value, schema))}")
                piece = f"{head} {rule} {self._literal(tags.value_end)}"
            pieces.append(piece if isinstance(required, list) and key in required else f"({piece})?")
        return " ".join((*pieces, self._literal(tags.end)))

    def _literal(self, text: str) -> str:
        token = self._tokens.get(text)
        return f"<[{token}]>" if token is not None else _quoted(text) if text else ""


def json_rule(schema: Mapping[str, Any], *, lenient: bool = True) -> str:
    """A schema as the right side of a rule in a Lark grammar.

    `lenient`: words in it that llguidance does not know are passed over; else they are errors.
    """
    return "%json " + json.dumps({**schema, "x-guidance": {**JSON_OPTIONS, "lenient": lenient}}, ensure_ascii=False)


def is_text(schema: Any) -> bool:
    """Whether a parameter may be a string, and so is written without quotes between tags."""
    if not isinstance(schema, Mapping):
        return True
    if "enum" in schema or "const" in schema:
        values = schema["enum"] if isinstance(schema.get("enum"), list) else [schema.get("const")]
        return any(isinstance(value, str) for value in values)
    for key in ("anyOf", "oneOf"):
        if isinstance(schema.get(key), list):
            return any(is_text(choice) for choice in schema[key])
    kind = schema.get("type")
    return "string" in kind if isinstance(kind, str | list) else "$ref" not in schema


def _with_definitions(value: Any, schema: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**value, **{key: schema[key] for key in _DEFINITIONS if key in schema}}


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
