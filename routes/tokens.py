"""How many tokens an answer took, out of what its engine says at its end. Nothing else of an answer is looked at."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, Final, TypeGuard

import orjson

from manager.inflight import Running, Tokens

# What engines report comes last; nothing before these bytes is read.
TAIL: Final = 4096
# A report with more objects inside is none that we know.
MOST_OBJECTS: Final = 4
# What makes tokens. The answers of other paths have no such report.
GENERATES: Final = frozenset({"/v1/chat/completions", "/v1/completions"})

_TIMINGS: Final = (b'"timings":{', b'"timings": {')
_USAGE: Final = (b'"usage":{', b'"usage": {')
_NUMBERS: Final = (int, float)  # as a union it would be made anew each time
_ERROR: Final = b'data: {"error"'
_DONE: Final = b"[DONE]"


def close(running: Running, last: Iterable[bytes]) -> bool:
    """Read the report at the end of a stream, out of its `last` pieces. False where the engine ended it with an error.

    A frame must be whole in there, not in a piece of its own.
    """
    tail = b"".join(last)[-TAIL:]
    took = None if running.first_at is None else time.monotonic() - running.first_at
    running.tokens = tokens_of(tail, took)
    return tail.find(_DONE, max(0, len(tail) - 32)) >= 0 or _ERROR not in tail


def tokens_of(answer: bytes, seconds: float | None = None) -> Tokens | None:
    """What the engine reports of a chat or completion, whole or the end of its stream; None where it says nothing.

    llama-server has `timings`, every OpenAI-like engine `usage`. `seconds` is what all tokens but the first took,
    for an engine that does not say it. Of several choices engines report the last.
    """
    timings = _last_object(answer, _TIMINGS)
    if timings is not None:
        tokens = _of_timings(timings)
        if tokens is not None:
            return tokens
    usage = _last_object(answer, _USAGE)
    return None if usage is None else _of_usage(usage, seconds)


def _last_object(answer: bytes, names: tuple[bytes, ...]) -> dict[str, Any] | None:
    """The last object under that name. A text of the answer can't pass for one: its quotes are escaped."""
    low = max(0, len(answer) - TAIL)
    for name in names:
        at = answer.rfind(name, low)
        if at >= 0:
            return _object_at(answer, at + len(name) - 1)
    return None


def _object_at(answer: bytes, start: int) -> dict[str, Any] | None:
    end = start
    for _ in range(MOST_OBJECTS):
        end = answer.find(b"}", end) + 1
        if not end:
            return None
        try:
            found: dict[str, Any] = orjson.loads(answer[start:end])
        except ValueError:
            continue  # that was the end of an object inside
        return found
    return None


def _of_timings(timings: dict[str, Any]) -> Tokens | None:
    """`predicted_ms` begins with the first token (tools/server of llama.cpp)."""
    new, cached, generated = timings.get("prompt_n"), timings.get("cache_n", 0), timings.get("predicted_n")
    if not (type(new) is type(cached) is type(generated) is int) or min(new, cached, generated) < 0:
        return None
    spent = timings.get("predicted_ms")
    each = spent / 1000 / (generated - 1) if generated > 1 and isinstance(spent, _NUMBERS) and spent > 0 else None
    return Tokens(new + cached, cached, generated, each)


def _of_usage(usage: dict[str, Any], seconds: float | None) -> Tokens | None:
    prompt, generated = usage.get("prompt_tokens"), usage.get("completion_tokens", 0)
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else 0
    if not (_is_count(prompt) and _is_count(generated)):
        return None
    each = seconds / (generated - 1) if seconds is not None and generated > 1 else None
    return Tokens(prompt, cached if _is_count(cached) else 0, generated, each)


def _is_count(value: Any) -> TypeGuard[int]:
    return type(value) is int and value >= 0
