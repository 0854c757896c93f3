"""ModelInstance: the run-time life of one model. Its own task is the only writer of its state."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from manager.engines import Engine, EngineExit
from manager.entry import ModelEntry
from manager.errors import HerdError, LoadAborted, LoadFailed, LoadTimeout, ShuttingDown, UpstreamClosed
from manager.lease import Lease, Life
from manager.state import LEAVING, SETTLED, TRANSITIONS, ModelState, ModelStatus

logger = logging.getLogger(__name__)

BACKOFF_FIRST: Final = 1.0
BACKOFF_MOST: Final = 60.0
# A life that was READY this long clears the record of failures before it.
HEALTHY_AFTER: Final = 60.0
# A request waits out a back-off up to this long; a longer one is answered at once with Retry-After.
BACKOFF_PATIENCE: Final = 1.0
# How often a load that goes on is published again.
PROGRESS_EVERY: Final = 1.0
LOG_TAIL: Final = 20


@dataclass(frozen=True, slots=True)
class Timing:
    """Limits of a life, in seconds."""

    load: float
    drain: float
    idle: float | None = None


class ModelInstance:
    """The state machine of one model; see `manager.state` for the moves.

    `entry` may be replaced at any time and counts from the next life on. `personality` is that of the last `load`
    and stays through idle unloads and failures, until somebody unloads the model. `publish` is called with every
    new status (and while it loads once a second), from the instance's own task, and must not raise.
    """

    def __init__(
        self,
        entry: ModelEntry,
        make_engine: Callable[[ModelEntry], Engine],
        publish: Callable[[ModelStatus], None],
        timing: Timing,
    ) -> None:
        self.entry = entry
        self.personality: str | None = None
        self._make_engine = make_engine
        self._publish = publish
        self._timing = timing
        self._state = ModelState.STOPPED
        self._since = time.time()
        self._life: Life | None = None
        self._task: asyncio.Task[None] | None = None
        self._moved = asyncio.Event()  # replaced at each move, so that a waiter sees every one
        self._closing = False
        self._failures = 0
        self._retry_at = 0.0  # monotonic
        self._error: HerdError | None = None
        self._exit_code: int | None = None
        self._log_tail: tuple[str, ...] = ()
        self._load_seconds: float | None = None

    # what others see

    @property
    def state(self) -> ModelState:
        return self._state

    @property
    def in_flight(self) -> int:
        return self._life.in_flight if self._life else 0

    def status(self) -> ModelStatus:
        failed = self._state is ModelState.FAILED
        life = self._life
        return ModelStatus(
            model=self.entry.name,
            state=self._state,
            since=self._since,
            in_flight=self.in_flight,
            personality=self.personality,
            error=self._error.message if failed and self._error else None,
            error_code=self._error.code if failed and self._error else None,
            exit_code=self._exit_code if failed else None,
            retry_at=time.time() + self._retry_at - time.monotonic() if failed else None,
            load_seconds=self._load_seconds,
            pid=life.engine.pid if life else None,
            log_tail=life.engine.log.tail(LOG_TAIL) if life else self._log_tail,
        )

    # what others ask for

    def try_lease(self) -> Lease | None:
        """A lease where the model is READY now, without waiting."""
        if self._state is ModelState.READY and self._life is not None and not self._closing:
            return Lease(self._life, self.entry, self.personality)
        return None

    async def lease(self, timeout: float) -> Lease:
        """A lease, after loading where that is needed.

        Raises LoadTimeout after `timeout` seconds, LoadFailed, LoadAborted (unloaded while it was loading) or
        ShuttingDown. A caller that leaves does not end the load.
        """
        joined: Life | None = None
        try:
            async with asyncio.timeout(timeout):
                while True:
                    if self._closing:
                        raise ShuttingDown("The service is shutting down.", retry_after=5)
                    if joined is not None and joined.error is not None:
                        raise joined.error
                    lease = self.try_lease()
                    if lease is not None:
                        return lease
                    moved = self._moved
                    backoff = self._backoff()
                    if backoff is None:
                        joined = self._join_or_begin(joined)
                    # What was waited for may not be so any more: all is looked at again.
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(backoff):
                            await moved.wait()
        except TimeoutError:
            raise LoadTimeout(
                f"The model '{self.entry.name}' was not ready within {timeout:g} s; it may still be loading.",
                retry_after=5,
            ) from None

    async def load(self, timeout: float, personality: str | None) -> None:
        """Load on somebody's explicit wish: a back-off of earlier failures does not count. Raises as `lease`."""
        while self._state is ModelState.STOPPING:  # who waited for a load hears of its failure before it has settled
            await self._moved.wait()
        if self._state is ModelState.FAILED:
            await self.unload()
        with await self.lease(timeout):
            self.personality = personality

    async def unload(self) -> None:
        """Drain and stop what runs now; returns when it is STOPPED. In any state, by many at once.

        A fresh start that others wait for behind it is left alone. The personality of the load is forgotten.
        """
        self.personality = None
        life = self._life
        if life is not None:
            life.stop_asked.set()
            while self._life is life:
                await self._moved.wait()
        if self._state is ModelState.FAILED:
            self._forget_failure()

    async def close(self) -> None:
        """Stop for good, without draining: waiters and later callers get ShuttingDown."""
        self._closing = True
        if self._life is not None:
            self._life.stop_asked.set()
            self._life.drained.set()
        if self._task is not None:
            await asyncio.wait({self._task})
        self._wake()

    def _join_or_begin(self, joined: Life | None) -> Life | None:
        """Make sure that something is under way; returns the life whose failure the waiter shares."""
        if self._state in LEAVING:
            return joined if joined is self._life else None
        if self._state in SETTLED:
            self._begin()
        return self._life

    def _backoff(self) -> float | None:
        """Seconds that a waiter has to sit out, None where nothing is in its way. LoadFailed where they are many."""
        wait = self._retry_at - time.monotonic()
        if self._state is not ModelState.FAILED or wait <= 0:
            return None
        if wait > BACKOFF_PATIENCE and self._error is not None:
            lasting = self._error.should_retry is False
            kind = type(self._error) if isinstance(self._error, LoadFailed) else LoadFailed
            raise kind(
                self._error.message,
                retry_after=None if lasting else wait,
                should_retry=self._error.should_retry,
            )
        return wait

    # the life; everything below runs in, or to start, the instance's own task

    def _begin(self) -> None:
        self._life = Life(self._make_engine(self.entry))
        self._move(ModelState.STARTING)
        self._task = asyncio.create_task(self._live(self._life), name=f"instance {self.entry.name}")

    async def _live(self, life: Life) -> None:
        failure: HerdError | None = None
        try:
            life.error = failure = await self._start(life)
            if failure is None:
                life.ready_at = life.idle_since = time.monotonic()
                self._load_seconds = life.ready_at - life.started_at
                self._move(ModelState.READY)
                failure = await self._serve(life)
        except Exception as error:  # a fault of ours must not leave an engine behind or a waiter waiting
            logger.exception("model=%s broke in its own task", self.entry.name)
            life.error = failure = LoadFailed(
                f"The model '{self.entry.name}' met a fault of the service ({type(error).__name__}); its log has more."
            )
        finally:
            failed = failure is not None and not isinstance(failure, LoadAborted)
            if life.ready_at is not None and time.monotonic() - life.ready_at >= HEALTHY_AFTER:
                self._failures = 0
            if failed:
                self._note_failure(failure)
            life.over.set()
            self._move(ModelState.STOPPING)
            try:
                await life.engine.stop()
            except Exception:  # a model that stays in STOPPING could never be used again
                logger.exception("model=%s its engine could not be stopped cleanly", self.entry.name)
            self._log_tail = life.engine.log.tail(LOG_TAIL)
            self._life = None
            self._move(ModelState.FAILED if failed else ModelState.STOPPED)

    async def _start(self, life: Life) -> HerdError | None:
        """Start the engine; returns why it did not come up."""
        start = asyncio.create_task(life.engine.start())
        stop = asyncio.create_task(life.stop_asked.wait())
        try:
            deadline = life.started_at + self._timing.load
            while (left := deadline - time.monotonic()) > 0:
                pause = min(left, PROGRESS_EVERY)
                await asyncio.wait({start, stop}, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
                if start.done():
                    start.result()
                    return None
                if stop.done():
                    return LoadAborted(f"The model '{self.entry.name}' was unloaded while it was loading.")
                self._publish(self.status())
            return LoadTimeout(
                f"The model '{self.entry.name}' was not ready after {self._timing.load:g} s and was stopped."
            )
        except HerdError as error:
            return error
        finally:
            for task in (start, stop):
                task.cancel()
            await asyncio.wait({start, stop})

    async def _serve(self, life: Life) -> HerdError | None:
        """Until somebody wants it stopped and it has drained, or until it ends by itself: then the reason."""
        ended = asyncio.create_task(life.engine.wait_exit())
        stop = asyncio.create_task(life.stop_asked.wait())
        drained: asyncio.Task[bool] | None = None
        try:
            await self._until_unwanted(life, ended, stop)
            if ended.done():
                exit_ = ended.result()
                self._exit_code = exit_.code
                return UpstreamClosed(f"The model '{self.entry.name}' stopped unexpectedly: {exit_.reason}")
            self._move(ModelState.DRAINING)
            if life.in_flight and not self._closing:
                life.drained.clear()
                drained = asyncio.create_task(life.drained.wait())
                await asyncio.wait({ended, drained}, timeout=self._timing.drain, return_when=asyncio.FIRST_COMPLETED)
            return None
        finally:
            tasks = [task for task in (ended, stop, drained) if task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _until_unwanted(
        self, life: Life, ended: asyncio.Task[EngineExit], stop: asyncio.Task[Literal[True]]
    ) -> None:
        """Until the engine has ended, somebody wants it stopped, or it was idle for its time to live.

        Between "it is idle" and DRAINING there is no await: a request before it is served, one after it waits.
        """
        while not (ended.done() or stop.done()):
            await asyncio.wait({ended, stop}, timeout=self._idle_left(life), return_when=asyncio.FIRST_COMPLETED)
            left = self._idle_left(life)
            if left is not None and left <= 0:
                return

    def _idle_left(self, life: Life) -> float | None:
        """Seconds until the model has been idle long enough, at the earliest; None where it may stay for ever."""
        ttl = self.entry.ttl or self._timing.idle
        if ttl is None or self.entry.pinned:
            return None
        if life.in_flight:
            return ttl
        return life.idle_since + ttl - time.monotonic()

    def _note_failure(self, failure: HerdError | None) -> None:
        self._failures += 1
        if isinstance(failure, LoadFailed):
            self._exit_code = failure.exit_code
        delay = min(BACKOFF_MOST, BACKOFF_FIRST * 2 ** (self._failures - 1))
        self._retry_at = time.monotonic() + delay
        self._error = failure
        if failure is not None and failure.should_retry is not False:
            failure.retry_after = delay

    def _forget_failure(self) -> None:
        self._failures = 0
        self._error = self._exit_code = None
        self._move(ModelState.STOPPED)

    def _move(self, state: ModelState) -> None:
        """The one place where the state changes."""
        if state not in TRANSITIONS[self._state]:
            raise RuntimeError(f"model '{self.entry.name}' can't go from {self._state} to {state}")
        self._state = state
        self._since = time.time()
        if state is ModelState.STARTING:
            self._error = self._exit_code = None
        status = self.status()
        self._log(status)
        self._publish(status)
        self._wake()

    def _wake(self) -> None:
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    def _log(self, status: ModelStatus) -> None:
        more = ""
        if status.state is ModelState.READY:
            more = f" load_s={status.load_seconds:.2f} pid={status.pid}"
        elif status.state is ModelState.FAILED:
            more = f" exit_code={status.exit_code} error={status.error!r}"
        logger.info("model=%s state=%s%s", status.model, status.state, more)
