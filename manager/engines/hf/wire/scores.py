"""Log-probabilities as JSON, in llama-server's form and OpenAI's. Written token by token: whole ones are megabytes."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Any, Final

import orjson

from manager.engines.hf.batch.text import Pieces
from manager.engines.hf.generation import Score

# JSON has no -inf; llama-server writes the lowest 32 bit float.
LOWEST: Final = -3.4028234663852886e38


class ScoreWriter:
    """Of one choice. `lists`: with the lists that OpenAI's completions have beside `content`."""

    def __init__(self, pieces: Pieces, *, lists: bool) -> None:
        self._pieces = pieces
        self._lists = lists
        self._told: dict[int, bytes] = {}  # how a token's object begins
        self._content: list[bytes] = []
        self._tokens: list[str] = []
        self._logprobs: list[float] = []
        self._top: list[bytes] = []
        self._offsets: list[int] = []
        self._offset = 0

    def add(self, scores: Sequence[Score]) -> None:
        for score in scores:
            top = b",".join([self._token(token, logprob) + b"}" for token, logprob in score.top])
            self._content.append(b'%b,"top_logprobs":[%b]}' % (self._token(score.token, score.logprob), top))
            if self._lists:
                self._list(score)

    def take(self) -> dict[str, Any] | None:
        """What was added since the last call, for orjson."""
        if not self._content:
            return None
        told: dict[str, Any] = {"content": _array(self._content)}
        if self._lists:
            told |= {
                "tokens": self._tokens,
                "token_logprobs": self._logprobs,
                "top_logprobs": _array(self._top),
                "text_offset": self._offsets,
            }
        self._content, self._tokens, self._logprobs, self._top, self._offsets = [], [], [], [], []
        return told

    def _token(self, token: int, logprob: float) -> bytes:
        """An object that is still open."""
        begun = self._told.get(token)
        if begun is None:
            raw = self._pieces[token]
            begun = orjson.dumps({"id": token, "token": _text(raw), "bytes": list(raw)})[:-1] + b',"logprob":'
            self._told[token] = begun
        return begun + orjson.dumps(max(logprob, LOWEST))

    def _list(self, score: Score) -> None:
        raw = self._pieces[score.token]
        self._tokens.append(_name(raw))
        self._logprobs.append(max(score.logprob, LOWEST))
        self._top.append(
            orjson.dumps({_name(self._pieces[token]): max(logprob, LOWEST) for token, logprob in score.top})
        )
        self._offsets.append(self._offset)
        self._offset += len(_text(raw))


def _array(items: list[bytes]) -> orjson.Fragment:
    return orjson.Fragment(b"[" + b",".join(items) + b"]")


def _text(raw: bytes) -> str:
    return codecs.utf_8_decode(raw, "replace", False)[0]


def _name(raw: bytes) -> str:
    """A token as a key: part of a character is told by its bytes, as OpenAI does, so that no two are one."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)
