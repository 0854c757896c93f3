"""The wire of SimpleEngine: which fields of a chat it takes, and the answer in OpenAI's form, whole or streamed."""

from __future__ import annotations

import secrets
import time
from collections.abc import Collection, Mapping
from typing import Any, Final

import orjson

from manager.engines.answer import LocalAnswer
from manager.entry import ModelEntry
from manager.errors import InvalidRequest

Body = Mapping[str, Any]
# How a request may limit its answer, and the order in which they count; -1 is no limit.
LIMITS: Final = ("n_predict", "max_completion_tokens", "max_tokens")
# What is seen to here, and what can't change an answer.
_OURS: Final = frozenset({"model", "messages", "stream", "stream_options", *LIMITS})
_IDLE: Final = frozenset(
    {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "cache_prompt"}
)
# Values that ask for what an engine does anyway.
_PLAIN: Final[Mapping[str, tuple[Any, ...]]] = {
    "n": (1,),
    "logprobs": (False,),
    "response_format": ({"type": "text"},),
    "stop": ([],),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
}


def refuse_others(body: Body, honoured: Collection[str]) -> None:
    """Raises InvalidRequest for a field that nobody here sees to. Null asks for nothing."""
    for name, value in body.items():
        if value is None or name in _OURS or name in _IDLE or name in honoured or value in _PLAIN.get(name, ()):
            continue
        raise InvalidRequest(f"'{name}' is not supported by this model's engine with that value.", param=name)


def text_of(message: Body) -> str:
    """The text of a message, of all its parts. Raises InvalidRequest for images and sound."""
    content = message.get("content")
    if content is None or isinstance(content, str):
        return content or ""
    for part in content:
        if part.get("type") != "text":
            raise InvalidRequest(f"This model takes text only, not {part.get('type')}.", param="messages")
    return "".join(part["text"] for part in content)


class ChatAnswer:
    """Brings the pieces of one answer to its reader. `left`: how many more it may have."""

    def __init__(self, answer: LocalAnswer, body: Body, entry: ModelEntry, prompt: int, room: int) -> None:
        self._answer = answer
        self._streamed = body.get("stream") is True
        self._wants_usage = bool((body.get("stream_options") or {}).get("include_usage"))
        self._prompt = prompt
        self._made = 0
        self._pieces: list[str] = []  # of an answer that goes out whole; a stream's are not kept
        self._first_at = time.monotonic()
        self._head = {
            "id": f"chatcmpl-{secrets.token_hex(16)}",
            "created": int(time.time()),
            "model": body.get("model") or entry.name,
        }
        self.left = min(room, _limit(body, entry))

    def put(self, piece: str) -> None:
        """Add a piece, which is one token."""
        if not self._made:
            self._first_at = time.monotonic()
            self._begin()
        self._made += 1
        self.left -= 1
        if self._streamed:
            self._chunk({"content": piece})
        else:
            self._pieces.append(piece)

    def end(self) -> None:
        """The answer is whole: for want of more, or because it may have no more."""
        reason = "stop" if self.left else "length"
        if self._streamed:
            if not self._made:
                self._begin()
            self._chunk({}, reason, {"timings": self._timings()})
            if self._wants_usage:
                self._frame([], {"usage": self._usage(), "timings": self._timings()})
            self._answer.put(b"data: [DONE]\n\n")
            self._answer.end()
            return
        message = {"role": "assistant", "content": "".join(self._pieces)}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
        report = {"usage": self._usage(), "timings": self._timings()}
        whole = {"object": "chat.completion", "choices": [choice], **self._head, **report}
        self._answer.finish(200, orjson.dumps(whole))

    def _begin(self) -> None:
        if self._streamed:
            self._answer.begin()
            self._chunk({"role": "assistant", "content": ""})

    def _chunk(self, delta: Body, reason: str | None = None, more: Body | None = None) -> None:
        self._frame([{"index": 0, "delta": delta, "finish_reason": reason}], more or {})

    def _frame(self, choices: list[dict[str, Any]], more: Body) -> None:
        chunk = {"object": "chat.completion.chunk", "choices": choices, **self._head, **more}
        self._answer.put(b"data: " + orjson.dumps(chunk) + b"\n\n")

    def _usage(self) -> dict[str, int]:
        total = self._prompt + self._made
        return {"prompt_tokens": self._prompt, "completion_tokens": self._made, "total_tokens": total}

    def _timings(self) -> dict[str, float]:
        """As llama-server has them, for the service's own numbers."""
        spent = (time.monotonic() - self._first_at) * 1000
        return {"prompt_n": self._prompt, "cache_n": 0, "predicted_n": self._made, "predicted_ms": spent}


def _limit(body: Body, entry: ModelEntry) -> float:
    """How many tokens the answer may have: by the request, else by the entry."""
    asked = next((body[name] for name in LIMITS if body.get(name) is not None), entry.params.n_predict)
    return float("inf") if asked is None or asked < 0 else asked
