"""Tells an engine that hangs from one that works. It only watches; ending the engine is its caller's."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final

from manager.engines import Activity, Engine

logger = logging.getLogger(__name__)

# Between two looks: a part of the limit, so that one answer that does not come decides nothing.
LOOKS: Final = 4
PERIOD_MOST: Final = 15.0
PERIOD_LEAST: Final = 0.02
# A look that comes after that many periods was held up, and counts as one that came in time.
LATE: Final = 2
# What a process uses that only waits and answers our looks is far less.
WORKING_CPU: Final = 0.01
COUNTER: Final = b"_total"  # the ending of a counter's name, by Prometheus' convention


async def until_hung(
    engine: Engine,
    in_flight: Callable[[], int],
    timeout: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> str:
    """Return only when the engine hangs, with the reason for people. `timeout` in seconds.

    It hangs where it gave no good answer for that long, or where for that long, with requests in flight, no byte
    came, it used no CPU worth the name, and its counters of work stood still.
    """
    period = max(PERIOD_LEAST, min(PERIOD_MOST, timeout / LOOKS))
    watch = _Watch(engine, timeout, period, clock)
    while True:
        await sleep(period)
        reason = await watch.look(in_flight())
        if reason is not None:
            return reason


class _Watch:
    """What was seen of an engine so far."""

    def __init__(self, engine: Engine, timeout: float, period: float, clock: Callable[[], float]) -> None:
        self._engine = engine
        self._timeout = timeout
        self._period = period
        self._clock = clock
        self._looked_at = clock()
        self._silent = 0.0  # seconds since its last good answer
        self._quiet = 0.0  # seconds with requests in flight since the last sign of work
        self._cpu = 0.0
        self._cpu_at = 0.0
        self._counters: frozenset[bytes] | None = None
        self._faults: set[type[Exception]] = set()

    async def look(self, in_flight: int) -> str | None:
        """Why it hangs; None where it does not, as far as can be seen."""
        now = self._clock()
        passed, self._looked_at = now - self._looked_at, now
        # This process, and maybe the engine with it, was stopped for a while: that says nothing.
        counts = passed if passed <= LATE * self._period else self._period
        return await self._judged(self._health(counts)) or await self._judged(self._work(counts if in_flight else 0.0))

    async def _judged(self, judgement: Awaitable[str | None]) -> str | None:
        """Its reason; None where it can't be had, as a fault of ours says nothing of the engine."""
        try:
            return await judgement
        except Exception as error:
            if type(error) not in self._faults:
                self._faults.add(type(error))
                logger.warning("pid=%s can't be watched", self._engine.pid, exc_info=True)
            return None

    async def _health(self, counts: float) -> str | None:
        """Why it hangs as far as its health tells; else None. `counts`: seconds since the last look."""
        self._silent = 0.0 if await self._engine.answers() else self._silent + counts
        return f"it did not answer for {self._timeout:g} s" if self._silent > self._timeout else None

    async def _work(self, counts: float) -> str | None:
        """Why it hangs as far as requests tell; else None. `counts`: seconds in flight since the last look."""
        self._note(await self._engine.activity(), counts)
        if self._quiet <= self._timeout / 2:
            self._counters = None
        # Asked late: only then does it matter, and its answer may be slow to come.
        elif counts and await self._counters_moved():
            self._quiet = 0.0
        if counts and self._quiet > self._timeout:
            return f"a request got no byte for {self._timeout:g} s and its process used no CPU"
        return None

    def _note(self, activity: Activity, counts: float) -> None:
        """Take in one look."""
        now = self._clock()
        used, passed = activity.cpu - self._cpu, now - self._cpu_at
        self._cpu, self._cpu_at = activity.cpu, now
        if used >= WORKING_CPU * passed:
            self._quiet = 0.0
        else:
            # A sum, as nobody may have asked anything in between; no longer than a byte has been waited for.
            self._quiet = min(self._quiet + counts, now - activity.heard_at)

    async def _counters_moved(self) -> bool:
        """Whether it counted anything since the last time, so that a GPU works while its process only waits."""
        text = await self._engine.metrics()
        if text is None:
            return False
        before, self._counters = self._counters, _counters(text)
        return before is not None and before != self._counters


def _counters(metrics: bytes) -> frozenset[bytes]:
    """The lines of counters in Prometheus' text form."""
    lines = (line for line in metrics.splitlines() if not line.startswith(b"#"))
    return frozenset(line for line in lines if line.split(b"{")[0].split(b" ")[0].endswith(COUNTER))
