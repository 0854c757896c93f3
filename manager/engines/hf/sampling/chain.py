"""llama.cpp's samplers from typical_p to temperature, on the likeliest tokens of some rows.

Each step takes what the one before left: `mass` is a token's probability before normalising, 0 once it is dropped. All
of it is on the CPU and in float64, so that the same logits give the same choice on every device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np

from manager.engines.hf.generation import Sampling

Array = np.ndarray[Any, Any]

TINY: Final = 1e-300
# Stand for minus infinity: above it, and where it would be multiplied by a probability of 0.
FINITE: Final = np.finfo(np.float32).min
LOWEST: Final = np.float32(-1e4)
# How far below the highest logit tokens are looked for, one after the other, until they are enough.
DEPTHS: Final = (2, 4, 6, 8, 11, 15, 20)


class Knobs(NamedTuple):
    """The numbers of a request that the chain needs. `floor`: the logarithm of min_p."""

    temperature: float
    typical_p: float
    top_p: float
    floor: float


def knobs_of(sampling: Sampling) -> Knobs:
    floor = math.log(min(sampling.min_p, 1.0)) if sampling.min_p > 0 else -math.inf
    return Knobs(max(sampling.temperature, 0.0), max(sampling.typical_p, 0.0), sampling.top_p, floor)


@dataclass(slots=True)
class Survivors:
    """What the chain left of some rows: tokens and their weights, [rows, width], the likeliest first or by token.

    A weight of 0: dropped. Where all of a row's are 0, no token may come.
    """

    tokens: Array
    weights: Array

    def draw(self, chances: Array) -> Array:
        """One token a row; a chance is in [0, 1)."""
        reached = self.weights.cumsum(1)
        chosen = (reached > (chances * reached[:, -1])[:, None]).argmax(1)
        return np.take_along_axis(self.tokens, chosen[:, None], 1)[:, 0]


def narrow(values: Array, tokens: Array, knobs: Array, kept: Array) -> Survivors:
    """The chain after top_k. `values`: falling logits [rows, width]; `knobs` [rows, 4]; `kept`: top_k of each row."""
    values = np.where(np.arange(values.shape[1]) < kept[:, None], values, np.float32(-np.inf))
    mass = _mass(values, values[:, :1])
    if (knobs[:, 1] < 1).any():
        mass = np.where(_typical(mass, mass.sum(1), None, knobs[:, 1]) | (knobs[:, 1:2] >= 1), mass, 0)
    return Survivors(tokens, _finish(values, mass, mass.sum(1), knobs))


def wide(row: Array, knobs: Knobs) -> Survivors:
    """The chain without top_k, on one row: float32 [vocabulary], its maximum finite.

    Only about as many tokens as survive are sorted, and none where typical_p and top_p are off.
    """
    each = np.array([knobs])
    if knobs.typical_p < 1 or knobs.top_p < 1:
        tokens, mass, total = _summed(row, knobs)
    else:
        tokens = np.flatnonzero(row >= max(row.max() + np.float32(knobs.floor), FINITE))
        mass, total = np.ones((1, len(tokens))), np.zeros(1)
    return Survivors(tokens[None], _finish(row[tokens][None], mass, total, each))


def _summed(row: Array, knobs: Knobs) -> tuple[Array, Array, Array]:
    """Tokens that can survive, by falling logit; their mass after typical_p, [1, width]; the mass of all, [1]."""
    best = row.max()
    mass = np.exp(row - best)
    total = mass.sum(dtype=np.float64, keepdims=True)
    if knobs.typical_p >= 1:
        tokens = _reaching(row, mass, knobs.top_p * total[0], 0.0, -knobs.floor)
        return tokens, _mass(row[tokens][None], best), total
    entropy = np.log(total) - np.dot(mass, np.maximum(row - best, LOWEST)) / total
    # All that is less likely than exp(-2 entropy) is farther from the entropy than all that is likelier.
    enough = 2 * float(entropy[0]) - math.log(total[0])
    tokens = _reaching(row, mass, knobs.typical_p * total[0], enough, math.inf)
    some = _mass(row[tokens][None], best)
    some = np.where(_typical(some, total, entropy, np.array([knobs.typical_p])), some, 0)
    return tokens, some, some.sum(1)


def _reaching(row: Array, mass: Array, amount: float, least: float, most: float) -> Array:
    """The likeliest tokens that have more than this mass together, and some others, by falling logit.

    All are among them that are at most `least` below the highest logit, and none that is more than `most` below it.
    """
    best = row.max()
    for depth in (*DEPTHS, math.inf):
        tokens = np.flatnonzero(row >= best - np.float32(min(depth, most)))
        if depth >= most or (depth >= least and mass[tokens].sum(dtype=np.float64) > amount):
            break
    return np.asarray(tokens[np.argsort(-row[tokens], kind="stable")])


def _finish(values: Array, mass: Array, total: Array, knobs: Array) -> Array:
    """Weights after top_p, min_p and temperature.

    `total`: the mass of each row, with that of tokens that are not among these.
    """
    temperature, _, top_p, floor = knobs.T[:, :, None]
    if (top_p < 1).any():
        before = _before(mass)
        mass = np.where((before < top_p * total[:, None]) | (before == 0) | (top_p >= 1), mass, 0)
    best = np.where(mass > 0, values, np.float32(-np.inf)).max(1, keepdims=True)
    # In float32, as llama.cpp does it: with bf16 logits, many stand exactly on the border.
    mass = np.where(values >= best + floor.astype(np.float32), mass, 0)
    greedy = temperature <= 0
    weights = np.where(mass > 0, _mass(values, best, np.where(greedy, 1, temperature)), 0)
    if greedy.any():
        first = np.arange(mass.shape[1]) == np.where(mass > 0, values, -np.inf).argmax(1, keepdims=True)
        weights = np.where(greedy, first & (mass > 0), weights)
    return weights


def _typical(mass: Array, total: Array, entropy: Array | None, limit: Array) -> Array:
    """Which tokens typical_p keeps, bool [rows, width]: those nearest to the entropy, until they pass `limit`.

    `entropy` None: of these tokens, which are all then.
    """
    share = mass / np.maximum(total, TINY)[:, None]
    surprise = -np.log(np.maximum(share, TINY))
    if entropy is None:
        entropy = (share * surprise).sum(1)
    distance = np.where(share > 0, np.abs(surprise - entropy[:, None]), np.inf)
    order = distance.argsort(1, kind="stable")
    nearest = _before(np.take_along_axis(share, order, 1)) <= limit[:, None]
    kept = np.empty_like(nearest)
    np.put_along_axis(kept, order, nearest, 1)
    return kept


def _before(mass: Array) -> Array:
    """The sum of those before each."""
    sums = np.zeros_like(mass)
    mass[:, :-1].cumsum(1, out=sums[:, 1:])
    return sums


def _mass(values: Array, best: Any, temperature: Any = 1.0) -> Array:
    """exp((values - best) / temperature); 0 for a row that has no best."""
    best = np.where(np.isfinite(best), best, 0)
    with np.errstate(over="ignore"):
        return np.asarray(np.exp((values.astype(np.float64) - best) / temperature))
