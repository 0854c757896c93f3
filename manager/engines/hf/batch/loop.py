"""What the thread that generates does: sequences join and leave between two steps, and every step brings each a token.

It knows no event loop: what it brings goes to `deliver`, all of a step together.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Final

import torch

from manager.engines.hf.batch.attention import Interrupted
from manager.engines.hf.batch.cache import CachePool, rounded
from manager.engines.hf.batch.counters import Limits
from manager.engines.hf.batch.forward import Forward, Piece, never
from manager.engines.hf.batch.line import Line, Planned
from manager.engines.hf.batch.sequence import Sequence, Sink
from manager.engines.hf.batch.text import Pieces, TextStream
from manager.engines.hf.batch.threads import ThreadBudget
from manager.engines.hf.generation import Generation, Update
from manager.engines.hf.loading.load import LoadedModel
from manager.engines.hf.model_thread import ModelThread, is_out_of_memory, raise_if_broken, told
from manager.engines.hf.sampling.pick import SamplerState, pick
from manager.errors import UpstreamClosed

logger = logging.getLogger(__name__)

Delivery = list[tuple[Sink, Update]]

# While somebody's text streams, a step is to take no longer, in seconds, however long the prompts of others are.
STEP_SECONDS: Final = 0.15
# So many tokens of prompts are read in such a step at least, and in the first one.
LEAST_CHUNK: Final = 32
FIRST_CHUNK: Final = 128


class Generator(ModelThread):
    """Generates with one model until it is closed or breaks.

    `ended` is called by its thread at its end, with the exception that ended it, if one did.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        forward: Forward,
        limits: Limits,
        deliver: Callable[[Delivery], None],
        ended: Callable[[BaseException | None], None],
    ) -> None:
        super().__init__()
        self.pieces = Pieces(loaded.tokenizer.backend_tokenizer)
        self._ends = loaded.ends
        self._forward = forward
        self._limits = limits
        self._deliver = deliver
        self._ended = ended
        self._caches = CachePool(max(limits.cache, rounded(limits.window)))
        self._line = Line(forward, self._caches, limits.sequences, self._fail)
        self._inbox: queue.SimpleQueue[Sequence | None] = queue.SimpleQueue()  # None: look around
        self._news: Delivery = []
        self._chunk = min(FIRST_CHUNK, limits.chunk)  # tokens of prompts in a step beside streams
        self._gave_up = False  # whether the last step was given up
        self._closing = False
        self._closed = False  # nobody may put anything into the inbox
        self._lock = threading.Lock()

    # for any thread

    def make(self, generation: Generation, sink: Sink) -> Sequence:
        """A sequence that has not begun. For long prompts this takes some ms."""
        return Sequence(
            generation,
            sink,
            TextStream(self.pieces, generation.stop, special=generation.special),
            SamplerState(
                generation.sampling,
                generation.prompt,
                None if generation.grammar is None else generation.grammar.matcher(),
                tuple(self._ends) if generation.ignore_eos else (),
            ),
        )

    def begin(self, sequence: Sequence) -> None:
        """Begin it as soon as there is a place. Raises UpstreamClosed where there will be none."""
        with self._lock:
            if self._closed or self._closing:
                raise UpstreamClosed("The model was unloaded.")
            self._inbox.put(sequence)

    def cancel(self, sequence: Sequence) -> None:
        """Give up a sequence: it gets nothing more, and its place is free after the step that is under way."""
        sequence.cancelled = True
        self._inbox.put(None)

    def close(self) -> None:
        """End the thread after the step that is under way; sequences that are left get an error."""
        self._closing = True
        self._inbox.put(None)

    # the thread

    def run(self) -> None:
        """Generate until `close`. For one thread, which does nothing else: torch's own threads belong to it."""
        failure: BaseException | None = None
        self._clock.begin()
        try:
            threads = ThreadBudget(self._limits.threads)
            with torch.inference_mode():
                while not self._closing:
                    self._collect()
                    if self._line.running or self._line.waiting:
                        begun = time.monotonic(), time.thread_time()
                        self._step()
                        threads.note(time.monotonic() - begun[0], time.thread_time() - begun[1])
        except BaseException as error:
            failure = error
            logger.error("the thread that generates broke: %s", type(error).__name__)
            logger.debug("where it broke", exc_info=True)
        finally:
            self._abandon(failure)
            self._over.set()
            self._ended(failure)

    def _collect(self) -> None:
        """Take in who came, and let go who was cancelled. Blocks while there is nothing to do."""
        line = self._line
        news: Sequence | None = None
        if not (line.running or line.waiting):
            self._count()
            news = self._inbox.get()
            self.counters.stepped_at = time.monotonic()
        while True:
            if news is not None:
                line.waiting.append(news)
            try:
                news = self._inbox.get_nowait()
            except queue.Empty:
                break
        line.drop_cancelled()
        self._count()  # a place is free now, not after the next step

    def _step(self) -> None:
        begun = time.monotonic()
        # As many tokens of prompts as can be, where nobody's text is held up.
        tokens = self._chunk if self._line.streaming else self._limits.chunk
        self._line.admit(tokens)
        planned = self._line.plan(tokens)
        if planned:
            self._generate(planned)
            self._note(planned, time.monotonic() - begun)
        self._flush()

    def _generate(self, planned: Planned) -> None:
        known = [sequence.known for sequence, _ in planned]
        try:
            logits = self._logits(planned)
        except Interrupted:
            self._gave_up = True
            return
        except Exception as error:
            self._one_by_one(planned, known, error)
            return
        self._gave_up = False
        self._pick([sequence for sequence, piece in planned if piece.wanted], logits)

    def _logits(self, planned: Planned) -> torch.Tensor:
        """Raises Interrupted where one of these was cancelled meanwhile: long prompts hold nobody's place.

        Never twice running, so that others get on however many leave.
        """

        def given_up() -> bool:
            return self._closing or any(one.cancelled for one, _ in planned)

        long = any(len(piece.tokens) > 1 for _, piece in planned) and not self._gave_up
        return self._forward.step([piece for _, piece in planned], given_up if long else never)

    def _one_by_one(self, planned: Planned, known: list[int], error: Exception) -> None:
        """Where a step failed: each alone, so that only those get an error who are the cause of it."""
        raise_if_broken(error)
        kept = self._caches.forget()
        if len(planned) == 1 and not kept:
            self._fail(planned[0][0], error)
            return
        logger.warning("a step of %d sequences failed (%s); each is tried alone", len(planned), type(error).__name__)
        for (sequence, piece), before in zip(planned, known, strict=True):
            try:
                again = self._line.again(sequence, piece, before)
                logits = self._forward.step([again])
            except Exception as failure:
                raise_if_broken(failure)
                self._fail(sequence, failure)
            else:
                self._pick([sequence] if again.wanted else [], logits)

    def _pick(self, sequences: list[Sequence], logits: torch.Tensor) -> None:
        if not sequences:
            return
        try:
            picked = pick(logits, [one.sampler for one in sequences])
        except Exception as error:  # how far it came, nobody knows
            for sequence in sequences:
                self._fail(sequence, error)
            return
        for sequence, one in zip(sequences, picked, strict=True):
            try:
                if one.error is not None:
                    raise one.error
                update = sequence.take(one.token, one.score, self._ends, self._limits.window)
            except Exception as error:
                self._fail(sequence, error)
                continue
            self.counters.tokens += 1
            if update is not None:
                self._news.append((sequence.sink, update))
                if update.end is not None:
                    self._line.leave(sequence)

    def _note(self, planned: Planned, seconds: float) -> None:
        """Learn from a step how many tokens of prompts fit into the next one."""
        counters = self.counters
        counters.stepped_at = time.monotonic()
        if not self._gave_up:
            read = sum(len(piece.tokens) for _, piece in planned if _reads(piece))
            if read:
                counters.prompt_tokens += read
                counters.prompt_seconds += seconds
            if any(not _reads(piece) for _, piece in planned):
                counters.seconds += seconds
            if read >= LEAST_CHUNK:
                fits = int(read / seconds * STEP_SECONDS)
                self._chunk = max(LEAST_CHUNK, min(self._limits.chunk, (self._chunk + fits) // 2))
            counters.steps += 1
        self._count()

    def _count(self) -> None:
        counters = self.counters
        counters.running, counters.waiting = len(self._line.running), len(self._line.waiting)
        counters.cache_tokens, counters.cache_bytes = self._caches.used, self._caches.size

    def _fail(self, sequence: Sequence, error: Exception) -> None:
        self._line.remove(sequence)
        if is_out_of_memory(error):
            self._caches.forget()
        failure = told(error)
        logger.warning("a sequence of %d tokens failed: %s", len(sequence.tokens), type(failure).__name__)
        self._news.append((sequence.sink, Update(error=failure)))

    def _flush(self) -> None:
        if self._news:
            news, self._news = self._news, []
            self._deliver(news)

    def _abandon(self, failure: BaseException | None) -> None:
        """The end: whoever still waits hears of it."""
        why = "The model was unloaded." if failure is None else f"The model broke ({type(failure).__name__})."
        with self._lock:
            self._closed = True
        while True:
            try:
                late = self._inbox.get_nowait()
            except queue.Empty:
                break
            if late is not None:
                self._line.waiting.append(late)
        self._news += [(one.sink, Update(error=UpstreamClosed(why))) for one in self._line.clear()]
        self._count()
        self._flush()


def _reads(piece: Piece) -> bool:
    """Whether it is a part of a prompt, and not the token that came last."""
    return len(piece.tokens) > 1
