"""Tells an engine that hangs from one that works. It only watches; ending the engine is its caller's."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from manager.engines import Activity, Engine

# Between two looks: a part of the limit, so that one answer that does not come decides nothing.
LOOKS: Final = 4
PERIOD_MOST: Final = 15.0
PERIOD_LEAST: Final = 0.02
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
    watch = _Watch(engine, timeout, clock)
    while True:
        await sleep(max(PERIOD_LEAST, min(PERIOD_MOST, timeout / LOOKS)))
        reason = await watch.health() or await watch.work(in_flight())
        if reason is not None:
            return reason


class _Watch:
    """What was seen of an engine so far. Times are those of `clock`."""

    def __init__(self, engine: Engine, timeout: float, clock: Callable[[], float]) -> None:
        self._engine = engine
        self._timeout = timeout
        self._clock = clock
        self._answered_at = clock()
        self._missed = 0
        self._seen_at = 0.0
        self._seen_cpu = 0.0
        self._quiet_since: float | None = None  # the last sign of work; None while nothing is in flight
        self._counters: frozenset[bytes] | None = None

    async def health(self) -> str | None:
        """Why it hangs as far as its health tells; else None."""
        answered = await self._engine.answers()
        now = self._clock()
        if answered:
            self._answered_at, self._missed = now, 0
            return None
        self._missed += 1
        # This process itself may have been stopped for a while: the first answer that is missed says nothing.
        if self._missed > 1 and now - self._answered_at > self._timeout:
            return f"it did not answer for {self._timeout:g} s"
        return None

    async def work(self, in_flight: int) -> str | None:
        """Why it hangs as far as the requests in flight tell; else None."""
        if not in_flight:
            self._quiet_since = self._counters = None
            return None
        activity = await self._engine.activity()
        now = self._clock()
        quiet_since = self._note(activity, now)
        # Asked late: only then does it matter, and its answer may be slow to come.
        if now - quiet_since > self._timeout / 2 and await self._counters_moved():
            self._quiet_since = quiet_since = now
        if now - quiet_since > self._timeout:
            return f"a request got no byte for {self._timeout:g} s and its process used no CPU"
        return None

    def _note(self, activity: Activity, now: float) -> float:
        """Take in one look; returns since when it has been quiet."""
        quiet_since = self._quiet_since
        used, passed = activity.cpu - self._seen_cpu, now - self._seen_at
        self._seen_cpu, self._seen_at = activity.cpu, now
        if quiet_since is None or used >= WORKING_CPU * passed:
            quiet_since = now
        self._quiet_since = max(quiet_since, activity.heard_at)
        if self._quiet_since == now:
            self._counters = None
        return self._quiet_since

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
