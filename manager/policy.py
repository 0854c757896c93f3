"""Which loaded models go when another needs their place. Pure: neither a clock nor I/O, and it knows no instances."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol, assert_never

_HALF_LIFE: Final = 100  # requests of all models
_FORGOTTEN: Final = 0.01  # a count so low is dropped
_LEAST_SIZE: Final = 1e-6  # a model without an estimate says 0, by which nothing can be divided


@dataclass(frozen=True, slots=True)
class Candidate:
    """An instance that may go: what its going frees, and its worth (the lowest goes first).

    `frees` is by resource: bytes of "host" or "gpu0", or a number of places such as "models" or "group:chat".
    """

    name: str
    frees: Mapping[str, int]
    worth: float


def choose(candidates: Sequence[Candidate], lacking: Mapping[str, int]) -> tuple[str, ...] | None:
    """Names of those to evict, so that at least `lacking` comes free of every resource, the least worth first.

    () where nothing lacks; None where all of them are not enough. They are taken by worth, then by name; who turns out
    not to be needed once the others go is spared, the most worth first, so that none of the chosen could stay.
    """
    left = dict(lacking)
    chosen: list[Candidate] = []
    for candidate in sorted(candidates, key=lambda one: (one.worth, one.name)):
        if all(amount <= 0 for amount in left.values()):
            break
        chosen.append(candidate)
        for resource in left:
            left[resource] -= candidate.frees.get(resource, 0)
    if any(amount > 0 for amount in left.values()):
        return None
    for candidate in reversed(chosen[:]):
        without = {resource: amount + candidate.frees.get(resource, 0) for resource, amount in left.items()}
        if all(amount <= 0 for amount in without.values()):
            chosen.remove(candidate)
            left = without
    return tuple(candidate.name for candidate in chosen)


@dataclass(frozen=True, slots=True)
class Usage:
    """A loaded model, as a policy looks at it.

    uses: requests since it was loaded. cost: seconds that loading it again takes. size: its share of the memory
    (0..1], the largest over devices. used_at: seconds of its last use, by any clock.
    """

    name: str
    uses: int
    cost: float
    size: float
    used_at: float


class Policy(Protocol):
    """Says what loaded models are worth. Each pool has one of its own, which may remember."""

    def rank(self, loaded: Iterable[Usage]) -> Mapping[str, float]:
        """Worth by name, after taking note of the uses since the last call. Call it before `evicted`."""

    def evicted(self, name: str) -> None:
        """Takes note that this one went for others. Not for models that were unloaded for another reason."""


def make_policy(name: Literal["gdsf", "lru"]) -> Policy:
    match name:
        case "gdsf":
            return _Gdsf()
        case "lru":
            return _Lru()
        case _:
            assert_never(name)


class _Lru:
    """The one that was used last is worth most."""

    def rank(self, loaded: Iterable[Usage]) -> Mapping[str, float]:
        return {usage.name: usage.used_at for usage in loaded}

    def evicted(self, name: str) -> None:
        pass


class _Gdsf:
    """GreedyDual-Size-Frequency (Cherkasova, 1998): worth = L + count * cost / size, as of a model's last use.

    L is the worth of what was evicted. It only rises, so that what isn't used falls behind, however much it once was.
    As it changes at evictions only, looking at the uses just before them comes to the same as looking at each use.

    Other than in the original, the count survives an eviction, because models come back, and halves in _HALF_LIFE
    requests of all models, because the few evictions here raise L too slowly to forget what was popular once: with the
    original's count, benchmarks/policy.py spends more time on loads than with LRU where popularity shifts.
    """

    def __init__(self) -> None:
        self._level = 0.0
        self._counts: dict[str, float] = {}
        self._seen: dict[str, int] = {}
        self._worth: dict[str, float] = {}

    def rank(self, loaded: Iterable[Usage]) -> Mapping[str, float]:
        usages = list(loaded)
        fresh = {usage.name: _since(self._seen.get(usage.name), usage.uses) for usage in usages}
        self._seen = {usage.name: usage.uses for usage in usages}
        self._count(fresh)
        worth, self._worth = self._worth, {}
        for usage in usages:
            name = usage.name
            if fresh[name] or name not in worth:
                worth[name] = self._level + self._counts[name] * usage.cost / max(usage.size, _LEAST_SIZE)
            self._worth[name] = worth[name]
        return dict(self._worth)

    def evicted(self, name: str) -> None:
        self._level = max(self._level, self._worth.pop(name, 0.0))

    def _count(self, fresh: Mapping[str, int]) -> None:
        total = sum(fresh.values())
        if not total:
            return
        kept = 0.5 ** (total / _HALF_LIFE)
        each = (1 - kept) * _HALF_LIFE / math.log(2) / total  # what one has become, if they came evenly mixed
        old = {name: kept * count for name, count in self._counts.items() if kept * count >= _FORGOTTEN}
        self._counts = old | {name: old.get(name, 0.0) + uses * each for name, uses in fresh.items()}


def _since(seen: int | None, uses: int) -> int:
    """Uses since the last look. Fewer than then: it was loaded anew. A load by itself counts as a use."""
    return max(1, uses) if seen is None or uses < seen else uses - seen
