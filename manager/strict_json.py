"""JSON as we take it from files that people write, and what must not be in it when we send it."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any, Final

from manager.json_text import deeper, line_and_column
from manager.mistakes import Mistake

# Objects and lists in each other. Nobody needs more, and not everything that is made of an entry could have as many.
MOST_LEVELS: Final = 50
# Whole numbers that can be written as JSON everywhere.
_NUMBERS: Final = range(-(2**63), 2**64)
# Lone surrogates come from JSON escapes and from file names that are not UTF-8; they can't be sent to anyone.
SURROGATE: Final = re.compile(r"[\ud800-\udfff]")


class _Object(dict[str, Any]):
    """A JSON object that remembers the keys that were in it twice."""

    twice: tuple[str, ...] = ()


class NotJson(Exception):
    """A text that can't be looked at any further, and why."""

    def __init__(self, mistake: Mistake) -> None:
        super().__init__(mistake)
        self.mistake = mistake


def parsed(text: str) -> Any:
    """Raises NotJson, also for what is JSON and too deep to be looked at."""
    deep = deeper(text, MOST_LEVELS)
    if deep is not None:
        line, column = line_and_column(text, deep)
        raise NotJson(Mistake(f"is nested too deeply: more than {MOST_LEVELS} levels", line=line, column=column))

    def pairs(items: list[tuple[str, Any]]) -> _Object:
        result = _Object(items)
        if len(result) != len(items):
            result.twice = tuple(key for key, times in Counter(key for key, _ in items).items() if times > 1)
        return result

    def constant(word: str) -> Any:
        raise NotJson(Mistake(f"{word} is not a number that JSON allows"))

    try:
        return json.loads(text, object_pairs_hook=pairs, parse_constant=constant)
    except json.JSONDecodeError as error:
        said = f"not valid JSON: {error.msg[0].lower()}{error.msg[1:]}"
        raise NotJson(Mistake(said, line=error.lineno, column=error.colno)) from None
    except ValueError as error:
        raise NotJson(Mistake(f"not valid JSON: {error}")) from None


def sendable(value: Any) -> Any:
    """What JSON can have, with U+FFFD for the halves of characters that come from paths which are not UTF-8."""
    if isinstance(value, str):
        return SURROGATE.sub("\ufffd", value)
    if isinstance(value, dict):
        return {sendable(key): sendable(item) for key, item in value.items()}
    return [sendable(item) for item in value] if isinstance(value, list | tuple) else value


def defects(value: Any, path: tuple[str, ...]) -> Iterable[Mistake]:
    """What JSON lets pass and we don't: keys that are there twice, text that is no Unicode, endless numbers."""
    if isinstance(value, _Object):
        for key in value.twice:
            yield Mistake("is there twice", (*path, key))
        for key, item in value.items():
            if SURROGATE.search(key):
                yield Mistake("the name has half of a character (\\ud800 to \\udfff)", (*path, key))
            else:
                yield from defects(item, (*path, key))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from defects(item, (*path, str(number)))
    elif isinstance(value, str) and SURROGATE.search(value):
        yield Mistake("the text has half of a character (\\ud800 to \\udfff)", path)
    elif isinstance(value, int) and value not in _NUMBERS:
        yield Mistake("is a number of more than 64 bits", path)
