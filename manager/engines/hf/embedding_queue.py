"""The thread that makes embeddings: one request after another, until it is closed or breaks.

It knows no event loop but the one of each caller: what it has for one is told through `deliver`.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from manager.engines.hf.batch.attention import Interrupted
from manager.engines.hf.embedding import Embedder, Vector
from manager.engines.hf.loading.load import LoadedModel
from manager.engines.hf.model_thread import ModelThread, raise_if_broken, told
from manager.errors import HerdError, UpstreamClosed

logger = logging.getLogger(__name__)

Vectors = list[tuple[Vector, int]]


@dataclass(slots=True, eq=False)
class _Request:
    inputs: Sequence[str | Sequence[int]]
    answer: asyncio.Future[Vectors]
    given_up: bool = False


class EmbeddingQueue(ModelThread):
    """Makes embeddings with one model, in the thread that calls `run`.

    `threads`: of torch; `deliver` has the event loop call something, and raises nothing; `ended` is called by the
    thread at its end, with the exception that ended it, if one did; `batch_tokens`: see `Embedder`.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        threads: int,
        deliver: Callable[[Callable[[], None]], None],
        ended: Callable[[BaseException | None], None],
        *,
        batch_tokens: int | None = None,
    ) -> None:
        super().__init__()
        self._embedder: Embedder | None = Embedder(loaded, batch_tokens)
        self._threads = threads
        self._deliver = deliver
        self._ended = ended
        self._changed = threading.Condition()  # held for moments only, for the next three
        self._waiting: deque[_Request] = deque()
        self._running: _Request | None = None
        self._closed: str | None = None  # why, once it takes no more

    # for the event loop

    async def embed(self, inputs: Sequence[str | Sequence[int]]) -> Vectors:
        """See `Embedder.embed`. A caller that is cancelled gives its request up, between two batches at the latest.

        Raises GenerationFailed where the model failed, InsufficientMemory where it found no memory, UpstreamClosed
        where it is closed or broke.
        """
        request = _Request(inputs, asyncio.get_running_loop().create_future())
        self._put(request)
        try:
            return await request.answer
        except asyncio.CancelledError:
            self._give_up(request)
            raise

    # for any thread

    def close(self) -> None:
        """End the thread after the batch that is under way; whoever waits for an answer gets UpstreamClosed now."""
        self._abandon("The model was unloaded.")

    def _put(self, request: _Request) -> None:
        with self._changed:
            if self._closed is not None:
                raise UpstreamClosed(self._closed)
            if self._running is None and not self._waiting:
                self.counters.stepped_at = time.monotonic()  # the rest before it is no silence
            self._waiting.append(request)
            self._count()
            self._changed.notify()

    def _give_up(self, request: _Request) -> None:
        with self._changed:
            request.given_up = True
            if request in self._waiting:
                self._waiting.remove(request)
                self._count()

    def _abandon(self, why: str) -> None:
        """Take no more, and tell those who are left."""
        with self._changed:
            self._closed = why = self._closed or why
            left = [one for one in (self._running, *self._waiting) if one is not None]
            self._waiting.clear()
            self._count()
            self._changed.notify()
        for request in left:
            self._tell(request, UpstreamClosed(why))

    def _count(self) -> None:
        self.counters.running, self.counters.waiting = int(self._running is not None), len(self._waiting)

    def _tell(self, request: _Request, outcome: Vectors | Exception) -> None:
        self._deliver(functools.partial(_settle, request.answer, outcome))

    # the thread

    def run(self) -> None:
        """Embed until `close`. For one thread, which does nothing else: torch's own threads belong to it."""
        failure: BaseException | None = None
        self._clock.begin()
        try:
            torch.set_num_threads(self._threads)
            while (request := self._next()) is not None:
                self._serve(request)
        except BaseException as error:
            failure = error
            logger.error("the thread that embeds broke: %s", type(error).__name__)
            logger.debug("where it broke", exc_info=True)
        finally:
            name = type(failure).__name__
            self._abandon("The model was unloaded." if failure is None else f"The model broke ({name}).")
            self._embedder = self._running = None
            self._count()
            self._over.set()
            self._ended(failure)

    def _next(self) -> _Request | None:
        """The next request; None once it is closed. Blocks."""
        with self._changed:
            self._running = None
            self._count()
            self._changed.wait_for(lambda: self._waiting or self._closed is not None)
            if self._closed is not None:
                return None
            self._running = self._waiting.popleft()
            self._count()
            return self._running

    def _serve(self, request: _Request) -> None:
        assert self._embedder is not None  # noqa: S101  it is there until the thread ends
        begun = time.monotonic()

        def given_up() -> bool:
            return request.given_up or self._closed is not None

        def note(tokens: int) -> None:
            nonlocal begun
            counters, now = self.counters, time.monotonic()
            counters.prompt_tokens += tokens
            counters.prompt_seconds += now - begun
            counters.steps += 1
            counters.stepped_at = begun = now

        try:
            self._tell(request, self._embedder.embed(request.inputs, given_up, note))
        except Interrupted:
            pass  # nobody is there, or has been told
        except HerdError as error:
            self._tell(request, error)
        except Exception as error:
            logger.warning("embedding %d inputs failed: %s", len(request.inputs), type(error).__name__)
            self._tell(request, told(error))
            raise_if_broken(error)


def _settle(answer: asyncio.Future[Vectors], outcome: Vectors | Exception) -> None:
    if answer.done():
        return
    if isinstance(outcome, Exception):
        answer.set_exception(outcome)
    else:
        answer.set_result(outcome)
