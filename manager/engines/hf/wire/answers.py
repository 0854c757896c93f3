"""From what sequences bring to the bytes of an answer, whole or streamed, in llama-server's shape."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from manager.engines.hf.batch.text import Pieces
from manager.engines.hf.chat.deltas import Deltas, PlainDeltas
from manager.engines.hf.generation import Ending, Score, Update
from manager.engines.hf.wire.report import timings_of, usage_of
from manager.engines.hf.wire.scores import ScoreWriter

DONE: Final = b"data: [DONE]\n\n"
ROLE: Final = {"role": "assistant", "content": None}


@dataclass(frozen=True, slots=True)
class Head:
    """What every piece of an answer carries. `model`: the name to tell; `created`: seconds since the epoch."""

    chat: bool
    model: str
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(16)}")
    created: int = field(default_factory=lambda: int(time.time()))
    fingerprint: str = "llamaherd-hf"

    def fields(self, *, chunk: bool) -> dict[str, Any]:
        kind = "text_completion" if not self.chat else "chat.completion.chunk" if chunk else "chat.completion"
        return {
            "created": self.created,
            "id": self.id,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "object": kind,
        }


class Choice:
    """One of the answers to one prompt, as far as it has come. Chats read their text by `deltas`."""

    def __init__(self, index: int, pieces: Pieces, deltas: Deltas | None) -> None:
        self.index = index
        self.deltas = deltas
        self.begun = False
        self.texts: list[str] = []
        self.scores: list[Score] = []
        self.logprobs = ScoreWriter(pieces, lists=deltas is None)
        self.end: Ending | None = None

    def reason(self, instead: str | None) -> str:
        """finish_reason; what the text turned out to be counts only where it is whole."""
        assert self.end is not None  # noqa: S101  only called at the end
        return instead if instead is not None and self.end.reason == "stop" else self.end.reason


class Answer:
    """The choices of `prompts` prompts, `n` each: choice `i` is of prompt `i // n`."""

    def __init__(
        self, head: Head, pieces: Pieces, *, prompts: int = 1, n: int = 1, deltas: Callable[[], Deltas] = PlainDeltas
    ) -> None:
        self.head = head
        self._n = n
        self.choices = [Choice(at, pieces, deltas() if head.chat else None) for at in range(prompts * n)]
        self._running = len(self.choices)

    @property
    def done(self) -> bool:
        return not self._running

    def _ended(self, choice: Choice, end: Ending) -> None:
        choice.end = end
        self._running -= 1

    def _report(self, *, usage: bool) -> dict[str, Any]:
        """The numbers of all choices together; a prompt counts once, as it was for the first of its choices to come."""
        ends = [choice.end for choice in self.choices if choice.end is not None]
        firsts = ends[:: self._n]
        timings = timings_of(firsts, ends)
        return {"usage": usage_of(firsts, ends), "timings": timings} if usage else {"timings": timings}


class WholeAnswer(Answer):
    """All at once: `body`, when it is done."""

    def take(self, index: int, update: Update) -> bytes:
        """Nothing goes out yet."""
        choice = self.choices[index]
        if update.text:
            if choice.deltas is None:
                choice.texts.append(update.text)
            else:
                choice.deltas.feed(update.text)
        choice.scores += update.scores
        if update.end is not None:
            self._ended(choice, update.end)
        return b""

    @property
    def long(self) -> bool:
        """Whether it takes so long to write that it is for a thread: 0.1 ms a token."""
        return any(choice.scores for choice in self.choices)

    def body(self) -> bytes:
        choices = [self._choice(each) for each in self.choices]
        return orjson.dumps({"choices": choices, **self.head.fields(chunk=False), **self._report(usage=True)})

    def _choice(self, choice: Choice) -> dict[str, Any]:
        choice.logprobs.add(choice.scores)
        logprobs = choice.logprobs.take()
        if choice.deltas is None:
            reason = choice.reason(None)
            text = "".join(choice.texts)
            return {"text": text, "index": choice.index, "logprobs": logprobs, "finish_reason": reason}
        reason = choice.reason(choice.deltas.end()[1])
        told = {"finish_reason": reason, "index": choice.index, "message": choice.deltas.message()}
        return told if logprobs is None else {**told, "logprobs": logprobs}


class StreamedAnswer(Answer):
    """Frame by frame: `take` gives whole frames, and with the last choice's end the report and [DONE]."""

    def __init__(
        self,
        head: Head,
        pieces: Pieces,
        *,
        prompts: int = 1,
        n: int = 1,
        include_usage: bool = False,
        deltas: Callable[[], Deltas] = PlainDeltas,
    ) -> None:
        super().__init__(head, pieces, prompts=prompts, n=n, deltas=deltas)
        self._include_usage = include_usage
        self._common = b"," + orjson.dumps(head.fields(chunk=True))[1:-1]
        # Nearly all frames differ in one text only.
        self._tail = b"}]" + self._common + b"}\n\n"

    def take(self, index: int, update: Update) -> bytes:
        choice = self.choices[index]
        choice.logprobs.add(update.scores)  # now, as text that is held back may keep many for later
        frames: list[bytes] = []
        if choice.deltas is None:
            if update.text:
                frames.append(self._text(choice, update.text))
        else:
            if not choice.begun:
                choice.begun = True
                frames.append(self._delta(choice, ROLE))
            if update.text:
                frames += self._deltas(choice, choice.deltas.feed(update.text))
        if update.end is not None:
            self._ended(choice, update.end)
            frames += self._close(choice)
        return frames[0] if len(frames) == 1 else b"".join(frames)

    def _text(self, choice: Choice, text: str) -> bytes:
        logprobs = choice.logprobs.take()
        return b'data: {"choices":[{"text":%b,"index":%d,"logprobs":%b,"finish_reason":null%b' % (
            orjson.dumps(text),
            choice.index,
            b"null" if logprobs is None else orjson.dumps(logprobs),
            self._tail,
        )

    def _delta(self, choice: Choice, delta: Mapping[str, Any], logprobs: dict[str, Any] | None = None) -> bytes:
        return b'data: {"choices":[{"finish_reason":null,"index":%d,"delta":%b%b%b' % (
            choice.index,
            orjson.dumps(delta),
            b"" if logprobs is None else b',"logprobs":' + orjson.dumps(logprobs),
            self._tail,
        )

    def _deltas(self, choice: Choice, deltas: list[dict[str, Any]]) -> Iterable[bytes]:
        """The scores so far go with the last of them."""
        last = len(deltas) - 1
        for at, delta in enumerate(deltas):
            yield self._delta(choice, delta, choice.logprobs.take() if at == last else None)

    def _close(self, choice: Choice) -> Iterable[bytes]:
        if choice.deltas is None:
            told = {"text": "", "index": choice.index, "logprobs": None, "finish_reason": choice.reason(None)}
        else:
            deltas, instead = choice.deltas.end()
            yield from self._deltas(choice, deltas)
            told = {"finish_reason": choice.reason(instead), "index": choice.index, "delta": {}}
        logprobs = choice.logprobs.take()
        if logprobs is not None:
            told["logprobs"] = logprobs
        if self._running:
            yield self._frame([told])
        elif self._include_usage:
            yield self._frame([told])
            yield self._frame([], self._report(usage=True))
        else:
            yield self._frame([told], self._report(usage=not self.head.chat))
        if not self._running:
            yield DONE

    def _frame(self, choices: list[dict[str, Any]], report: dict[str, Any] | None = None) -> bytes:
        more = b"" if report is None else b"," + orjson.dumps(report)[1:-1]
        return b'data: {"choices":%b%b%b}\n\n' % (orjson.dumps(choices), self._common, more)
