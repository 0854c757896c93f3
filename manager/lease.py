"""Lease: one use in flight, held against the life of the engine that it counts for."""

from __future__ import annotations

import asyncio
import contextlib
import time
from types import TracebackType
from typing import Final, Self

from manager.engines import Engine
from manager.entry import ModelEntry
from manager.errors import HerdError
from manager.life import Life

# Between the end of a process's connections and the news of its exit lie milliseconds.
LOSS_SEEN_WITHIN: Final = 0.5


class Lease:
    """One use in flight. A context manager; while it is held the engine drains before it is stopped."""

    __slots__ = ("_life", "entry", "personality")

    def __init__(self, life: Life, entry: ModelEntry, personality: str | None) -> None:
        life.in_flight += 1
        life.uses += 1
        self._life: Life | None = life
        self.entry = entry
        self.personality = personality

    @property
    def engine(self) -> Engine:
        if self._life is None:
            raise RuntimeError("this lease has been released")
        return self._life.engine

    @property
    def over(self) -> bool:
        """Whether the engine is known to have ended, or not to be wanted any more."""
        return self._life is None or self._life.over.is_set()

    async def engine_lost(self) -> bool:
        """Whether the engine has ended by itself; waits a moment, since its connections end before that is seen."""
        life = self._life
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOSS_SEEN_WITHIN):
                while life is not None and not life.over.is_set():
                    await life.over.wait()
        return life is not None and life.over.is_set()

    async def loss(self) -> HerdError | None:
        """Why the engine has ended by itself, None where it has not; waits a moment as `engine_lost` does."""
        life = self._life
        return life.failure if life is not None and await self.engine_lost() else None

    def served(self) -> None:
        """What the lease was for has been done: the engine works."""
        if self._life is not None:
            self._life.proven = True

    def release(self) -> None:
        """Give the place back. Calling it again does nothing."""
        life, self._life = self._life, None
        if life is not None:
            life.in_flight -= 1
            if not life.in_flight:
                life.idle_since = time.monotonic()
                life.drained.set()
            life.released()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
