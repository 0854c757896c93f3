"""How many tokens an answer took, out of what its engine says at its end. Hardly more of an answer is looked at."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any, Final, TypeGuard

import orjson

from manager.inflight import Running, Tokens
from routes.asked import BYTES_OF_TOKEN, tokens_in

# What engines report comes last; llama.cpp's of embeddings comes before them.
TAIL: Final = 4096
HEAD: Final = 1024
# No count is as high, and no number of milliseconds.
TOO_MANY: Final = 2**40
# A report with more objects inside is none that we know.
MOST_OBJECTS: Final = 4
# What takes tokens. The answers of other paths have no such report.
COUNTED: Final = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/rerank", "/infill"})

_TIMINGS: Final = (b'"timings":{', b'"timings": {')
_USAGE: Final = (b'"usage":{', b'"usage": {')
_NUMBERS: Final = (int, float)  # as a union it would be made anew each time
_ERROR: Final = b'data: {"error"'
_DONE: Final = b"[DONE]"
# llama.cpp's answer again in another form, where a client asks for it.
_VERBOSE: Final = b'"__verbose":'
_GOES_ON: Final = b'"finish_reason":null'
# In whole answers of llama.cpp: a choice, what it is but its text, and a token where the client wants to see them.
_CHOICE: Final = b'"finish_reason":'
_TEXT: Final = b'{"choices":[{"text":'
_TEXT_FRAME: Final = len('{"text":"","index":0,"logprobs":null,"finish_reason":"length"},')
_CHAT_FRAME: Final = len('{"finish_reason":"stop","index":0,"message":{"role":"assistant","content":""}},')
_SCORED: Final = (b'"top_logprobs":', b'"top_probs":')
_AFTER_CHOICES: Final = b'"created":'


def close(running: Running, last: Iterable[bytes], reports: Sequence[Tokens] = (), prompts: int = 1) -> bool:
    """Read the report at the end of a stream, out of its `last` pieces. False where the engine ended it with an error.

    A frame must be whole in there, not in a piece of its own. Where choices have `reports` of their own, these count:
    a prompt once, however many choices there are of it. How long several prompts were read nobody tells: engines read
    them together or one by one.
    """
    tail = b"".join(last)[-TAIL:]
    took = None if running.first_at is None else time.monotonic() - running.first_at
    running.tokens = tokens_of(tail, took) if len(reports) < 2 else _together(reports, prompts)
    return tail.find(_DONE, max(0, len(tail) - 32)) >= 0 or _ERROR not in tail


def tokens_of(answer: bytes, seconds: float | None = None) -> Tokens | None:
    """What the engine reports of a chat or completion, whole or the end of its stream; None where it says nothing.

    llama-server has `timings`, every OpenAI-like engine `usage`. `seconds` is what all tokens but the first took,
    for an engine that does not say it.
    """
    size = len(answer)
    tail = max(0, size - TAIL)
    timings = _last_object(answer, _TIMINGS, tail, size)
    if timings is not None:
        tokens = _of_timings(timings)
        if tokens is not None:
            return tokens
    usage = _last_object(answer, _USAGE, tail, size) or _last_object(answer, _USAGE, 0, HEAD)
    return None if usage is None else _of_usage(usage, seconds)


def reports_in(frames: bytes) -> list[Tokens]:
    """What choices report that end in these frames of a stream: llama.cpp has a report for each choice."""
    if b'"timings":' not in frames and b'"usage":' not in frames:  # as nearly always
        return []
    own = (frame.partition(_VERBOSE)[0] for frame in frames.split(b"\n\n") if _GOES_ON not in frame)
    return [tokens for frame in own if (tokens := tokens_of(frame)) is not None]


def _together(reports: Sequence[Tokens], prompts: int) -> Tokens:
    copies = max(1, len(reports) // prompts)
    return Tokens(
        sum(report.prompt for report in reports) // copies,
        sum(report.cached for report in reports) // copies,
        sum(report.generated for report in reports),
        reports[-1].each,
        reports[0].prompt_seconds if prompts == 1 else None,
    )


def of_all_choices(answer: bytes, first: Tokens, prompts: Sequence[Any]) -> Tokens:
    """About what a whole answer of llama.cpp took, which reports the `first` of its choices alone.

    The other prompts and texts count by their bytes; tokens that the client wants to see can be counted.
    """
    choices = answer.count(_CHOICE)
    if choices < 2:
        return first
    made = max(map(answer.count, _SCORED))
    if not made:
        frame = _TEXT_FRAME if answer.startswith(_TEXT) else _CHAT_FRAME
        made = (answer.rfind(_AFTER_CHOICES) - choices * frame) // BYTES_OF_TOKEN
    others = sum(tokens_in([prompt]) for prompt in prompts[1:])
    generated = max(made, first.generated + choices - 1)
    return Tokens(first.prompt + others, first.cached, generated, first.each, first.prompt_seconds)


def _last_object(answer: bytes, names: tuple[bytes, ...], low: int, high: int) -> dict[str, Any] | None:
    """The last object in there under that name. A text of the answer can't pass for one: its quotes are escaped."""
    for name in names:
        at = answer.rfind(name, low, high)
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
    if not (_is_count(new) and _is_count(cached) and _is_count(generated)):
        return None
    read, spent = timings.get("prompt_ms"), timings.get("predicted_ms")
    prompt_seconds = read / 1000 if isinstance(read, _NUMBERS) and 0 < read < TOO_MANY else None
    each = None
    if generated > 1 and isinstance(spent, _NUMBERS) and 0 < spent < TOO_MANY:
        each = spent / 1000 / (generated - 1)
    return Tokens(new + cached, cached, generated, each, prompt_seconds)


def _of_usage(usage: dict[str, Any], seconds: float | None) -> Tokens | None:
    prompt, generated = usage.get("prompt_tokens"), usage.get("completion_tokens", 0)
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else 0
    if not (_is_count(prompt) and _is_count(generated)):
        return None
    each = seconds / (generated - 1) if seconds is not None and generated > 1 else None
    return Tokens(prompt, cached if _is_count(cached) else 0, generated, each)


def _is_count(value: Any) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < TOO_MANY
