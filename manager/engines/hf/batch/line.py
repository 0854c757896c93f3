"""Who waits, who runs, and what each brings to the next step. For the thread that generates."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from manager.engines.hf.batch.cache import BLOCK, GROWTH, CachePool, rounded, shared_prefix
from manager.engines.hf.batch.forward import Forward, Piece
from manager.engines.hf.batch.sequence import Sequence

# A new sequence waits for one whose prompt is being read, where that saves it so many tokens.
WORTH_WAITING: Final = 64

Fail = Callable[[Sequence, Exception], None]
Planned = list[tuple[Sequence, Piece]]


class Line:
    """Sequences in the order in which they came. `places`: how many run at once.

    `fail` is told of a sequence for which something could not be had; it is none of the line's any more.
    """

    def __init__(self, forward: Forward, caches: CachePool, places: int, fail: Fail) -> None:
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self._forward = forward
        self._caches = caches
        self._places = places
        self._fail = fail

    @property
    def streaming(self) -> bool:
        """Whether somebody's text would be held up by a long step."""
        return any(one.pending == 1 for one in self.running)

    def drop_cancelled(self) -> None:
        if any(one.cancelled for one in self.waiting):
            self.waiting = deque(one for one in self.waiting if not one.cancelled)
        for sequence in [one for one in self.running if one.cancelled]:
            self.leave(sequence)

    def admit(self, tokens: int) -> None:
        """Let those in who wait, in their order, as far as there are places, room and tokens of a step.

        Who would wait for another's prompt to be read is passed over; who finds no room is not.
        """
        reading = [one for one in self.running if one.pending > 1]
        for sequence in list(self.waiting):
            if len(self.running) >= self._places or _left(reading, tokens) <= 0:
                return
            held = sum(one.cache.capacity for one in self.running if one.cache is not None)
            if self.running and held + rounded(len(sequence.tokens)) + GROWTH > self._caches.budget:
                return
            if self._may_share(sequence) and any(_saves(one, sequence) for one in reading):
                continue
            self.waiting.remove(sequence)
            try:
                self._begin(sequence)
            except Exception as error:
                self._fail(sequence, error)
                continue
            reading.append(sequence)

    def _may_share(self, sequence: Sequence) -> bool:
        generation = sequence.generation
        return generation.media is None and generation.reuse and self._forward.chunks

    def _begin(self, sequence: Sequence) -> None:
        cache = self._caches.reuse(sequence.tokens) if self._may_share(sequence) else None
        sequence.cache = cache or self._forward.new_cache()
        if sequence.cached is None:
            sequence.cached = sequence.known
        self.running.append(sequence)
        # The tokens of an image are the same for every image: nobody may share them.
        known = sequence.tokens if sequence.generation.media is None else []
        self._caches.running[sequence.id] = sequence.cache, known

    def plan(self, tokens: int) -> Planned:
        """One token of each that generates, and of the prompts at most `tokens` together."""
        shares = _shares([one for one in self.running if one.pending > 1], tokens)
        planned: Planned = []
        for sequence in list(self.running):
            media = sequence.generation.media if not sequence.known else None
            whole = media is not None or not self._forward.chunks
            count = sequence.pending if whole else _part(sequence, shares.get(sequence.id, 1))
            if count and sequence in self.running and self._has_room(sequence, sequence.known + count):
                planned.append((sequence, self._piece(sequence, count)))
        return [(sequence, piece) for sequence, piece in planned if sequence.cache is piece.cache]

    def _piece(self, sequence: Sequence, count: int) -> Piece:
        assert sequence.cache is not None  # noqa: S101  it runs
        media = sequence.generation.media if not sequence.known else None
        tokens = sequence.tokens[sequence.known : sequence.known + count]
        return Piece(sequence.cache, tokens, count == sequence.pending, media)

    def again(self, sequence: Sequence, piece: Piece, known: int) -> Piece:
        """The piece once more, after a step that failed: the cache knows `known` tokens again, or is a new one."""
        if not piece.cache.divisible or not piece.cache.shorten(known):
            sequence.cache = self._forward.new_cache()
            shared = self._caches.running[sequence.id][1]
            self._caches.running[sequence.id] = sequence.cache, shared
        assert sequence.cache is not None  # noqa: S101  it runs
        if not self._caches.make_room(sequence.cache, known + len(piece.tokens)):
            raise MemoryError("the caches are full")
        return self._piece(sequence, known + len(piece.tokens) - sequence.known)

    def _has_room(self, sequence: Sequence, length: int) -> bool:
        """Have room for so many tokens, at the cost of the youngest sequences: these begin anew when there is room."""
        cache = sequence.cache
        assert cache is not None  # noqa: S101  it runs
        try:
            while not self._caches.make_room(cache, length):
                youngest = self.running[-1]
                self.remove(youngest)
                self.waiting.appendleft(youngest)
                if youngest is sequence:
                    return False
        except Exception as error:
            self._fail(sequence, error)
            return False
        return True

    def leave(self, sequence: Sequence) -> None:
        """It has ended or was cancelled; what the model knows of it may be of use to others."""
        if sequence.cache is not None and sequence.generation.media is None and self._forward.chunks:
            self._caches.keep(sequence.cache, sequence.tokens)
        self.remove(sequence)

    def remove(self, sequence: Sequence) -> None:
        """It does not run any more, and nothing is kept of it."""
        if sequence in self.running:
            self.running.remove(sequence)
        self._caches.running.pop(sequence.id, None)
        sequence.cache = None

    def clear(self) -> list[Sequence]:
        """Everybody, who is then gone from here."""
        everybody = [*self.running, *self.waiting]
        self.waiting.clear()
        for sequence in everybody:
            self.remove(sequence)
        self._caches.forget()
        return everybody


def _left(reading: list[Sequence], tokens: int) -> int:
    """What newcomers may have of a step's tokens: the oldest prompt takes half at most where others want some."""
    if not reading:
        return tokens
    return tokens - min(reading[0].pending, tokens // 2) - sum(one.pending for one in reading[1:])


def _shares(reading: list[Sequence], tokens: int) -> dict[int, int]:
    """How many tokens of whose prompt a step reads: half is the oldest's, the rest goes to the shortest first."""
    if not reading:
        return {}
    oldest, others = reading[0], sorted(reading[1:], key=lambda one: one.pending)
    first = min(oldest.pending, tokens // 2 if others else tokens)
    shares, left = {oldest.id: first}, tokens - first
    for one in others:
        shares[one.id] = min(one.pending, left)
        left -= shares[one.id]
    shares[oldest.id] += min(left, oldest.pending - first)
    return shares


def _part(sequence: Sequence, share: int) -> int:
    """How many of its tokens: all that are left, or up to where a block ends, and to the next one at least."""
    if sequence.pending <= share or not share:
        return min(sequence.pending, share)
    end = (sequence.known + share) // BLOCK * BLOCK
    return min(sequence.pending, max(end, (sequence.known // BLOCK + 1) * BLOCK) - sequence.known)


def _saves(reader: Sequence, waiter: Sequence) -> bool:
    """Whether one whose prompt is being read will know so much of the other's that it is worth waiting for."""
    if reader.generation.media is not None:
        return False
    shared = min(shared_prefix(reader.tokens, waiter.tokens), len(waiter.tokens) - 1)
    return shared - min(shared, reader.known) >= WORTH_WAITING
