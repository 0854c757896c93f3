"""From what sequences bring to the bytes of an answer, whole or streamed, in llama-server's shape."""

from __future__ import annotations

import codecs
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

DONE: Final = b"data: [DONE]\n\n"
# JSON has no -inf; llama-server writes the lowest 32 bit float.
LOWEST: Final = -3.4028234663852886e38
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
        self.end: Ending | None = None
        self._pieces = pieces
        self._offset = 0

    def reason(self, instead: str | None) -> str:
        """finish_reason; what the text turned out to be counts only where it is whole."""
        assert self.end is not None  # noqa: S101  only called at the end
        return instead if instead is not None and self.end.reason == "stop" else self.end.reason

    def take_logprobs(self) -> dict[str, Any] | None:
        """The scores since the last call: llama-server's `content`, and for completions also OpenAI's lists."""
        scores, self.scores = self.scores, []
        if not scores:
            return None
        content = [{**self._told(score.token, score.logprob), "top_logprobs": self._top(score)} for score in scores]
        return {"content": content} if self.deltas is not None else {"content": content, **self._lists(scores)}

    def _told(self, token: int, logprob: float) -> dict[str, Any]:
        raw = self._pieces[token]
        text = codecs.utf_8_decode(raw, "replace", False)[0]
        return {"id": token, "token": text, "bytes": list(raw), "logprob": max(logprob, LOWEST)}

    def _top(self, score: Score) -> list[dict[str, Any]]:
        return [self._told(token, logprob) for token, logprob in score.top]

    def _lists(self, scores: list[Score]) -> dict[str, Any]:
        names = [_name(self._pieces[score.token]) for score in scores]
        offsets: list[int] = []
        for score in scores:
            offsets.append(self._offset)
            self._offset += len(codecs.utf_8_decode(self._pieces[score.token], "replace", False)[0])
        return {
            "tokens": names,
            "token_logprobs": [max(score.logprob, LOWEST) for score in scores],
            "top_logprobs": [
                {_name(self._pieces[token]): max(logprob, LOWEST) for token, logprob in score.top} for score in scores
            ],
            "text_offset": offsets,
        }


def _name(raw: bytes) -> str:
    """A token as a key: part of a character is told by its bytes, as OpenAI does, so that no two are one."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


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

    def take(self, index: int, update: Update) -> bytes:
        """What an update of that choice adds to the answer's bytes. Errors are not for here."""
        raise NotImplementedError

    def _ended(self, choice: Choice, end: Ending) -> None:
        choice.end = end
        self._running -= 1

    def _report(self, *, usage: bool) -> dict[str, Any]:
        """The numbers of all choices together; a prompt counts once, and by the choice that computed most of it."""
        ends = [choice.end for choice in self.choices if choice.end is not None]
        firsts = [min(ends[at : at + self._n], key=lambda end: end.cached) for at in range(0, len(ends), self._n)]
        timings = timings_of(firsts, ends)
        return {"usage": usage_of(firsts, ends), "timings": timings} if usage else {"timings": timings}


class WholeAnswer(Answer):
    """All at once: `take` gives the body with the update that ends the last choice, and nothing before."""

    def take(self, index: int, update: Update) -> bytes:
        choice = self.choices[index]
        if update.text:
            if choice.deltas is None:
                choice.texts.append(update.text)
            else:
                choice.deltas.feed(update.text)
        choice.scores += update.scores
        if update.end is None:
            return b""
        self._ended(choice, update.end)
        if self._running:
            return b""
        choices = [self._choice(each) for each in self.choices]
        return orjson.dumps({"choices": choices, **self.head.fields(chunk=False), **self._report(usage=True)})

    def _choice(self, choice: Choice) -> dict[str, Any]:
        logprobs = choice.take_logprobs()
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
        choice.scores += update.scores
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
        logprobs = choice.take_logprobs() if choice.scores else None
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
            yield self._delta(choice, delta, choice.take_logprobs() if at == last and choice.scores else None)

    def _close(self, choice: Choice) -> Iterable[bytes]:
        if choice.deltas is None:
            told = {"text": "", "index": choice.index, "logprobs": None, "finish_reason": choice.reason(None)}
        else:
            deltas, instead = choice.deltas.end()
            yield from self._deltas(choice, deltas)
            told = {"finish_reason": choice.reason(instead), "index": choice.index, "delta": {}}
        logprobs = choice.take_logprobs()
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
