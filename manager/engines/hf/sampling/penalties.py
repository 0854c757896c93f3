"""What is done to logits before a token is chosen: grammar, logit_bias and penalties, as llama.cpp does them."""

from __future__ import annotations

import functools
from collections import Counter, deque
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from manager.engines.hf.generation import Matcher, Sampling

Array = np.ndarray[Any, Any]


class Window:
    """The tokens that the penalties look at, counted: the last `repeat_last_n`, the prompt's among them."""

    def __init__(self, sampling: Sampling, prompt: Sequence[int]) -> None:
        self.repeat = sampling.repeat_penalty
        self.frequency = sampling.frequency_penalty
        self.presence = sampling.presence_penalty
        self.counts = Counter[int]()
        self._size = sampling.repeat_last_n
        self._tokens = deque[int]()
        if self.repeat == 1 and not self.frequency and not self.presence:
            self._size = 0
        for token in prompt[-self._size :] if self._size > 0 else prompt:
            self.accept(token)

    def accept(self, token: int) -> None:
        if self._size == 0:
            return
        self.counts[token] += 1
        if self._size < 0:
            return
        self._tokens.append(token)
        if len(self._tokens) > self._size:
            oldest = self._tokens.popleft()
            self.counts[oldest] -= 1
            if not self.counts[oldest]:
                del self.counts[oldest]


class Biases(dict[int, float]):
    """A request's logit_bias. All its sequences share the arrays: of 50,000 tokens they take 5 ms to make."""

    @functools.cached_property
    def arrays(self) -> tuple[Array, Array]:
        """Tokens, and what is added to their logits."""
        return np.fromiter(self.keys(), np.int64, len(self)), np.fromiter(self.values(), np.float32, len(self))


class Bias:
    """What is added to the logits of some tokens: minus infinity to those that are banned."""

    def __init__(self, biases: Mapping[int, float], banned: Collection[int]) -> None:
        self.tokens, self.values = biases.arrays if isinstance(biases, Biases) else Biases(biases).arrays
        if banned:
            never = np.fromiter(banned, np.int64, len(banned))
            others = ~np.isin(self.tokens, never)
            self.tokens = np.concatenate([self.tokens[others], never])
            self.values = np.concatenate([self.values[others], np.full(len(never), -np.inf, np.float32)])


def add_biases(logits: torch.Tensor, biases: Mapping[int, Bias]) -> None:
    """In place, on contiguous float32 [rows, vocabulary]; the key is the row."""
    tokens = [bias.tokens for bias in biases.values()]
    where, known = _places(logits, list(biases), tokens)
    values = np.concatenate([bias.values for bias in biases.values()])[known]
    logits.view(-1).index_add_(0, where, torch.from_numpy(values).to(logits.device))


def penalise(logits: torch.Tensor, windows: Mapping[int, Window]) -> None:
    """In place, on contiguous float32 [rows, vocabulary]; the key is the row."""
    tokens = [np.fromiter(window.counts.keys(), np.int64, len(window.counts)) for window in windows.values()]
    where, known = _places(logits, list(windows), tokens)
    repeats, losses = [], []
    for window in windows.values():
        counts = np.fromiter(window.counts.values(), np.float32, len(window.counts))
        repeats.append(np.full(len(counts), window.repeat, np.float32))
        losses.append(counts * np.float32(window.frequency) + np.float32(window.presence))
    factors = np.stack([np.concatenate(repeats), np.concatenate(losses)])[:, known]
    repeat, loss = torch.from_numpy(factors).to(logits.device)
    flat = logits.view(-1)
    old = flat.index_select(0, where)
    # Dividing alone would make a token with a negative logit likelier.
    flat.index_copy_(0, where, torch.where(old <= 0, old * repeat, old / repeat) - loss)


def mask(row: torch.Tensor, matcher: Matcher) -> None:
    """Rule out, in place, what the grammar does not let come; tokens that it does not know may not come either."""
    allowed = matcher.mask()[: len(row)]
    row[len(allowed) :] = -torch.inf
    row[: len(allowed)].masked_fill_(torch.from_numpy(~allowed).to(row.device), -torch.inf)


def _places(logits: torch.Tensor, rows: Sequence[int], tokens: Sequence[Array]) -> tuple[torch.Tensor, Array]:
    """Where the tokens of these rows are in the flat logits, and which of them the model can choose at all.

    A prompt may hold tokens, of images for example, that have no logit.
    """
    width = logits.shape[1]
    every = np.concatenate(tokens)
    known = (every >= 0) & (every < width)
    starts = np.repeat(np.asarray(rows) * width, [len(some) for some in tokens])
    return torch.from_numpy((starts + every)[known]).to(logits.device), known
