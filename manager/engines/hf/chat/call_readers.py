"""Reading one call of a tool as it arrives, in each of the forms that models write, but not what stands around it.

A reader takes text until its call is `done`, or turns out to be none (`broken`). `name` is known before the first of
the arguments is given out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, Protocol

from manager.engines.hf.chat.call_formats import CallFormat

_SPACE = " \t\r\n"
_LONGEST_HEAD = 300
_NAME = re.compile(r"\s*(?:functions\.)?([\w.-]+)")


class CallReader(Protocol):
    name: str | None
    done: bool
    broken: bool

    def feed(self, text: str) -> int:
        """How many characters of it belong to the call; all, while it is neither done nor broken."""

    def take(self) -> str:
        """The arguments since the last time, as JSON text; empty until the name is known."""


class Span:
    """Finds where a JSON value ends that began with a brace, a bracket or a quote."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_text = False
        self._escaped = False

    def ends(self, character: str) -> bool:
        """Whether this is the value's last character."""
        if self._escaped:
            self._escaped = False
        elif self._in_text:
            if character == "\\":
                self._escaped = True
            elif character == '"':
                self._in_text = False
                return not self._depth
        elif character == '"':
            self._in_text = True
        elif character in "{[":
            self._depth += 1
        elif character in "}]":
            self._depth -= 1
            return not self._depth
        return False


class ObjectReader:
    """{"name": …, "arguments": {…}}, with the keys in any order, or all of it inside "function"."""

    def __init__(self, form: CallFormat, *, strict: bool) -> None:
        """`strict`: a first key that no call has means that it is none."""
        self.name: str | None = None
        self.done = False
        self.broken = False
        self._name_key = form.name_key
        self._argument_keys = {form.arguments_key, "arguments", "parameters"}
        self._known = {*self._argument_keys, form.name_key, "type", "id", "function"} if strict else None
        self._state: Callable[[str], None] = self._before
        self._raw = ""
        self._key = ""
        self._span = Span()
        self._streams = False
        self._given = False
        self._pieces: list[str] = []

    def feed(self, text: str) -> int:
        for at, character in enumerate(text):
            self._state(character)
            if self.broken:
                return at
            if self.done:
                return at + 1
        return len(text)

    def take(self) -> str:
        if self.name is None:
            return ""
        pieces, self._pieces = self._pieces, []
        return "".join(pieces)

    def _before(self, character: str) -> None:
        if character == "{":
            self._state = self._between
        elif character not in _SPACE:
            self.broken = True

    def _between(self, character: str) -> None:
        if character == '"':
            self._raw, self._span = "", Span()
            self._state = self._in_key
            self._in_key(character)
        elif character == "}":
            self._close()
        elif character != "," and character not in _SPACE:
            self.broken = True

    def _in_key(self, character: str) -> None:
        self._raw += character
        if self._span.ends(character):
            self._key = str(_parsed(self._raw))
            self.broken = self._known is not None and self._key not in self._known
            self._known = None
            self._state = self._colon

    def _colon(self, character: str) -> None:
        if character == ":":
            self._state = self._value
        elif character not in _SPACE:
            self.broken = True

    def _value(self, character: str) -> None:
        if character in _SPACE:
            return
        self._raw, self._span = "", Span()
        self._streams = self._key in self._argument_keys and character == "{"
        self._given = self._given or self._streams
        self._state = self._in_value if character in '{["' else self._in_scalar
        self._state(character)

    def _in_value(self, character: str) -> None:
        if self._streams:
            self._pieces.append(character)
        else:
            self._raw += character
        if self._span.ends(character):
            if not self._streams:
                self._take_value()
            self._state = self._between

    def _in_scalar(self, character: str) -> None:
        if character not in ",}" and character not in _SPACE:
            self._raw += character
            return
        self._take_value()
        self._state = self._between
        self._between(character)

    def _take_value(self) -> None:
        value = _parsed(self._raw)
        if self._key == self._name_key:
            self._take_name(value)
        elif self._key == "function":
            if isinstance(value, dict):
                self._take_name(value.get("name"))
                self._take_arguments(next((value[key] for key in value if key in self._argument_keys), None))
            else:
                self._take_name(value)
        elif self._key in self._argument_keys:
            self._take_arguments(value)

    def _take_name(self, value: Any) -> None:
        if isinstance(value, str) and value:
            self.name = value
        else:
            self.broken = True

    def _take_arguments(self, value: Any) -> None:
        """Some models write them as JSON text, or null where there are none."""
        self._given = True
        text = value if isinstance(value, str) else json.dumps(value or {}, ensure_ascii=False)
        self._pieces.append(text or "{}")

    def _close(self) -> None:
        if self.name is None:
            self.broken = True
            return
        if not self._given:
            self._pieces.append("{}")
        self.done = True


class NamedReader:
    """The name, a text that stands between, and the arguments as a JSON object."""

    def __init__(self, form: CallFormat) -> None:
        self.name: str | None = None
        self.done = False
        self.broken = False
        self._between = form.between
        self._head = ""
        self._span = Span()
        self._pieces: list[str] = []

    def feed(self, text: str) -> int:
        start = 0
        if self.name is None:
            start = text.find("{")
            self._head += text if start < 0 else text[:start]
            if len(self._head) > _LONGEST_HEAD:
                self.broken = True
            if start < 0 or self.broken:
                return len(text)
            self.name = self._found()
            self.broken = self.name is None
        for at in range(start, len(text)):
            if self._span.ends(text[at]):
                self.done = True
                self._pieces.append(text[start : at + 1])
                return at + 1
        self._pieces.append(text[start:])
        return len(text)

    def take(self) -> str:
        pieces, self._pieces = self._pieces, []
        return "".join(pieces)

    def _found(self) -> str | None:
        first, _, rest = self._head.partition(self._between)
        # Older DeepSeek models write the kind of the tool before its name.
        match = _NAME.match(rest if first.strip() == "function" and rest else first)
        return None if match is None else match[1]


def _parsed(raw: str) -> Any:
    """A JSON value; None where it is none."""
    try:
        return json.loads(raw, strict=False)
    except (ValueError, RecursionError):
        return None
