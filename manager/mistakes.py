"""How mistakes in files, variables and names are worded. It decides nothing; callers add the place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from difflib import get_close_matches
from heapq import nsmallest
from pathlib import Path
from typing import Any, Final

from pydantic_core import ErrorDetails

from manager.errors import ConfigError

# As many as anybody would read; a text can have one in every few bytes.
MOST: Final = 100
# Comparing is quadratic in the length and linear in the number of words, and both may come from a stranger.
_LONGEST_COMPARED = 100
_MOST_COMPARED = 100
_LONGEST_SHOWN = 80
# What pydantic names after Python's types.
_CONTAINERS = {"model_type": "an object", "dict_type": "an object", "tuple_type": "a list", "list_type": "a list"}


@dataclass(frozen=True, slots=True)
class Mistake:
    """`message` is what is wrong at `path`, the keys from the outermost one in, of `file` (None: of the settings).

    `line` and `column` count lines and characters from 1, and are None where nobody has looked for them.
    """

    message: str
    path: tuple[str, ...] = ()
    file: Path | None = None
    line: int | None = None
    column: int | None = None

    @property
    def place(self) -> str | None:
        """The path as people read it, with dots; None where the mistake is about the whole."""
        return ".".join(step if _is_plain(step) else shown(step) for step in self.path) or None

    def __str__(self) -> str:
        file = None if self.file is None else f"{self.file}{self._position}"
        return ": ".join(part for part in (file, self.place, self.message) if part is not None)

    @property
    def _position(self) -> str:
        return "" if self.line is None else f", line {self.line}, column {self.column}"


class Mistakes(ConfigError):
    """Everything that is wrong with a file, and with what the settings say of it. There is at least one."""

    def __init__(self, mistakes: Iterable[Mistake]) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__("\n".join(map(str, self.mistakes)))


class MistakeList:
    """Collects mistakes, those of `file` where one is given. Full, it ends the search."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._found: list[Mistake] = []

    def __iter__(self) -> Iterator[Mistake]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def add(self, mistake: Mistake) -> None:
        """Raises Mistakes, with the first MOST and that there are more, where this is one too many."""
        found = mistake if self._file is None else replace(mistake, file=self._file)
        if len(self._found) == MOST:
            more = Mistake(f"there are more mistakes than these {MOST}", file=found.file)
            raise Mistakes([*self._found, more])
        self._found.append(found)

    def extend(self, mistakes: Iterable[Mistake]) -> None:
        """Takes no more of them than it has room for. Raises as `add` does."""
        for mistake in mistakes:
            self.add(mistake)

    def check(self) -> None:
        """Raises Mistakes where there is one."""
        if self._found:
            raise Mistakes(self._found)


def _is_plain(step: str) -> bool:
    """Whether it is short, and can be told from what stands around it without quotes."""
    short = 0 < len(step) <= _LONGEST_SHOWN
    return short and step.isprintable() and step == step.strip() and "," not in step and step[0] != "/"


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that looks most like `word`, regardless of case; None where none does.

    Of very many only those of about its length are looked at, and no very long ones.
    """
    if len(word) > _LONGEST_COMPARED:
        return None
    short = (name for name in known if len(name) <= _LONGEST_COMPARED)
    likely = nsmallest(_MOST_COMPARED, short, key=lambda name: abs(len(name) - len(word)))
    by_lower = {name.lower(): name for name in likely}
    found = get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[found[0]] if found else None


def did_you_mean(word: str, known: Iterable[str], *, prefix: str = "") -> str:
    """An end for a message: the nearest known word (with `prefix` before it), or nothing."""
    found = nearest(word, known)
    return "" if found is None else f"; did you mean {prefix}{found}?"


def shown(value: Any) -> str:
    """A value as a message shows it: quoted, without the password of an address, and cut where it is long."""
    text = _masked(repr(value))
    return text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 1] + "…"


def _masked(text: str) -> str:
    """Without what may be a name and a password: from the first // to the last @, in a list too much of it."""
    head, slashes, rest = text.partition("//")
    hidden, at, tail = rest.rpartition("@")
    # An address with a revision, //host/name@main, has none.
    return f"{head}{slashes}…@{tail}" if at and (":" in hidden or "/" not in hidden) else text


def problem(error: ErrorDetails, *, secret: bool = False) -> str:
    """What is wrong with one value, as the end of a sentence that names its place. A `secret` is not shown."""
    kind = error["type"]
    got = "" if secret else f" (got {shown(error['input'])})"
    if kind == "missing":
        return "is missing"
    if kind == "extra_forbidden":
        return "unknown key"
    if kind in _CONTAINERS:
        return f"must be {_CONTAINERS[kind]}{got}"
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if isinstance(error["input"], dict | list | tuple) and kind == "value_error":
        return message  # the rule concerns several keys; their values would be noise
    return f"{message[0].lower()}{message[1:]}{got}"
