"""The choice of the next token of every running sequence at once: llama.cpp's samplers, in llama.cpp's order.

Biases and penalties are done by `penalties`, top_k by `leading`, the rest by `chain`; this module owns the state of a
sequence and puts them together. It runs in the thread that runs the model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Final

import numpy as np
import torch

from manager.engines.hf.generation import Matcher, Sampling, Score
from manager.engines.hf.sampling.chain import Survivors, knobs_of, narrow, wide
from manager.engines.hf.sampling.leading import leading
from manager.engines.hf.sampling.penalties import Bias, Window, add_biases, mask, penalise
from manager.errors import GenerationFailed

Array = np.ndarray[Any, Any]

# Rows with a top_k up to this are done together, each at the cost of the largest.
FEW: Final = 128
# What llama-server tells for a probability of 0: the lowest float32.
LEAST: Final = float(np.finfo(np.float32).min)
NOT_FINITE: Final = "The model's output is not finite: its weights are broken, or its dtype is too small for them."
NOTHING_LEFT: Final = "No token may come next: the grammar, logit_bias and ignore_eos together rule out all."


@dataclass(frozen=True, slots=True)
class Picked:
    """What came of one row. `token` counts only where there is no error."""

    token: int = -1
    score: Score | None = None
    error: Exception | None = None


class SamplerState:
    """What the choice of a sequence's tokens depends on, besides the logits.

    `prompt`: its tokens, on which the penalties begin. `banned`: tokens that never come.
    """

    def __init__(
        self, sampling: Sampling, prompt: Sequence[int], matcher: Matcher | None, banned: Sequence[int] = ()
    ) -> None:
        self.matcher = matcher
        self.window = Window(sampling, prompt)
        self.bias = Bias(sampling.logit_bias, banned)
        self.knobs = knobs_of(sampling)
        self.top_logprobs = sampling.top_logprobs
        # The likeliest token is all that greedy choice needs, where typical_p can't drop it.
        greedy = self.knobs.temperature == 0 and self.knobs.typical_p >= 1
        self.top_k = 1 if greedy else max(sampling.top_k, 0)
        self._random = Random(sampling.seed)  # noqa: S311  must be the same for the same seed; keeps no secret

    def chance(self) -> float:
        """In [0, 1), its own at each call: one a token."""
        return self._random.random()

    def accept(self, token: int) -> None:
        """The sequence goes on with this token. Raises what its grammar raises."""
        self.window.accept(token)
        if self.matcher is not None:
            self.matcher.accept(token)


@torch.inference_mode()
def pick(logits: torch.Tensor, states: Sequence[SamplerState]) -> list[Picked]:
    """The next token of each row of `logits` [len(states), vocabulary], which its state has then accepted.

    `logits` stay as they are. What fails for one row is told in its place, and the others go on.
    """
    adjusted, errors = _adjusted(logits, states)
    tokens = np.zeros(len(states), np.int64)
    for rows, best, survivors in _surviving(adjusted, states):
        tokens[rows] = survivors.draw(np.array([states[row].chance() for row in rows]))
        for row, highest in zip(rows, best, strict=True):
            if not math.isfinite(highest):
                errors.setdefault(row, _no_choice(highest))
    for row, state in enumerate(states):
        if row not in errors:
            try:
                state.accept(int(tokens[row]))
            except Exception as error:  # a grammar's own trouble ends its sequence only
                errors[row] = error
    scores = _scores(logits, tokens, {row: state for row, state in enumerate(states) if row not in errors})
    return [
        Picked(error=errors[row]) if row in errors else Picked(int(token), scores.get(row))
        for row, token in enumerate(tokens)
    ]


@torch.inference_mode()
def survivors(logits: torch.Tensor, state: SamplerState) -> dict[int, float]:
    """The tokens that could come next by logits [vocabulary], and how probable each is. Nothing is accepted.

    Raises what the grammar raises, and GenerationFailed where there are none.
    """
    adjusted, errors = _adjusted(logits[None], [state])
    if errors:
        raise errors[0]
    ((_, best, left),) = _surviving(adjusted, [state])
    if not math.isfinite(best[0]):
        raise _no_choice(best[0])
    (there,) = left.weights[0].nonzero()
    shares = left.weights[0][there] / left.weights[0].sum()
    return dict(zip(left.tokens[0][there].tolist(), shares.tolist(), strict=True))


def _no_choice(highest: float) -> GenerationFailed:
    """For a row whose highest logit is this."""
    return GenerationFailed(NOTHING_LEFT if highest == -math.inf else NOT_FINITE, should_retry=False)


def _adjusted(logits: torch.Tensor, states: Sequence[SamplerState]) -> tuple[torch.Tensor, dict[int, Exception]]:
    """float32 [rows, vocabulary] with grammars, biases and penalties, and the rows whose grammar failed."""
    matchers = {row: state.matcher for row, state in enumerate(states) if state.matcher is not None}
    biases = {row: state.bias for row, state in enumerate(states) if len(state.bias.tokens)}
    windows = {row: state.window for row, state in enumerate(states) if state.window.counts}
    changed = bool(matchers or biases or windows)
    adjusted = logits.to(torch.float32, copy=changed).contiguous()
    errors: dict[int, Exception] = {}
    for row, matcher in matchers.items():
        try:
            mask(adjusted[row], matcher)
        except Exception as error:  # as in pick
            errors[row] = error
    if biases:
        add_biases(adjusted, biases)
    if windows:
        penalise(adjusted, windows)
    return adjusted, errors


def _surviving(
    logits: torch.Tensor, states: Sequence[SamplerState]
) -> Iterator[tuple[list[int], Sequence[float], Survivors]]:
    """Some rows at a time: which ones, their highest logits, and what survived."""
    few = [row for row, state in enumerate(states) if 0 < state.top_k <= FEW]
    if few:
        yield few, *_with_top_k(logits, states, few)
    for row, state in enumerate(states):
        if state.top_k > FEW:
            yield [row], *_with_top_k(logits, states, [row])
        elif state.top_k == 0:
            yield [row], *_without_top_k(logits[row], state)


def _with_top_k(
    logits: torch.Tensor, states: Sequence[SamplerState], rows: list[int]
) -> tuple[Sequence[float], Survivors]:
    counts = np.array([states[row].top_k for row in rows])
    values, tokens = leading(logits if len(rows) == len(states) else logits[rows], int(counts.max()))
    best = values[:, 0]
    finite = np.where(np.isfinite(best)[:, None], values, np.float32(-np.inf))
    return best.tolist(), narrow(finite, tokens, np.array([states[row].knobs for row in rows]), counts)


def _without_top_k(logits: torch.Tensor, state: SamplerState) -> tuple[Sequence[float], Survivors]:
    row = logits.cpu().numpy()
    best = float(row.max())
    if math.isfinite(best):
        return [best], wide(row, state.knobs)
    return [best], Survivors(np.zeros((1, 1), np.int64), np.zeros((1, 1)))


def _scores(logits: torch.Tensor, tokens: Array, states: dict[int, SamplerState]) -> dict[int, Score]:
    """By the logits as the model gave them, of those that want some."""
    wanted = {row: state.top_logprobs for row, state in states.items() if state.top_logprobs is not None}
    if not wanted:
        return {}
    rows = list(wanted)
    raw = (logits if len(rows) == len(logits) else logits[rows]).float()
    totals = raw.logsumexp(1)
    chosen = raw.gather(1, torch.from_numpy(tokens[rows]).to(raw.device)[:, None])[:, 0] - totals
    logprobs, total = np.maximum(torch.stack([chosen, totals]).double().cpu().numpy(), [[LEAST], [-np.inf]])
    rivals = max(wanted.values())
    if rivals:
        values, others = leading(raw, rivals)
        values = np.maximum(values - total[:, None], LEAST)
    scores = {}
    for place, (row, count) in enumerate(wanted.items()):
        top = zip(others[place, :count].tolist(), values[place, :count].tolist(), strict=True) if count else ()
        scores[row] = Score(int(tokens[row]), float(logprobs[place]), tuple(top))
    return scores
