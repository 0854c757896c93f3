"""JSON as a text: where its parts are, and how a member is added, changed or cut out with every other byte kept."""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Iterable
from functools import cached_property
from itertools import takewhile
from typing import Any, Final, NamedTuple

_SPACE: Final = " \t\r\n"
_MARK: Final = re.compile(r'["{}\[\]]')
_STEP: Final = "  "
_decode: Final = json.JSONDecoder().raw_decode


class Member(NamedTuple):
    """A member of an object: `start` is where its name begins, `value` to `end` where its value is."""

    name: str
    start: int
    value: int
    end: int


def deeper(text: str, most: int) -> int | None:
    """Where the first object or list is that lies in `most` others; None where there is none.

    The text need not be JSON; nothing is looked for behind a string that can't be read.
    """
    level = at = 0
    while (mark := _MARK.search(text, at)) is not None:
        at = mark.end()
        if mark[0] in "{[":
            if level == most:
                return mark.start()
            level += 1
        elif mark[0] != '"':
            level -= 1
        else:
            try:
                at = _decode(text, mark.start())[1]
            except json.JSONDecodeError:
                return None
    return None


def line_and_column(text: str, at: int) -> tuple[int, int]:
    """Of a place, in characters from 1."""
    return text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at)


def line_end(text: str) -> str:
    """How most of its lines end."""
    crlf = text.count("\r\n")
    return "\r\n" if 2 * crlf > text.count("\n") else "\n"


def outermost(text: str) -> int:
    """Where the object begins that the text is."""
    return text.index("{")


def members(text: str, at: int) -> list[Member]:
    """Of the object that begins at `at`, in their order. The text must be valid, here and below."""
    found: list[Member] = []
    at += 1
    while text[at := _skip(text, at)] != "}":
        start = _skip(text, at + 1) if found else at
        name, colon = _decode(text, start)
        value = _skip(text, _skip(text, colon) + 1)
        _, at = _decode(text, value)
        found.append(Member(name, start, value, at))
    return found


def with_member(text: str, at: int, name: str, value: Any) -> str:
    """The text with one more member in the object at `at`: behind the last one, indented like it."""
    newline = line_end(text)
    there = members(text, at)
    if not there:
        end = text.index("}", at)
        return f"{text[: at + 1]}{newline}{_STEP}{_written(name, value, newline + _STEP, _STEP)}{newline}{text[end:]}"
    last = there[-1]
    before = text[: last.start]
    space = before[len(before.rstrip(_SPACE)) :]
    if "\n" not in space:
        return f"{text[: last.end]}, {_written(name, value)}{text[last.end :]}"
    indent = space.rpartition("\n")[2]
    return f"{text[: last.end]},{space}{_written(name, value, newline + indent, indent or _STEP)}{text[last.end :]}"


def with_value(text: str, member: Member, value: Any) -> str:
    """The text with another value of the member."""
    return text[: member.value] + json.dumps(value, ensure_ascii=False) + text[member.end :]


def without_member(text: str, at: int, name: str) -> str:
    """The text without that member of the object at `at`, and without its comma."""
    there = members(text, at)
    number = sum(1 for _ in takewhile(lambda member: member.name != name, there))
    member = there[number]
    if len(there) == 1:
        return text[: at + 1] + text[text.index("}", member.end) :]
    if number == len(there) - 1:
        return text[: there[-2].end] + text[member.end :]
    return text[: member.start] + text[there[number + 1].start :]


class Places:
    """Finds the lines and columns of the parts of a text, which is valid JSON. What it has looked at it remembers."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._inside: dict[int, dict[str, tuple[int, int]]] = {}  # by where an object or a list begins

    def find(self, path: Iterable[str]) -> tuple[int, int]:
        """Line and column, from 1, of the name of a member or of an item (a number in `path`).

        Of the last part on the path that there is; of one that is there twice, the second.
        """
        found = value = _skip(self._text, 0)
        for step in path:
            place = self._parts(value).get(step)
            if place is None:
                break
            found, value = place
        line = bisect_left(self._ends, found)
        return line + 1, found - (self._ends[line - 1] if line else -1)

    @cached_property
    def _ends(self) -> list[int]:
        """Where lines end."""
        return [end.start() for end in re.finditer("\n", self._text)]

    def _parts(self, at: int) -> dict[str, tuple[int, int]]:
        """Of each member or item where it begins, and where its value does."""
        if at not in self._inside:
            self._inside[at] = dict(self._look(at))
        return self._inside[at]

    def _look(self, at: int) -> Iterable[tuple[str, tuple[int, int]]]:
        if self._text[at] == "{":
            for member in members(self._text, at):
                yield member.name, (member.start, member.value)
        elif self._text[at] == "[":
            number, at = 0, _skip(self._text, at + 1)
            while self._text[at] != "]":
                yield str(number), (at, at)
                number, at = number + 1, _skip(self._text, _decode(self._text, at)[1])
                at = _skip(self._text, at + 1) if self._text[at] == "," else at


def _skip(text: str, at: int) -> int:
    while text[at] in _SPACE:
        at += 1
    return at


def _written(name: str, value: Any, newline: str = "", step: str | None = None) -> str:
    """The member as JSON: on one line, or indented by `step`, with `newline` at the beginning of each further line."""
    text = json.dumps(value, indent=step, ensure_ascii=False)
    return f"{json.dumps(name, ensure_ascii=False)}: {text.replace(chr(10), newline)}"
