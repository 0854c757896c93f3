"""The requests that wait for one model, in the order in which they are served. It knows nothing of models."""

from __future__ import annotations

import asyncio
import bisect
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Final

from manager.errors import HerdError
from manager.lease import Lease
from manager.life import Life

_ORDER: Final = attrgetter("due", "number")


@dataclass(slots=True, eq=False)
class Waiter:
    """One that waits. `due` is when it came (time.monotonic), less a second for each point of its priority.

    `life`: the start whose failure is its failure too. `evicts`: others may have to go for it.
    """

    due: float
    number: int
    evicts: bool
    life: Life | None
    future: asyncio.Future[Lease] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Waiting:
    """First come, first served; a point of priority counts as having come a second earlier, so nobody starves."""

    def __init__(self) -> None:
        self._waiters: list[Waiter] = []
        self._numbers = itertools.count()

    def __len__(self) -> int:
        return len(self._waiters)

    def __iter__(self) -> Iterator[Waiter]:
        return iter(self._waiters)

    @property
    def due(self) -> float:
        """The place in the line of who is served next; only where somebody waits."""
        return self._waiters[0].due

    def add(self, priority: int, life: Life | None, *, evicts: bool) -> Waiter:
        waiter = Waiter(time.monotonic() - priority, next(self._numbers), evicts, life)
        bisect.insort(self._waiters, waiter, key=_ORDER)
        return waiter

    def leave(self, waiter: Waiter) -> None:
        """Take one out who waits no longer. A lease that it was given in the same moment goes back."""
        if waiter in self._waiters:
            self._waiters.remove(waiter)
        future = waiter.future
        if future.done() and not future.cancelled() and future.exception() is None:
            future.result().release()

    def step_back(self) -> None:
        """Their model has had its turn: they keep their order, and count as having come now."""
        now = time.monotonic()
        for waiter in self._waiters:
            waiter.due, waiter.number = now, next(self._numbers)

    def next(self) -> Waiter | None:
        """Take out who is served next; None where nobody waits. Those that are leaving are passed over."""
        while self._waiters:
            waiter = self._waiters.pop(0)
            if not waiter.future.done():
                return waiter
        return None

    def join(self, life: Life) -> None:
        """All share the outcome of this start."""
        for waiter in self._waiters:
            waiter.life = life

    def fail(self, error: HerdError, life: Life | None = None) -> None:
        """Everybody gets the error; with `life` those who share its outcome."""
        failed = [waiter for waiter in self._waiters if life is None or waiter.life is life]
        self._waiters = [waiter for waiter in self._waiters if not (life is None or waiter.life is life)]
        for waiter in failed:
            if not waiter.future.done():
                waiter.future.set_exception(error)
                waiter.future.exception()  # it may be leaving; nobody has to look at it then
