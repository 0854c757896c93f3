"""What is asked of a model and what it brings, one sequence at a time. No torch in here, and no HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np

# Why a sequence ended, as OpenAI's finish_reason; a call of a tool is seen in its text, later.
Reason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a token is chosen: llama.cpp's names, meanings and defaults, in its order.

    `temperature` 0 is greedy; `top_k` 0 keeps all; `repeat_last_n`: how many last tokens, the prompt's included, the
    penalties look at, 0: none, -1: all. `top_logprobs`: how many likeliest tokens are told of with each; None: none,
    and no log-probability at all.
    """

    temperature: float = 0.8
    top_k: int = 40
    typical_p: float = 1.0
    top_p: float = 0.95
    min_p: float = 0.05
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=lambda: MappingProxyType({}))
    seed: int | None = None
    top_logprobs: int | None = None


class Matcher(Protocol):
    """Where one sequence stands in its grammar."""

    def mask(self) -> np.ndarray[Any, Any]:
        """Which tokens may come next: bool [vocabulary]."""

    def accept(self, token: int) -> None:
        """Step over a token. Raises GrammarError where it may not come here."""

    @property
    def done(self) -> bool:
        """Whether nothing but the end may come."""


class Grammar(Protocol):
    """A compiled grammar, shared by the sequences that follow it."""

    def matcher(self) -> Matcher: ...


@dataclass(frozen=True, slots=True)
class Generation:
    """One sequence to generate.

    `max_tokens` None: until the window is full. `media`: what the processor made of images, for the model's forward
    (name to tensor). `stop`: texts before which the answer ends. `special`: special tokens are shown as text.
    `reuse`: what earlier sequences left may be used.
    """

    prompt: tuple[int, ...]
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    special: bool = False
    reuse: bool = True
    grammar: Grammar | None = None
    media: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Score:
    """A token with its log-probability, by the model's own logits, and its likeliest rivals (itself among them)."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Ending:
    """How a sequence ended. Times are seconds; `prompt_seconds` until the first token, `seconds` from it to the last.

    `cached`: how many tokens of the prompt were not computed anew.
    """

    reason: Reason
    prompt_tokens: int
    cached: int
    tokens: int
    prompt_seconds: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Update:
    """What one step brought to a sequence. `text` is whole characters only; `scores` where they were asked for."""

    text: str = ""
    scores: tuple[Score, ...] = ()
    end: Ending | None = None
    error: Exception | None = None
