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
    """The text of a message's content; an image counts as one word."""
    if isinstance(content, list):
        return " ".join(part.get("text", "<image>") for part in content)
    return content or ""


def prompt_of(messages: list[dict[str, Any]]) -> str:
    return " ".join([*(f"<|{m['role']}|> {text_of(m.get('content'))}" for m in messages), "<|assistant|>"])


@dataclass
class Answer:
    """One generation, streamed or whole."""

    model: str
    number: int
    conn: Connection
    knobs: Knobs
    tokens: list[str]
    prompt_tokens: int
    finish: str
    chat: bool

    def made(self) -> Iterator[str]:
        """The tokens, each when it is due."""
        knobs = self.knobs
        for made in range(len(self.tokens) + 1):
            if made == knobs.die_mid_stream:
                os.kill(os.getpid(), signal.SIGKILL)
            if made == knobs.stall_stream_after:
                self.conn.wait(FOREVER)
            if made == knobs.cut_stream_after:
                raise CutOff
            if made == 1 and knobs.stream_gate:
                self.conn.wait_for_file(knobs.stream_gate)
            if made < len(self.tokens):
                self.conn.wait(knobs.chunk_delay)
                yield self.tokens[made] if made == 0 else f" {self.tokens[made]}"

    @property
    def usage(self) -> dict[str, int]:
        made = len(self.tokens)
        total = self.prompt_tokens + made
        return {"prompt_tokens": self.prompt_tokens, "completion_tokens": made, "total_tokens": total}

    def frame(self, kind: str, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        common = {"id": f"chatcmpl-{self.number}", "created": int(time.time())}
        return {**common, "object": kind, "model": self.model, "choices": choices, **more}

    def whole(self, messages: list[dict[str, Any]], *, choices: int) -> None:
        text = "".join(self.made())
        part: dict[str, Any] = {"message": {"role": "assistant", "content": text}} if self.chat else {"text": text}
        made = [{"index": i, "finish_reason": self.finish, **part} for i in range(choices)]
        kind = "chat.completion" if self.chat else "text_completion"
        claim = 1000 if self.knobs.truncated_body else 0
        self.conn.answer(200, self.frame(kind, made, usage=self.usage, echo=messages), claim=claim)
        if claim:
            raise CutOff

    def stream(self, messages: list[dict[str, Any]], *, usage: bool) -> None:
        conn = self.conn
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        conn.send(conn.head(200, "text/event-stream", None))
        if self.chat:
            delta = {"role": "assistant", "content": None}
            first = [{"index": 0, "finish_reason": None, "delta": delta}]
            conn.event(self.frame(kind, first, echo=messages))
        for number, word in enumerate(self.made(), 1):
            part: dict[str, Any] = {"delta": {"content": word}} if self.chat else {"text": word}
            conn.event(self.frame(kind, [{"index": 0, "finish_reason": None, **part}]))
            if number == self.knobs.error_stream_after:
                conn.event(error_object(500, "the fake failed", "server_error"))
                return conn.send(b"0\r\n\r\n")
        last: dict[str, Any] = {"delta": {}} if self.chat else {"text": ""}
        conn.event(self.frame(kind, [{"index": 0, "finish_reason": self.finish, **last}]))
        if usage:
            conn.event(self.frame(kind, [], usage=self.usage))
        conn.event("[DONE]")
        return conn.send(b"0\r\n\r\n")
