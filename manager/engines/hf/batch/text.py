"""From tokens to text, as they come: whole characters only, and nothing of a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator
from typing import Any, Final

import orjson
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from manager.engines.hf.generation import Score

# One step of a tokenizer's decoder, for one token; bytes are final.
Step = Callable[[str], str | bytes]


def _byte_letters() -> dict[str, int]:
    """The letter that byte-level vocabularies write for each byte (GPT-2): itself, or where it can't be printed one
    from U+0100 on.
    """
    printed = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printed]
    return {chr(byte): byte for byte in printed} | {chr(0x100 + at): byte for at, byte in enumerate(others)}


_LETTERS: Final = _byte_letters()


class Pieces(dict[int, bytes]):
    """What each token of a vocabulary stands for, in bytes; filled as tokens are asked for. One for each model.

    The space at the start of a SentencePiece token stays, as in llama.cpp: an answer goes on from its prompt. Ids that
    the tokenizer does not know (vocabularies are often padded) stand for nothing.
    """

    def __init__(self, backend: Tokenizer) -> None:
        super().__init__()
        self.backend = backend
        self.special = frozenset(token for token, added in backend.get_added_tokens_decoder().items() if added.special)
        self._steps = _steps_of(backend)

    @property
    def exact(self) -> bool:
        """Whether tokens stand for the same bytes wherever they are."""
        return self._steps is not None

    def __missing__(self, token: int) -> bytes:
        piece: str | bytes | None = self.backend.id_to_token(token)
        if piece is None:
            piece = b""
        elif self._steps is None:
            piece = self.backend.decode([token], skip_special_tokens=False)
        for step in self._steps or ():
            if isinstance(piece, bytes):
                break
            piece = step(piece)
        self[token] = raw = piece.encode() if isinstance(piece, str) else piece
        return raw


def _steps_of(backend: Tokenizer) -> tuple[Step, ...] | None:
    """None for a decoder whose tokens change with their neighbours, or that is not known."""
    if backend.decoder is None:
        return None
    steps = [_step(kind) for kind in _flat(orjson.loads(backend.decoder.__getstate__()))]
    known = tuple(step for step in steps if step is not None)
    return known if len(known) == len(steps) else None


def _flat(decoder: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if decoder["type"] == "Sequence":
        for each in decoder["decoders"]:
            yield from _flat(each)
    else:
        yield decoder


def _step(decoder: dict[str, Any]) -> Step | None:
    match decoder:
        case {"type": "ByteLevel"}:
            return _from_letters
        case {"type": "ByteFallback"}:
            return _from_hex
        case {"type": "Metaspace", "replacement": str(mark)}:
            return lambda piece: piece.replace(mark, " ")
        case {"type": "Replace", "pattern": {"String": str(old)}, "content": str(new)}:
            return lambda piece: piece.replace(old, new)
        case {"type": "Fuse"} | {"type": "Strip", "content": " ", "stop": 0}:  # the whole text's first space
            return lambda piece: piece
    return None


def _from_letters(piece: str) -> str | bytes:
    try:
        return bytes(_LETTERS[letter] for letter in piece)
    except KeyError:  # an added token: its own text
        return piece


def _from_hex(piece: str) -> str | bytes:
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        try:
            return bytes.fromhex(piece[3:5])
        except ValueError:
            return piece
    return piece


class TextStream:
    """The text of one sequence. `special`: whether special tokens are text too.

    The text ends before the first of the `stop` strings; of several that are found with the same token, the one that
    begins first counts. Scores come out with the text of their tokens, those of a stop string never.
    """

    def __init__(self, pieces: Pieces, stop: tuple[str, ...] = (), *, special: bool = False) -> None:
        self.stopped = False
        self._pieces = pieces
        self._stop = stop
        self._firsts = frozenset(each[0] for each in stop)
        self._longest = max(map(len, stop), default=0)
        self._skipped: frozenset[int] = frozenset() if special else pieces.special
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._whole = None if pieces.exact else DecodeStream(skip_special_tokens=not special)
        self._held = ""
        # Scores of tokens that are not out, each with where in what is held its token's text begins.
        self._unseen: list[tuple[Score, int]] = []
        self._scores: list[Score] = []

    def feed(self, token: int, score: Score | None = None) -> str:
        """The text that may go out now."""
        if self.stopped:
            return ""
        if score is not None:
            self._unseen.append((score, len(self._held)))
        if self._whole is not None:
            text = self._whole.step(self._pieces.backend, token) or ""
        elif token in self._skipped:
            return ""
        else:
            text = self._decode(self._pieces[token])
        return self._until_stop(self._held + text) if self._stop else self._out(text, len(text))

    def end(self) -> str:
        """What is held back still, when the sequence ends; a character that is not whole is U+FFFD."""
        if self.stopped:
            return ""
        text = self._held + self._decode(b"", True)
        self._held = ""
        self._scores += [score for score, _ in self._unseen]
        self._unseen = []
        return text

    def take_scores(self) -> tuple[Score, ...]:
        """The scores of the tokens that are out, whole or in part, since the last call."""
        scores, self._scores = tuple(self._scores), []
        return scores

    def _until_stop(self, text: str) -> str:
        found = min((at for stop in self._stop if (at := text.find(stop)) >= 0), default=-1)
        if found >= 0:
            self.stopped = True
            out = self._out(text, found)
            self._held, self._unseen = "", []
            return out
        return self._out(text, self._begins(text))

    def _begins(self, text: str) -> int:
        """Where the end of `text` may become a stop string; its length where it can't."""
        for at in range(max(0, len(text) - self._longest + 1), len(text)):
            if text[at] in self._firsts and any(stop.startswith(text[at:]) for stop in self._stop):
                return at
        return len(text)

    def _out(self, text: str, at: int) -> str:
        """Let the text out up to `at`, and hold the rest."""
        self._held = text[at:]
        if self._unseen and at:
            self._scores += [score for score, start in self._unseen if start < at]
            self._unseen = [(score, start - at) for score, start in self._unseen if start >= at]
        return text[:at]
