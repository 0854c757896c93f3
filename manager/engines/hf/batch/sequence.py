"""One sequence on its way: its tokens, what is known of them, and what of its text may go out."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from manager.engines.hf.batch.text import TextStream
from manager.engines.hf.generation import Ending, Generation, Reason, Score, Update
from manager.engines.hf.sampling.pick import SamplerState

if TYPE_CHECKING:
    from manager.engines.hf.batch.cache import SequenceCache

# Takes what a step brought. Called on the event loop.
Sink = Callable[[Update], None]

_numbers = itertools.count(1)


class Sequence:
    """For the thread that generates. `tokens`: the prompt and what came after it.

    `cancelled` may be set by any thread. Times are of time.monotonic.
    """

    # fmt: off
    __slots__ = (
        "cache", "cached", "cancelled", "first_at", "generation", "id", "made", "sampler", "sink", "started_at", "text",
        "tokens",
    )
    # fmt: on

    def __init__(self, generation: Generation, sink: Sink, text: TextStream, sampler: SamplerState) -> None:
        self.id = next(_numbers)
        self.generation = generation
        self.sink = sink
        self.text = text
        self.sampler = sampler
        self.tokens = list(generation.prompt)
        self.cache: SequenceCache | None = None
        self.cached: int | None = None  # tokens of the prompt that were known already
        self.made = 0  # tokens that were generated
        self.cancelled = False
        self.started_at = time.monotonic()
        self.first_at: float | None = None

    @property
    def known(self) -> int:
        """Of how many tokens the model knows keys and values."""
        return 0 if self.cache is None else self.cache.length

    @property
    def pending(self) -> int:
        """How many tokens the model has yet to read; 1 while it generates."""
        return len(self.tokens) - self.known

    def take(self, token: int, score: Score | None, ends: frozenset[int], window: int) -> Update | None:
        """Go on by a token; what of that is for the one who asked, if anything."""
        if self.first_at is None:
            self.first_at = time.monotonic()
        self.made += 1
        self.tokens.append(token)
        over = token in ends and not self.generation.ignore_eos
        text = "" if over else self.text.feed(token, score)
        reason = self._reason(over, window)
        if reason is not None:
            text += self.text.end()
        scores = self.text.take_scores()
        if not text and not scores and reason is None:
            return None
        return Update(text, scores, None if reason is None else self._ending(reason))

    def _reason(self, over: bool, window: int) -> Reason | None:
        matcher = self.sampler.matcher
        if over or self.text.stopped or (matcher is not None and matcher.done):
            return "stop"
        most = self.generation.max_tokens
        return "length" if (most is not None and self.made >= most) or len(self.tokens) >= window else None

    def _ending(self, reason: Reason) -> Ending:
        now = time.monotonic()
        first = self.first_at or now
        return Ending(
            reason=reason,
            prompt_tokens=len(self.generation.prompt),
            cached=self.cached or 0,
            tokens=self.made,
            prompt_seconds=first - self.started_at,
            seconds=now - first,
        )
