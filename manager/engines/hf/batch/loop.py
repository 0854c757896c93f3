"""What the thread that generates does: sequences join and leave between two steps, and every step brings each a token.

It knows no event loop: what it brings goes to `deliver`, all of a step together.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch

from manager.engines.hf.batch.attention import Interrupted
from manager.engines.hf.batch.cache import GROWTH, CachePool, rounded, shared_prefix
from manager.engines.hf.batch.forward import Forward, Piece, never
from manager.engines.hf.batch.sequence import Sequence, Sink
from manager.engines.hf.batch.text import Pieces, TextStream
from manager.engines.hf.generation import Generation, Matcher, Update
from manager.engines.hf.loading.load import LoadedModel
from manager.engines.hf.sampling.pick import SamplerState, pick
from manager.errors import GenerationFailed, HerdError, UpstreamClosed

logger = logging.getLogger(__name__)

Delivery = list[tuple[Sink, Update]]

# While somebody's text streams, a step is to take no longer, in seconds, however long the prompts of others are.
STEP_SECONDS: Final = 0.15
# So many tokens of prompts are read in such a step at least, and in the first one.
LEAST_CHUNK: Final = 32
FIRST_CHUNK: Final = 128
# A new sequence waits for one whose prompt is being read, where that saves it so many tokens.
WORTH_WAITING: Final = 64


@dataclass(frozen=True, slots=True)
class Limits:
    """`window`: tokens of one sequence; `sequences`: that run at once; `cache`: tokens of all; `chunk`: of a step."""

    window: int
    sequences: int
    cache: int
    chunk: int
    threads: int


@dataclass(slots=True)
class Counters:
    """What the thread has done so far, and what it has before it. Read by other threads."""

    prompt_tokens: int = 0
    prompt_seconds: float = 0.0
    tokens: int = 0
    seconds: float = 0.0
    steps: int = 0
    stepped_at: float = 0.0  # time.monotonic of the last step's end, or of the first work after a rest
    running: int = 0
    waiting: int = 0
    cache_tokens: int = 0
    cache_bytes: int = 0


class Generator:
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
        self.counters = Counters()
        self._loaded: LoadedModel | None = loaded
        self._forward: Forward | None = forward
        self._limits = limits
        self._deliver = deliver
        self._ended = ended
        self.pieces = Pieces(loaded.tokenizer.backend_tokenizer)
        self._caches = CachePool(max(limits.cache, rounded(limits.window)))
        self._inbox: queue.SimpleQueue[Sequence | None] = queue.SimpleQueue()  # None: look around
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []  # the oldest first
        self._news: Delivery = []
        self._chunk = min(FIRST_CHUNK, limits.chunk)  # tokens of prompts in a step beside others
        self._gave_up = False  # whether the last step was given up
        self._closing = False
        self._thread: int | None = None  # its ident
        self._over = threading.Event()

    # for any thread

    @property
    def alive(self) -> bool:
        return not self._over.is_set()

    @property
    def cpu(self) -> float:
        """CPU seconds that its thread has used."""
        if self._thread is None or self._over.is_set():
            return 0.0
        try:
            return time.clock_gettime(time.pthread_getcpuclockid(self._thread))
        except (AttributeError, OSError):  # no such clock here, or the thread has just ended
            return 0.0

    def submit(self, generation: Generation, sink: Sink) -> Sequence:
        """Begin a sequence as soon as there is a place. Blocks for no model."""
        assert self._loaded is not None  # noqa: S101  nobody submits to one that is closed
        ends = () if not generation.ignore_eos else tuple(self._loaded.ends)
        sequence = Sequence(
            generation,
            sink,
            TextStream(self.pieces, generation.stop, special=generation.special),
            SamplerState(generation.sampling, generation.prompt, _matcher(generation), ends),
        )
        self._inbox.put(sequence)
        return sequence

    def cancel(self, sequence: Sequence) -> None:
        """Give up a sequence: it gets nothing more, and its place is free after the step that is under way."""
        sequence.cancelled = True
        self._inbox.put(None)

    def close(self) -> None:
        """End the thread after the step that is under way; sequences that are left get an error."""
        self._closing = True
        self._inbox.put(None)

    def join(self, timeout: float) -> bool:
        """Whether `run` has come to its end; waits for it. Blocks."""
        return self._over.wait(timeout)

    # the thread

    def run(self) -> None:
        """Generate until `close`. For one thread, which does nothing else: torch's own threads belong to it."""
        failure: BaseException | None = None
        self._thread = threading.get_ident()
        try:
            torch.set_num_threads(self._limits.threads)
            with torch.inference_mode():
                while not self._closing:
                    self._collect()
                    if self._running or self._waiting:
                        self._step()
        except BaseException as error:
            failure = error
            logger.exception("the thread that generates broke")
        finally:
            self._abandon(failure)
            self._loaded = self._forward = None
            self._over.set()
            self._ended(failure)

    def _collect(self) -> None:
        """Take in who came, and let go who was cancelled. Blocks while there is nothing to do."""
        idle = not (self._running or self._waiting)
        if idle:
            self._count()
        news = self._inbox.get() if idle else None
        if idle:
            self.counters.stepped_at = time.monotonic()
        while True:
            if news is not None:
                self._waiting.append(news)
            try:
                news = self._inbox.get_nowait()
            except queue.Empty:
                break
        if any(one.cancelled for one in self._waiting):
            self._waiting = deque(one for one in self._waiting if not one.cancelled)
        for sequence in [one for one in self._running if one.cancelled]:
            self._leave(sequence)

    def _step(self) -> None:
        begun = time.monotonic()
        self._admit()
        pieces = self._plan()
        if pieces:
            self._generate(pieces)
            self._note(pieces, time.monotonic() - begun)
        self._flush()

    def _admit(self) -> None:
        """Let those in who wait, in their order, as far as there are places, room and tokens of this step."""
        reading = [one for one in self._running if one.pending > 1]
        left = self._prompt_tokens() - sum(one.pending for one in reading)
        while self._waiting and len(self._running) < self._limits.sequences and left > 0:
            sequence = self._waiting[0]
            held = sum(one.cache.capacity for one in self._running if one.cache is not None)
            if self._running and held + rounded(len(sequence.tokens)) + GROWTH > self._caches.budget:
                return
            generation = sequence.generation
            if generation.media is None and generation.reuse and self._model_forward.chunks:
                if any(_saves(one, sequence) for one in reading):
                    return
                sequence.cache = self._caches.reuse(sequence.tokens)
            if sequence.cached is None:
                sequence.cached = sequence.known
            if sequence.cache is None:
                sequence.cache = self._model_forward.new_cache()
            self._waiting.popleft()
            self._running.append(sequence)
            if generation.media is None:
                self._caches.running[sequence.id] = sequence.cache, sequence.tokens
            else:  # the tokens of an image are the same for every image
                self._caches.running[sequence.id] = sequence.cache, []
            reading.append(sequence)
            left -= sequence.pending

    def _prompt_tokens(self) -> int:
        """How many tokens of prompts the next step may read: as many as can be where nobody's text is held up."""
        streaming = any(one.pending == 1 for one in self._running)
        return self._chunk if streaming else self._limits.chunk

    @property
    def _model_forward(self) -> Forward:
        assert self._forward is not None  # noqa: S101  it is there until the thread ends
        return self._forward

    def _plan(self) -> list[tuple[Sequence, Piece]]:
        """Who does what in this step: one token of those that generate, and a part of the prompts, oldest first."""
        left = self._prompt_tokens()
        planned: list[tuple[Sequence, Piece]] = []
        for sequence in sorted(self._running, key=lambda one: one.pending > 1):
            media = sequence.generation.media if not sequence.known else None
            whole = media is not None or not self._model_forward.chunks
            count = sequence.pending if whole else min(sequence.pending, max(left, 1))
            if sequence.pending > 1:
                if left <= 0:
                    continue
                left -= count
            if sequence not in self._running or not self._has_room(sequence, sequence.known + count):
                continue
            assert sequence.cache is not None  # noqa: S101  it runs
            tokens = sequence.tokens[sequence.known : sequence.known + count]
            planned.append((sequence, Piece(sequence.cache, tokens, count == sequence.pending, media)))
        return [(sequence, piece) for sequence, piece in planned if sequence.cache is piece.cache]

    def _has_room(self, sequence: Sequence, length: int) -> bool:
        """Have room for so many tokens, at the cost of the youngest sequences: these begin anew when there is room."""
        cache = sequence.cache
        assert cache is not None  # noqa: S101  it runs
        try:
            while not self._caches.make_room(cache, length):
                youngest = self._running[-1]
                self._step_back(youngest)
                if youngest is sequence:
                    return False
        except Exception as error:
            self._fail(sequence, error)
            return False
        return True

    def _step_back(self, sequence: Sequence) -> None:
        self._running.remove(sequence)
        del self._caches.running[sequence.id]
        sequence.cache = None
        self._waiting.appendleft(sequence)

    def _generate(self, pieces: list[tuple[Sequence, Piece]]) -> None:
        try:
            self._pick([one for one, piece in pieces if piece.wanted], self._logits(pieces))
            self._gave_up = False
        except Interrupted:
            self._gave_up = True
        except Exception as error:
            if len(pieces) == 1:
                self._fail(pieces[0][0], error)
                raise_if_broken(error)
                return
            logger.warning("a step of %d sequences failed (%s); each is tried alone", len(pieces), type(error).__name__)
            self._caches.forget()
            self._one_by_one(pieces)

    def _logits(self, pieces: list[tuple[Sequence, Piece]]) -> torch.Tensor:
        """Raises Interrupted where one of these was cancelled meanwhile: long prompts hold nobody's place.

        Never twice running, so that others get on however many leave.
        """

        def given_up() -> bool:
            return self._closing or any(one.cancelled for one, _ in pieces)

        long = any(len(piece.tokens) > 1 for _, piece in pieces) and not self._gave_up
        return self._model_forward.step([piece for _, piece in pieces], given_up if long else never)

    def _one_by_one(self, pieces: list[tuple[Sequence, Piece]]) -> None:
        """Where one sequence spoils a step for all: it alone gets the error."""
        failed = []
        for sequence, piece in pieces:
            if sequence.known + len(piece.tokens) > len(sequence.tokens) or sequence not in self._running:
                continue  # it got its token before the error came
            try:
                logits = self._model_forward.step([piece])
                self._pick([sequence] if piece.wanted else [], logits)
            except Exception as error:
                self._fail(sequence, error)
                failed.append(error)
        if len(failed) == len(pieces):
            raise_if_broken(failed[0])

    def _pick(self, sequences: list[Sequence], logits: torch.Tensor) -> None:
        if not sequences:
            return
        assert self._loaded is not None  # noqa: S101  it is there until the thread ends
        for sequence, picked in zip(sequences, pick(logits, [one.sampler for one in sequences]), strict=True):
            if picked.error is not None:
                self._fail(sequence, picked.error)
                continue
            update = sequence.take(picked.token, picked.score, self._loaded.ends, self._limits.window)
            self.counters.tokens += 1
            if update is not None:
                self._news.append((sequence.sink, update))
                if update.end is not None:
                    self._leave(sequence)

    def _note(self, pieces: list[tuple[Sequence, Piece]], seconds: float) -> None:
        """Learn from a step how many tokens of prompts fit into the next one."""
        read = sum(len(piece.tokens) for _, piece in pieces if len(piece.tokens) > 1)
        counters = self.counters
        if self._gave_up:
            pass
        elif read:
            counters.prompt_tokens += read
            counters.prompt_seconds += seconds
            if read >= LEAST_CHUNK:
                fits = int(read / seconds * STEP_SECONDS)
                self._chunk = max(LEAST_CHUNK, min(self._limits.chunk, (self._chunk + fits) // 2))
        else:
            counters.seconds += seconds
        counters.steps += 1
        counters.stepped_at = time.monotonic()
        self._count()

    def _count(self) -> None:
        counters = self.counters
        counters.running, counters.waiting = len(self._running), len(self._waiting)
        counters.cache_tokens, counters.cache_bytes = self._caches.used, self._caches.size

    def _leave(self, sequence: Sequence) -> None:
        """It has ended or was cancelled; what the model knows of it may be of use to others."""
        self._running.remove(sequence)
        del self._caches.running[sequence.id]
        if sequence.cache is not None and sequence.generation.media is None:
            self._caches.keep(sequence.cache, sequence.tokens)
        sequence.cache = None

    def _fail(self, sequence: Sequence, error: Exception) -> None:
        short = is_out_of_memory(error)
        if short:
            self._caches.forget()
        logger.warning("a sequence of %d tokens failed: %s", len(sequence.tokens), type(error).__name__)
        if sequence in self._running:
            self._running.remove(sequence)
            del self._caches.running[sequence.id]
        sequence.cache = None
        if not isinstance(error, HerdError):
            message = (
                "There is not enough memory to answer this request."
                if short
                else f"The model failed ({type(error).__name__})."
            )
            error = GenerationFailed(message, should_retry=False)
        self._news.append((sequence.sink, Update(error=error)))

    def _flush(self) -> None:
        if self._news:
            news, self._news = self._news, []
            self._deliver(news)

    def _abandon(self, failure: BaseException | None) -> None:
        """The end: whoever still waits hears of it."""
        why = "The model was unloaded." if failure is None else f"The model broke ({type(failure).__name__})."
        while True:
            try:
                late = self._inbox.get_nowait()
            except queue.Empty:
                break
            if late is not None:
                self._waiting.append(late)
        left = [*self._running, *self._waiting]
        for sequence in left:
            sequence.cache = None
            self._news.append((sequence.sink, Update(error=UpstreamClosed(why))))
        self._running, self._waiting = [], deque()
        self._caches.running.clear()
        self._caches.forget()
        self._count()
        self._flush()


def _saves(reader: Sequence, waiter: Sequence) -> bool:
    """Whether one whose prompt is being read will know so much of the other's that it is worth waiting for."""
    if reader.generation.media is not None:
        return False
    shared = min(shared_prefix(reader.tokens, waiter.tokens), len(waiter.tokens) - 1)
    return shared - min(shared, reader.known) >= WORTH_WAITING


def _matcher(generation: Generation) -> Matcher | None:
    return None if generation.grammar is None else generation.grammar.matcher()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device, or the host, had no memory left; torch says it of the host in the text of a RuntimeError."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "alloc" in str(error).lower()
    )


def raise_if_broken(error: BaseException) -> None:
    """A device that met a fault stays so: no further step can work, and the model must be started anew."""
    if not is_out_of_memory(error) and "cuda" in str(error).lower():
        raise error
