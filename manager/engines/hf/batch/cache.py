"""Keys and values of sequences, and how many tokens of them are kept: running ones, and ended ones for reuse."""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator, Sequence
from typing import Final, Protocol

import torch

# A cache grows by so many tokens at a time.
GROWTH: Final = 256
# Prompts are read and prefixes shared in blocks of so many tokens (see attention.py).
BLOCK: Final = 32
# So many caches are kept that can only be used as a whole.
KEPT_WHOLE: Final = 4
# An ended sequence gives its cache away where the new one goes on with this part of it; else it is copied from.
TAKEN: Final = 0.9


class SequenceCache(Protocol):
    """What a model remembers of one sequence. `length`: of how many tokens; `capacity`: how many have room.

    `divisible`: whether it can be shortened and copied.
    """

    divisible: bool
    length: int
    capacity: int

    @property
    def size(self) -> int:
        """Bytes that it takes."""

    def make_room(self, length: int) -> None:
        """Let `length` tokens have room."""

    def shorten(self, length: int) -> bool:
        """Forget all but the first `length` tokens; False where it can't."""

    def copy(self, length: int) -> SequenceCache | None:
        """Another one with the first `length` tokens; None where it can't."""


def rounded(length: int) -> int:
    """The capacity of a cache of so many tokens."""
    return -(-length // GROWTH) * GROWTH


class KeyValues:
    """A cache whose keys and values lie side by side: by layer [1, heads, capacity, width], made at the first use."""

    __slots__ = ("_row", "capacity", "keys", "length", "values")

    divisible = True

    def __init__(self, layers: int) -> None:
        self._row = 0  # bytes of one token; it is asked for at every step
        self.length = 0
        self.capacity = 0
        self.keys: list[torch.Tensor | None] = [None] * layers
        self.values: list[torch.Tensor | None] = [None] * layers

    @property
    def size(self) -> int:
        if not self._row and self.length:
            tensors = [one for one in (*self.keys, *self.values) if one is not None]
            self._row = sum(one.shape[1] * one.shape[3] * one.element_size() for one in tensors)
        return self._row * self.capacity

    def make_room(self, length: int) -> None:
        if length > self.capacity:
            self.capacity = rounded(length)
            self._refill(self, self.length)

    def shorten(self, length: int) -> bool:
        self.length = min(self.length, length)
        return True

    def copy(self, length: int) -> KeyValues:
        twin = KeyValues(len(self.keys))
        twin.capacity = rounded(length)
        twin.length = length
        twin._refill(self, length)
        return twin

    def layer(self, index: int, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of a layer, with room. `key`, `value` [1, heads, tokens, width] say what they are like."""
        keys, values = self.keys[index], self.values[index]
        if keys is None or values is None:
            keys = self.keys[index] = self._made(key)
            values = self.values[index] = self._made(value)
        return keys, values

    def _made(self, like: torch.Tensor) -> torch.Tensor:
        _, heads, _, width = like.shape
        shape = (1, heads, self.capacity, width)
        if like.device.type != "cpu" or not self.capacity:
            return torch.empty(shape, dtype=like.dtype, device=like.device)
        # Pages of its own, which go back to the system with it. Caches come and go in many sizes, and the holes that
        # they would leave between each other in the heap took half as much again.
        size = math.prod(shape) * like.element_size()
        pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        return torch.frombuffer(pages, dtype=like.dtype).view(shape)

    def _refill(self, source: KeyValues, length: int) -> None:
        """Have the first `length` tokens of `source` in tensors of one's own capacity, one layer after another."""
        for mine, theirs in ((self.keys, source.keys), (self.values, source.values)):
            for index, old in enumerate(theirs):
                if old is not None:
                    new = self._made(old)
                    new[:, :, :length] = old[:, :, :length]
                    mine[index] = new


class _Kept:
    """An ended sequence whose cache is still there."""

    __slots__ = ("cache", "tokens")

    def __init__(self, cache: SequenceCache, tokens: list[int]) -> None:
        self.cache = cache
        self.tokens = tokens


class CachePool:
    """All caches of one model, under a budget of tokens. For the thread that generates."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.running: dict[int, tuple[SequenceCache, list[int]]] = {}  # by the sequence's id, with its tokens
        self._kept: list[_Kept] = []  # the one that was used last comes last

    @property
    def used(self) -> int:
        """Tokens that have room."""
        return sum(cache.capacity for cache in self._caches())

    @property
    def size(self) -> int:
        """Bytes of all caches."""
        return sum(cache.size for cache in self._caches())

    def _caches(self) -> Iterator[SequenceCache]:
        yield from (cache for cache, _ in tuple(self.running.values()))
        yield from (kept.cache for kept in tuple(self._kept))

    def make_room(self, cache: SequenceCache, length: int) -> bool:
        """Let `length` tokens have room in a running cache, at the cost of ended sequences. False where it can't be."""
        more = rounded(length) - cache.capacity
        while more > 0 and self.used + more > self.budget:
            if not self._kept:
                return False
            self._kept.pop(0)
        cache.make_room(length)
        return True

    def reuse(self, tokens: Sequence[int]) -> SequenceCache | None:
        """A cache that knows a beginning of `tokens`, but never the whole; None where none is worth it.

        It is an ended sequence's own, where that has nothing more to remember, else a copy.
        """
        wanted = list(tokens)
        best: SequenceCache | None = None
        shared, owner = 0, None
        for cache, known, kept in self._known():
            length = _of_blocks(min(shared_prefix(known, wanted), cache.length, len(wanted) - 1), cache)
            if length > shared or (length == shared and kept is not None and owner is None and best is not None):
                best, shared, owner = cache, length, kept
        if best is None:
            return None
        if owner is not None and shared >= TAKEN * best.length and best.shorten(shared):
            self._kept.remove(owner)
            return best
        if self.used + rounded(shared) <= self.budget:
            return best.copy(shared)
        return None

    def _known(self) -> Iterator[tuple[SequenceCache, list[int], _Kept | None]]:
        for kept in self._kept:
            yield kept.cache, kept.tokens, kept
        for cache, tokens in self.running.values():
            yield cache, tokens, None

    def keep(self, cache: SequenceCache, tokens: Sequence[int]) -> None:
        """An ended sequence: what it knows may be of use, as long as there is room."""
        if not cache.divisible:  # what it takes does not go by its tokens, and only its own next turn can use it
            whole = [one for one in self._kept if not one.cache.divisible]
            for one in whole[: max(0, len(whole) - KEPT_WHOLE + 1)]:
                self._kept.remove(one)
        if cache.length >= BLOCK:
            self._kept.append(_Kept(cache, list(tokens[: cache.length])))

    def forget(self) -> bool:
        """Give back what ended sequences have; whether there was any."""
        had = bool(self._kept)
        self._kept.clear()
        return had


def _of_blocks(length: int, cache: SequenceCache) -> int:
    """So much of it as ends with a block; all, where a cache can only be used as a whole."""
    return length // BLOCK * BLOCK if cache.divisible else length


def shared_prefix(one: list[int], other: list[int]) -> int:
    """How many tokens both begin with. Compares slices, so that long prompts cost microseconds."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
