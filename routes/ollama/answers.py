"""What engines answer to a chat or a completion, as Ollama says it: lines of JSON, the last one with what it took."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from manager.errors import GenerationFailed, HerdError
from routes import sse
from routes.errors import plain_error
from routes.form import Form
from routes.prefill import begun_of, without_prefill

NDJSON: Final = {"Content-Type": "application/x-ndjson", "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
# Why an answer ended, by OpenAI's words and llama-server's own; every other end is a stop.
_CUT: Final = frozenset({"length", "limit"})
_MILLISECOND: Final = 1_000_000  # nanoseconds

Object = dict[str, Any]
# A part of an answer, under the names that a route has for it: text, thinking, calls.
Put = Callable[[str, str, list[Object]], Object]


def as_message(text: str, thinking: str, calls: list[Object]) -> Object:
    """As /api/chat has it."""
    message: Object = {"role": "assistant", "content": text}
    if thinking:
        message["thinking"] = thinking
    if calls:
        message["tool_calls"] = calls
    return {"message": message}


def as_response(text: str, thinking: str, _: list[Object]) -> Object:
    """As /api/generate has it, which knows no tools."""
    return {"response": text, "thinking": thinking} if thinking else {"response": text}


def moment(seconds: float | None = None) -> str:
    """A time as Ollama writes it (RFC 3339, UTC): `seconds` since the epoch, or now."""
    when = datetime.now(UTC) if seconds is None else datetime.fromtimestamp(seconds, UTC)
    return when.isoformat().replace("+00:00", "Z")


@dataclass(slots=True)
class Call:
    """A call of a tool, as far as it has come."""

    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(slots=True)
class Report:
    """What is known of an answer at its end."""

    cut: bool = False
    calls: dict[int, Call] = field(default_factory=dict)
    usage: Object = field(default_factory=dict)
    timings: Object = field(default_factory=dict)

    def take(self, answer: Object, choice: Object, message: Object) -> None:
        """A whole answer or a chunk of one; the last word counts."""
        self.cut = self.cut or choice.get("finish_reason") in _CUT or choice.get("stop_type") in _CUT
        self.usage = answer.get("usage") or self.usage
        self.timings = answer.get("timings") or self.timings
        for number, part in enumerate(message.get("tool_calls") or ()):
            function = part.get("function") or {}
            call = self.calls.setdefault(part.get("index", number), Call())
            call.id = part.get("id") or call.id
            call.name += function.get("name") or ""
            call.arguments += function.get("arguments") or ""

    def called(self) -> list[Object]:
        """The calls, but for one that the limit of tokens cut off. Raises GenerationFailed for any other broken one."""
        found = []
        for index, call in self.calls.items():
            try:
                arguments = orjson.loads(call.arguments or "{}")
            except ValueError:
                arguments = None
            if isinstance(arguments, dict):
                function = {"index": index, "name": call.name, "arguments": arguments}
                found.append({"id": call.id, "function": function})
            elif not self.cut:
                raise GenerationFailed(f"The model called '{call.name}' with arguments that are no JSON object.")
        return found


class Answers:
    """The answers to one request, which calls its model `model`.

    `messages`: the chat that they go on with; `likeliest`: of how many tokens at each place the scores are wanted.
    """

    def __init__(
        self, model: str, put: Put, messages: Sequence[Mapping[str, Any]] = (), likeliest: int | None = None
    ) -> None:
        self._model = model
        self._put = put
        self._begun = begun_of(messages)
        self._thought = begun_of(messages, "reasoning_content")
        self._likeliest = likeliest or 0
        self._began = time.monotonic_ns()
        self._first: int | None = None

    @property
    def form(self) -> Form:
        return Form(finish=self.whole, reframe=self.lines, headers=NDJSON, failed=failed, pulse=lambda _: self._line())

    def whole(self, answer: Object) -> Object:
        """The answer of an engine that did not stream it."""
        report = Report()
        text, thinking, scores = self._read(answer, report)
        text, thinking = without_prefill(text, self._begun), without_prefill(thinking, self._thought)
        return {**self._object(text, thinking, report.called()), **scores, **self._took(report)}

    async def lines(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The lines of a stream. Raises HerdError where the engine tells of an error or breaks off."""
        report = Report()
        async for chunk in sse.chunks_of(chunks, self._model):
            text, thinking, scores = self._read(chunk, report)
            self._first = self._first or time.monotonic_ns()
            if text or thinking or scores:
                yield self._line(text, thinking, **scores)
        calls = report.called()
        if calls:
            yield self._line(calls=calls)
        yield _encoded({**self._object(), **self._took(report)})

    def without_prompt(self, reason: str) -> Object:
        """The answer to a request that had nothing to answer: the model was loaded or unloaded."""
        return {**self._object(), "done": True, "done_reason": reason, **self._durations(0, 0)}

    def _read(self, answer: Object, report: Report) -> tuple[str, str, Object]:
        """Text, thinking and scores of an engine's answer or chunk, of whichever path; `report` takes the rest."""
        choices = answer.get("choices", [answer])
        choice: Object = next((one for one in choices if not one.get("index")), {})  # more of them are not Ollama's
        message = choice.get("message") or choice.get("delta") or choice
        report.take(answer, choice, message)
        scores = [self._score(score) for score in (choice.get("logprobs") or {}).get("content") or ()]
        text = message.get("content") or message.get("text") or ""
        return text, message.get("reasoning_content") or "", {"logprobs": scores} if scores else {}

    def _score(self, score: Object) -> Object:
        """The engine was asked for one of the likeliest tokens even where none is wanted."""
        left = {name: value for name, value in score.items() if name != "top_logprobs"}
        return {**left, "top_logprobs": score.get("top_logprobs", [])[: self._likeliest]} if self._likeliest else left

    def _object(self, text: str = "", thinking: str = "", calls: Iterable[Object] = ()) -> Object:
        return {"model": self._model, "created_at": moment(), **self._put(text, thinking, list(calls))}

    def _line(self, text: str = "", thinking: str = "", calls: Iterable[Object] = (), **more: Any) -> bytes:
        return _encoded({**self._object(text, thinking, calls), **more, "done": False})

    def _took(self, report: Report) -> Object:
        usage, timings, now = report.usage, report.timings, time.monotonic_ns()
        prompt, made = usage.get("prompt_tokens"), usage.get("completion_tokens", 0)
        if prompt is None:
            prompt, made = timings.get("prompt_n", 0) + timings.get("cache_n", 0), timings.get("predicted_n", 0)
        first = self._first or self._began  # where the engine says nothing, what could be seen from here
        read = timings.get("prompt_ms", 0)
        wrote = timings.get("predicted_ms", (now - first) / _MILLISECOND)
        return {
            "done": True,
            "done_reason": "length" if report.cut else "stop",
            **self._durations(int(read * _MILLISECOND), int(wrote * _MILLISECOND)),
            "prompt_eval_count": prompt,
            "prompt_eval_duration": int(read * _MILLISECOND),
            "eval_count": made,
            "eval_duration": int(wrote * _MILLISECOND),
        }

    def _durations(self, read: int, wrote: int) -> Object:
        """What was neither reading nor writing was waiting for the model."""
        total = time.monotonic_ns() - self._began
        return {"total_duration": total, "load_duration": max(0, total - read - wrote)}


def failed(error: HerdError) -> bytes:
    """The last line of a stream that fails."""
    return _encoded(plain_error(error))


def _encoded(line: Object) -> bytes:
    return orjson.dumps(line) + b"\n"
