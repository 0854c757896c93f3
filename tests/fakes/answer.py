"""What the fake llama-server says to a chat, token by token, with the faults on the way."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.fakes.knobs import Knobs
from tests.fakes.wire import Connection, CutOff, error_object

FOREVER = 3600.0


def text_of(content: Any) -> str:
    """The text of a message's content or of a prompt; an image and a token id count as one word."""
    if isinstance(content, list):
        return " ".join(map(text_of, content))
    if isinstance(content, dict):
        return str(content.get("text", "<image>"))
    return "" if content is None else str(content)


def prompt_of(messages: list[dict[str, Any]]) -> str:
    return " ".join([*(f"<|{m['role']}|> {text_of(m.get('content'))}" for m in messages), "<|assistant|>"])


@dataclass
class Choice:
    """One answer to one prompt: its tokens, and how many the prompt has."""

    tokens: list[str]
    prompt_tokens: int

    @property
    def usage(self) -> dict[str, int]:
        made = len(self.tokens)
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": made,
            "total_tokens": self.prompt_tokens + made,
        }

    @property
    def timings(self) -> dict[str, float]:
        made = len(self.tokens)
        read = {"cache_n": 0, "prompt_n": self.prompt_tokens, "prompt_ms": self.prompt_tokens * 2.0}
        return read | {"predicted_n": made, "predicted_ms": made - 0.5}


@dataclass
class Answer:
    """One generation, streamed or whole. As llama-server does it, a whole one reports its first choice alone.

    Faults befall the first choice; `others` come behind it.
    """

    model: str
    number: int
    conn: Connection
    knobs: Knobs
    first: Choice
    others: list[Choice]
    finish: str
    chat: bool

    def made(self) -> Iterator[str]:
        """The tokens, each when it is due."""
        knobs = self.knobs
        for made in range(len(self.first.tokens) + 1):
            if made == knobs.die_mid_stream:
                os.kill(os.getpid(), signal.SIGKILL)
            if made == knobs.stall_stream_after:
                self.conn.wait(FOREVER)
            if made == knobs.cut_stream_after:
                raise CutOff
            if made == 1 and knobs.stream_gate:
                self.conn.wait_for_file(knobs.stream_gate)
            if made < len(self.first.tokens):
                self.conn.wait(knobs.chunk_delay)
                yield self.first.tokens[made] if made == 0 else f" {self.first.tokens[made]}"

    def frame(self, kind: str, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        common = {"created": int(time.time()), "model": self.model, "object": kind, "id": f"chatcmpl-{self.number}"}
        return {"choices": choices, **common, **more}

    def whole(self, messages: list[dict[str, Any]]) -> None:
        texts = ["".join(self.made()), *(" ".join(choice.tokens) for choice in self.others)]
        made = [self.whole_choice(index, text) for index, text in enumerate(texts)]
        kind = "chat.completion" if self.chat else "text_completion"
        claim = 1000 if self.knobs.truncated_body else 0
        report: dict[str, Any] = {"timings": self.first.timings} if self.knobs.timings else {}
        self.conn.answer(200, self.frame(kind, made, usage=self.first.usage, echo=messages, **report), claim=claim)
        if claim:
            raise CutOff

    def whole_choice(self, index: int, text: str) -> dict[str, Any]:
        if self.chat:
            message = {"role": "assistant", "content": text}
            return {"finish_reason": self.finish, "index": index, "message": message}
        return {"text": text, "index": index, "logprobs": None, "finish_reason": self.finish}

    def stream(self, messages: list[dict[str, Any]], *, usage: bool) -> None:
        conn = self.conn
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        conn.send(conn.head(200, "text/event-stream", None))
        if self.chat:
            delta = {"role": "assistant", "content": None}
            first = [{"index": 0, "finish_reason": None, "delta": delta}]
            conn.event(self.frame(kind, first, echo=messages))
        for number, word in enumerate(self.made(), 1):
            self.say(kind, 0, word)
            if number == self.knobs.error_stream_after:
                conn.event(error_object(500, "the fake failed", "server_error"))
                return conn.send(b"0\r\n\r\n")
        for index, choice in enumerate([self.first, *self.others]):
            for word in choice.tokens if index else ():
                self.say(kind, index, word)
            self.close(kind, index, choice, usage=usage)
        conn.event("[DONE]")
        return conn.send(b"0\r\n\r\n")

    def say(self, kind: str, index: int, word: str) -> None:
        part: dict[str, Any] = {"delta": {"content": word}} if self.chat else {"text": word}
        self.conn.event(self.frame(kind, [{"index": index, "finish_reason": None, **part}]))

    def close(self, kind: str, index: int, choice: Choice, *, usage: bool) -> None:
        """The end of a choice; of several each has a report."""
        part: dict[str, Any] = {"delta": {}} if self.chat else {"text": ""}
        report: dict[str, Any] = {"timings": choice.timings} if self.others or self.knobs.timings else {}
        last = [{"index": index, "finish_reason": self.finish, **part}]
        if usage:
            self.conn.event(self.frame(kind, last))
            self.conn.event(self.frame(kind, [], usage=choice.usage, **report))
        else:
            self.conn.event(self.frame(kind, last, **report))
