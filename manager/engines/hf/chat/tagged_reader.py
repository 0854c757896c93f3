"""Reading one call whose arguments stand between tags, without JSON: the form of Qwen's coders, GLM and others."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from manager.engines.hf.chat.call_formats import CallFormat, Tags
from manager.engines.hf.chat.call_grammar import is_text


class TaggedReader:
    """Arguments between tags, up to the closing marker, which is read with them.

    They are given out when all are there, as JSON by the schemas of the tools.
    """

    def __init__(self, form: CallFormat, schemas: Mapping[str, Mapping[str, Any]]) -> None:
        assert form.tags is not None  # noqa: S101  the form is tagged
        self.name: str | None = None
        self.done = False
        self.broken = False
        self._tags: Tags = form.tags
        self._close = form.close
        self._schemas = schemas
        self._text = ""
        self._arguments = ""

    def feed(self, text: str) -> int:
        before = len(self._text)
        self._text += text
        end = self._text.find(self._close, max(0, before - len(self._close)))
        if end < 0:
            return len(text)
        self._parse(self._text[:end])
        return end + len(self._close) - before

    def take(self) -> str:
        arguments, self._arguments = self._arguments, ""
        return arguments

    def _parse(self, text: str) -> None:
        tags = self._tags
        named = re.match(rf"\s*{re.escape(tags.name[0])}\s*([^<>\s\"]+)", text)
        if named is None:
            self.broken = True
            return
        self.name, self.done = named[1], True
        properties = self._schemas.get(self.name, {}).get("properties")
        properties = properties if isinstance(properties, Mapping) else {}
        key_end = r"\s*".join(re.escape(part) for part in tags.key[1].split("\n"))
        pairs = re.findall(
            rf"{re.escape(tags.key[0])}(.*?){key_end}(.*?){re.escape(tags.value_end.strip())}", text, re.DOTALL
        )
        values = {key: _typed(value, properties.get(key)) for key, value in pairs}
        self._arguments = json.dumps(values, ensure_ascii=False)


def _typed(text: str, schema: Any) -> Any:
    text = text.removesuffix("\n")
    if is_text(schema):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
