"""Life: one start of an engine and what came of it, from start to stop. What its model is to others: `instance`."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from manager.engines import Engine
from manager.engines.judging import sizes_of
from manager.entry import ModelEntry
from manager.errors import HerdError, LoadAborted, LoadTimeout, UpstreamClosed, UpstreamTimeout
from manager.placement import Placement
from manager.watchdog import until_hung

logger = logging.getLogger(__name__)

# How often a load that goes on is told of.
PROGRESS_EVERY: Final = 1.0
# How often what an engine in use takes is measured.
MEASURE_EVERY: Final = 15.0
# How long an engine may take to say it, as others wait for that; what a large process takes is slow to read.
MEASURE_PATIENCE: Final = 1.0
MEASURE_PATIENCE_PROCESS: Final = 5.0
# How long one that took longer is not asked again.
MEASURE_PAUSE: Final = 60.0


@dataclass(frozen=True, slots=True)
class Timing:
    """Limits of a life: seconds, and the most requests that wait."""

    load: float
    drain: float
    idle: float | None = None
    hang: float | None = None
    queue: int = 256


class Life:
    """One start of the engine. Times are of time.monotonic, memory is bytes by device.

    `admits`: whether a lease can be had now. `yielding`: it admits nobody, because others wait for its place.
    `proven`: a request was answered, so failures of before don't count. `stale`: its entry has changed, and it ends
    when it is idle. `placed`: the entry as it was started, with the GPU that was chosen for it: `device`, None where
    none was chosen. `memory`: what it was admitted with; `measured`: the most that it took so far.
    """

    # fmt: off
    __slots__ = (
        "_measure_after", "_measure_failed", "admits", "device", "drained", "engine", "entry", "error", "exit_code",
        "failure", "hung", "hurry", "idle_since", "in_flight", "measured", "memory", "over", "placed", "proven",
        "ready_at", "released", "renewed", "stale", "started_at", "stop_asked", "uses", "yielding",
    )
    # fmt: on

    def __init__(
        self,
        engine: Engine,
        entry: ModelEntry,
        memory: Mapping[str, int],
        released: Callable[[], None],
        placement: Placement | None = None,
    ) -> None:
        self.engine = engine
        self.entry = entry
        self.placed = placement.entry if placement else entry
        self.device = placement.device if placement else None
        self.memory = memory
        self.released = released  # called after every release of a lease
        self.measured: dict[str, int] = {}
        self._measure_after = 0.0
        self._measure_failed = False
        self.started_at = time.monotonic()
        self.ready_at: float | None = None
        self.idle_since = self.started_at
        self.in_flight = 0
        self.uses = 0
        self.admits = self.yielding = self.proven = self.stale = self.hung = self.hurry = False
        self.error: HerdError | None = None  # why it did not come up; set before the life settles
        self.failure: HerdError | None = None  # why it ended, where nobody asked for that
        self.exit_code: int | None = None
        self.stop_asked = asyncio.Event()
        self.drained = asyncio.Event()
        self.renewed = asyncio.Event()  # the time to live may be another one
        self.over = asyncio.Event()  # no new lease on this life any more

    def end(self) -> None:
        """Stop, after what is in flight."""
        self.admits = False
        self.stop_asked.set()

    def end_at_once(self) -> None:
        """Stop without draining."""
        self.hurry = True
        self.end()
        self.drained.set()

    async def start(self, limit: float, progress: Callable[[], None]) -> HerdError | None:
        """Start the engine; returns why it did not come up. `progress` is called once a second."""
        name = self.entry.name
        start = asyncio.create_task(self.engine.start())
        stop = asyncio.create_task(self.stop_asked.wait())
        try:
            deadline = self.started_at + limit
            while (left := deadline - time.monotonic()) > 0:
                pause = min(left, PROGRESS_EVERY)
                await asyncio.wait({start, stop}, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
                if start.done():
                    start.result()
                    return None
                if stop.done():
                    return LoadAborted(f"The model '{name}' was unloaded while it was loading.")
                progress()
            return LoadTimeout(f"The model '{name}' was not ready after {limit:g} s and was stopped.")
        except HerdError as error:
            return error
        finally:
            await _cancel(start, stop)

    async def serve(
        self, timing: Timing, idle_left: Callable[[], float | None], draining: Callable[[], None]
    ) -> HerdError | None:
        """Until somebody wants it stopped and it has drained, or until it ends by itself: then the reason.

        `idle_left`: seconds until it was idle long enough, None: it may stay. `draining` is called when it is to stop.
        """
        ended = asyncio.create_task(self.engine.wait_exit())
        stop = asyncio.create_task(self.stop_asked.wait())
        hung = asyncio.create_task(self._until_hung(timing.hang))
        measured = asyncio.create_task(self._keep_measuring())
        drained: asyncio.Task[Any] | None = None
        try:
            await self._until_unwanted({ended, stop, hung}, idle_left)
            if not (ended.done() or hung.done()):
                draining()
                if self.in_flight and not self.hurry:
                    self.drained.clear()
                    drained = asyncio.create_task(self.drained.wait())
                    ends = {ended, hung, drained}
                    await asyncio.wait(ends, timeout=timing.drain, return_when=asyncio.FIRST_COMPLETED)
                self.hung = hung.done()
                return None
            if ended.done():
                exit_ = ended.result()
                self.exit_code = exit_.code
                return UpstreamClosed(f"The model '{self.entry.name}' stopped unexpectedly: {exit_.reason}")
            self.hung = True
            return UpstreamTimeout(f"The model '{self.entry.name}' hung and was ended: {hung.result()}")
        finally:
            await _cancel(ended, stop, hung, measured, *([drained] if drained else []))

    async def stop(self) -> None:
        """Stop the engine; never raises."""
        # Beside the stop and not before it: reading what a large process takes is slow, and others wait for its place.
        measuring = asyncio.create_task(self.measure()) if self.uses and not self.hung else None
        try:
            await self.engine.stop(force=self.hung)
        except Exception:  # a model that stays in STOPPING could never be used again
            logger.exception("model=%s its engine could not be stopped cleanly", self.entry.name)
        self.engine.log.close()
        if measuring is not None:
            self._took(await measuring)

    async def measure(self) -> dict[str, int]:
        """What its engine says that it takes now, in bytes by device.

        Never raises: empty where it says nothing in time that makes sense, which the log tells once in a life.
        """
        if time.monotonic() < self._measure_after:
            return {}
        patience = MEASURE_PATIENCE if self.engine.pid is None else MEASURE_PATIENCE_PROCESS
        try:
            async with asyncio.timeout(patience) as limit:
                return sizes_of(await self.engine.measure())
        except (Exception, SystemExit) as error:  # one engine's fault must not stop all others from being loaded
            late = limit.expired()
            if late:
                self._measure_after = time.monotonic() + MEASURE_PAUSE
            if not self._measure_failed:
                self._measure_failed = True
                reason = f"not within {patience:g} s" if late else f"{type(error).__name__}: {error}"
                logger.error("model=%s can't say what it takes: %s", self.entry.name, reason, exc_info=not late)
            return {}

    async def _until_unwanted(self, ends: set[asyncio.Task[Any]], idle_left: Callable[[], float | None]) -> None:
        """Until one of the ends has come, or it was idle for its time to live.

        Between "it is idle" and what follows there is no await: a request before it is served, one after it waits.
        """
        while not any(end.done() for end in ends):
            self.renewed.clear()
            renewed = asyncio.create_task(self.renewed.wait())
            try:
                await asyncio.wait({*ends, renewed}, timeout=idle_left(), return_when=asyncio.FIRST_COMPLETED)
            finally:
                renewed.cancel()
            left = idle_left()
            if left is not None and left <= 0:
                return

    async def _until_hung(self, limit: float | None) -> str:
        if limit is None:
            await asyncio.Event().wait()
            return ""
        return await until_hung(self.engine, lambda: self.in_flight, limit)

    async def _keep_measuring(self) -> None:
        uses = -1
        while True:
            if self.uses != uses:
                uses = self.uses
                self._took(await self.measure())
            await asyncio.sleep(MEASURE_EVERY)

    def _took(self, now: Mapping[str, int]) -> None:
        for device, size in now.items():
            self.measured[device] = max(size, self.measured.get(device, 0))


async def _cancel(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
