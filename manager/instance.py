"""ModelInstance: the run-time life of one model. Its own task is the only writer of its state."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, Protocol

from manager.backoff import Backoff
from manager.engines import Engine
from manager.entry import ModelEntry
from manager.errors import HerdError, LoadAborted, LoadFailed, LoadTimeout, QueueFull, ShuttingDown
from manager.lease import Lease
from manager.life import Life, Timing
from manager.logbuf import LogBuffer
from manager.placement import Placement
from manager.state import LEAVING, SETTLED, TRANSITIONS, Eviction, ModelState, ModelStatus
from manager.waiting import Waiting

logger = logging.getLogger(__name__)

# A life that was READY this long clears the record of failures before it.
HEALTHY_AFTER: Final = 60.0
LOG_TAIL: Final = 20
NOTHING: Final[Mapping[str, int]] = MappingProxyType({})


class Keeper(Protocol):
    """Who an instance belongs to. It is called on the event loop and must neither block nor raise."""

    def publish(self, status: ModelStatus) -> None:
        """At every new status, and once a second while it loads."""

    def ready(self, instance: ModelInstance) -> None:
        """Once for each load that came up."""

    def admit(self, instance: ModelInstance) -> None:
        """Somebody waits for it, and it does not run: `begin` it when there is room, or `refuse` it."""

    def idle(self, instance: ModelInstance) -> None:
        """Its last request has ended, or who waited for it has left."""

    def ended(self, life: Life) -> None:
        """A life is over; `life.measured` is what it took at most."""


class ModelInstance:
    """The state machine of one model; see `manager.state` for the moves.

    `entry` may be replaced at any time and counts from the next life on. `personality` is that of the last `load`
    and stays through idle unloads and failures, until somebody unloads the model.
    """

    def __init__(
        self, entry: ModelEntry, make_engine: Callable[[ModelEntry], Engine], keeper: Keeper, timing: Timing
    ) -> None:
        self.entry = entry
        self.personality: str | None = None
        self.log: LogBuffer | None = None  # of the life that runs, or ran last
        self.loads = self.evictions = 0
        self.evicted: Eviction | None = None  # of the life that ran last
        self.load_seconds: float | None = None
        self.life: Life | None = None
        self.waiting = Waiting()
        self._make_engine = make_engine
        self._keeper = keeper
        self._timing = timing
        self._state = ModelState.STOPPED
        self._since = time.time()
        self._task: asyncio.Task[None] | None = None
        self._moved = asyncio.Event()  # replaced at each move, so that a waiter sees every one
        self._closing = False
        self._retired: HerdError | None = None
        self._backoff = Backoff()
        self._retry: asyncio.TimerHandle | None = None
        self._measured: Mapping[str, int] = NOTHING

    # what others see

    @property
    def state(self) -> ModelState:
        return self._state

    @property
    def in_flight(self) -> int:
        return self.life.in_flight if self.life else 0

    @property
    def leaving(self) -> bool:
        """Whether it is on its way to being stopped, though its task may not have got to it."""
        return self._state in LEAVING or (self.life is not None and self.life.stop_asked.is_set())

    @property
    def may_begin(self) -> bool:
        """Whether nothing runs and no back-off is in the way."""
        return self._state is ModelState.STOPPED or (self._state is ModelState.FAILED and not self._backoff.left)

    def status(self) -> ModelStatus:
        failed = self._backoff if self._state is ModelState.FAILED else None
        error = failed.error if failed else None
        life = self.life
        idle = self._state is ModelState.READY and life is not None and not life.in_flight
        now, monotonic = time.time(), time.monotonic()
        return ModelStatus(
            model=self.entry.name,
            state=self._state,
            since=self._since,
            in_flight=self.in_flight,
            waiting=len(self.waiting),
            yielding=life is not None and life.yielding,
            progress=life.engine.progress if life and self._state is ModelState.STARTING else None,
            idle_since=now + life.idle_since - monotonic if life and idle else None,
            device=life.device if life else None,
            memory=life.memory if life else NOTHING,
            measured=life.measured if life else self._measured,
            failures=self._backoff.failures,
            loads=self.loads,
            evictions=self.evictions,
            evicted=self.evicted,
            personality=self.personality,
            error=error.message if error else None,
            error_code=error.code if error else None,
            exit_code=failed.exit_code if failed else None,
            retry_at=now + failed.left if failed and not failed.given_up else None,
            load_seconds=self.load_seconds,
            pid=life.engine.pid if life else None,
            log_tail=self.log.tail(LOG_TAIL) if self.log else (),
        )

    # what users ask for

    def try_lease(self) -> Lease | None:
        """A lease where the model is READY and has a place now, without waiting."""
        life = self.life
        if life is None or not life.admits or self.waiting:
            return None
        most = self.entry.concurrency
        if most is not None and life.in_flight >= most:
            return None
        return Lease(life, self.entry, self.personality)

    async def lease(self, timeout: float, priority: int = 0, *, evicts: bool = True, limited: bool = True) -> Lease:
        """A lease, after waiting, and after loading where that is needed. `priority`: see `manager.waiting`.

        `evicts`: others may have to go for it; `limited`: the limit of who may wait counts. Raises LoadTimeout after
        `timeout` seconds, QueueFull, LoadFailed, LoadAborted (unloaded while it was loading) or ShuttingDown. A caller
        that leaves does not end the load.
        """
        lease = self.try_lease()
        if lease is not None:
            return lease
        try:
            async with asyncio.timeout(timeout):
                while (lease := await self._wait(priority, evicts, limited)).over:
                    lease.release()  # it ended before we woke
                return lease
        except TimeoutError:
            raise LoadTimeout(
                f"The model '{self.entry.name}' was not ready within {timeout:g} s; it may still be loading.",
                retry_after=5,
            ) from None

    async def load(self, timeout: float, personality: str | None) -> None:
        """Load on somebody's explicit wish: earlier failures and the limit of who may wait don't count.

        Raises as `lease`.
        """
        while self._state is ModelState.STOPPING:  # who waited for a load hears of its failure before it has settled
            await self._moved.wait()
        if self._state is ModelState.FAILED:
            await self.unload()
        with await self.lease(timeout, limited=False):
            self.personality = personality

    async def unload(self) -> None:
        """Drain and stop what runs now; returns when it is STOPPED. In any state, by many at once.

        A fresh start that others wait for behind it is left alone. The personality of the load is forgotten.
        """
        self.personality = None
        life = self.life
        if life is not None:
            life.end()
            while self.life is life:
                await self._moved.wait()
        self._forget_failure()
        self._ask()

    async def close(self) -> None:
        """Stop for good, without draining: waiters and later callers get ShuttingDown."""
        self._closing = True
        if self._retry is not None:
            self._retry.cancel()
        if self.life is not None:
            self.life.end_at_once()
        self.waiting.fail(_shutting_down())
        if self._task is not None:
            await asyncio.wait({self._task})
        self._wake()

    # what its keeper decides

    def begin(self, memory: Mapping[str, int] = NOTHING, placement: Placement | None = None) -> None:
        """Start it, admitted with that memory; all who wait share the outcome. Only where it is settled.

        `placement`: a way to place its entry as it is now.
        """
        if self._closing or self._state not in SETTLED:
            return
        engine = self._make_engine(placement.entry if placement else self.entry)
        self.log = engine.log  # before there is a life: what raises here leaves nothing behind
        self.life = Life(engine, self.entry, memory, self._released, placement)
        self.loads += 1
        self.evicted = None
        self.waiting.join(self.life)
        self._move(ModelState.STARTING)
        self._task = asyncio.create_task(self._live(self.life), name=f"instance {self.entry.name}")

    def refuse(self, error: HerdError) -> None:
        """It can't be begun: who waits for it gets the error."""
        self.waiting.fail(error)

    def hold(self) -> None:
        """Admit nobody, because others wait for its place; `resume` or `evict` follows."""
        life = self.life
        if life is not None and not life.yielding:
            life.yielding, life.admits = True, False
            self._keeper.publish(self.status())

    def resume(self) -> None:
        """Admit again after `hold`."""
        life = self.life
        if life is not None and life.yielding:
            life.yielding = False
            life.admits = self._admits(life)
            self._serve_waiting()
            self._keeper.publish(self.status())

    def evict(self, wanted: str) -> None:
        """Stop it for that model. Nothing is in flight: there is no await since that was seen, and none gets in."""
        life = self.life
        if life is not None and not life.in_flight and not life.stop_asked.is_set():
            self.evictions += 1
            self.evicted = Eviction(wanted, time.time())
            self.waiting.step_back()
            life.end()

    def renew(self, entry: ModelEntry, *, restart: bool) -> None:
        """Take an entry. With `restart` what runs ends as soon as it is idle; failures of before don't count."""
        self.entry = entry
        self._retired = None
        if restart:
            self._forget_failure()
            self._ask()
        if self.life is not None:
            self.life.stale = restart
            self.life.renewed.set()
            self._end_if_stale(self.life)
            self._serve_waiting()

    def retire(self, error: HerdError) -> None:
        """It is no model any more: who waits for it, or asks for it still, gets the error."""
        self._retired = error
        self.waiting.fail(error)

    # waiting

    async def _wait(self, priority: int, evicts: bool, limited: bool) -> Lease:
        self._check(limited)
        joined = self.life if self._state is ModelState.STARTING else None
        waiter = self.waiting.add(priority, joined, evicts=evicts)
        try:
            self._ask()
            return await waiter.future
        except asyncio.CancelledError:
            self.waiting.leave(waiter)
            raise
        finally:
            if not self.waiting:
                self._keeper.idle(self)

    def _check(self, limited: bool) -> None:
        """Raise where nobody may wait."""
        if self._closing:
            raise _shutting_down()
        if self._retired is not None:
            raise self._retired
        error = self._backoff.answer() if self._state is ModelState.FAILED else None
        if error is not None:
            raise error
        most = self._timing.queue if self.entry.queue is None else self.entry.queue
        # Who waits for a load does not queue for a place.
        queues = self.life is not None and self.life.admits
        if limited and len(self.waiting) >= max(most, 0 if queues else 1):
            raise QueueFull(
                f"{len(self.waiting)} requests wait for the model '{self.entry.name}' already, and no more may.",
                retry_after=1 if queues else 5,
            )

    def _ask(self) -> None:
        """Where somebody waits and nothing is under way: ask to be begun, when the back-off is over."""
        if self._closing or self._state not in SETTLED or not self.waiting:
            return
        failed = self._backoff if self._state is ModelState.FAILED else None
        error = failed.answer() if failed else None
        if error is not None:
            self.waiting.fail(error)
        elif failed and (left := failed.left) > 0:
            self._retry = asyncio.get_running_loop().call_later(left, self._ask)
        else:
            self._keeper.admit(self)

    def _serve_waiting(self) -> None:
        life = self.life
        most = self.entry.concurrency
        while life is not None and life.admits and (most is None or life.in_flight < most):
            waiter = self.waiting.next()
            if waiter is None:
                return
            waiter.future.set_result(Lease(life, self.entry, self.personality))

    def _released(self) -> None:
        """A lease was given back."""
        if self.waiting:
            self._serve_waiting()
        life = self.life
        if life is None:
            return
        if life.proven and self._backoff.failures:
            self._backoff.forget()
        if not life.in_flight:
            self._end_if_stale(life)
            self._keeper.idle(self)

    def _end_if_stale(self, life: Life) -> None:
        if life.stale and life.ready_at is not None and not life.in_flight:
            life.end()

    def _admits(self, life: Life) -> bool:
        wanted = not (life.yielding or life.stop_asked.is_set() or self._closing)
        return bool(self._state is ModelState.READY and wanted and (life.in_flight or not life.stale))

    # the life; everything below runs in, or to start, the instance's own task

    async def _live(self, life: Life) -> None:
        failure: HerdError | None = None
        try:
            life.error = failure = await life.start(self._timing.load, lambda: self._keeper.publish(self.status()))
            if failure is None:
                self._ready(life)
                failure = await life.serve(self._timing, self._idle_left, lambda: self._move(ModelState.DRAINING))
        except Exception as error:  # a fault of ours must not leave an engine behind or a waiter waiting
            logger.exception("model=%s broke in its own task", self.entry.name)
            life.error = failure = LoadFailed(
                f"The model '{self.entry.name}' met a fault of the service ({type(error).__name__}); its log has more."
            )
        finally:
            if isinstance(failure, LoadAborted):
                failure = None
            if life.ready_at is not None and time.monotonic() - life.ready_at >= HEALTHY_AFTER:
                self._backoff.forget()
            if failure is not None:
                self._backoff.note(failure, life.exit_code)
            life.failure = failure
            life.over.set()
            self._move(ModelState.STOPPING)
            if life.error is not None:
                self.waiting.fail(life.error, life)
            await life.stop()
            self._measured = life.measured
            self.life = None
            self._move(ModelState.STOPPED if failure is None else ModelState.FAILED)
            self._keeper.ended(life)
            self._ask()

    def _ready(self, life: Life) -> None:
        life.ready_at = life.idle_since = time.monotonic()
        self.load_seconds = life.ready_at - life.started_at
        self._move(ModelState.READY)
        self._keeper.ready(self)
        self._serve_waiting()
        self._end_if_stale(life)

    def _idle_left(self) -> float | None:
        """Seconds until the model has been idle long enough, at the earliest; None where it may stay for ever."""
        life, ttl = self.life, self.entry.ttl or self._timing.idle
        if ttl is None or life is None or self.entry.pinned:
            return None
        return ttl if life.in_flight else life.idle_since + ttl - time.monotonic()

    def _forget_failure(self) -> None:
        self._backoff.forget()
        if self._state is ModelState.FAILED:
            self._move(ModelState.STOPPED)

    def _move(self, state: ModelState) -> None:
        """The one place where the state changes."""
        if state not in TRANSITIONS[self._state]:
            raise RuntimeError(f"model '{self.entry.name}' can't go from {self._state} to {state}")
        self._state = state
        self._since = time.time()
        if self.life is not None:
            self.life.admits = self._admits(self.life)
        if state is ModelState.STARTING:
            self._backoff.begin()
        status = self.status()
        self._log(status)
        self._keeper.publish(status)
        self._wake()

    def _wake(self) -> None:
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    def _log(self, status: ModelStatus) -> None:
        more = ""
        if status.state is ModelState.READY:
            more = f" load_s={status.load_seconds:.2f} pid={status.pid or '-'}"
        elif status.state is ModelState.FAILED:
            more = f" exit_code={status.exit_code} error={status.error!r}"
        logger.info("model=%s state=%s%s", status.model, status.state, more)


def _shutting_down() -> ShuttingDown:
    return ShuttingDown("The service is shutting down.", retry_after=5)
