"""How mistakes in files, variables and names are worded. It decides nothing; callers add the place."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from pydantic_core import ErrorDetails

# Comparing is quadratic in the length, and a name may come from a stranger.
_LONGEST_COMPARED = 200
_LONGEST_SHOWN = 80
# What pydantic names after Python's types.
_CONTAINERS = {"model_type": "an object", "dict_type": "an object", "tuple_type": "a list", "list_type": "a list"}


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that looks most like `word`, regardless of case; None where none does."""
    if len(word) > _LONGEST_COMPARED:
        return None
    by_lower = {name.lower(): name for name in known}
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
