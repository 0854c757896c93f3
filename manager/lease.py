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

# Between the end of a process's connections and the news of its exit lie milliseconds.
LOSS_SEEN_WITHIN: Final = 0.5


class Life:
    """One start of the engine and what came of it."""

    __slots__ = (
        "drained",
        "engine",
        "error",
        "idle_since",
        "in_flight",
        "over",
        "ready_at",
        "started_at",
        "stop_asked",
    )

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.started_at = time.monotonic()
        self.ready_at: float | None = None
        self.in_flight = 0
        self.idle_since = self.started_at
        self.error: HerdError | None = None  # set before the life settles; None where it ended as it was asked to
        self.stop_asked = asyncio.Event()
        self.drained = asyncio.Event()
        self.over = asyncio.Event()  # no new lease on this life any more


class Lease:
    """One use in flight. A context manager; while it is held the engine drains before it is stopped."""

    __slots__ = ("_life", "entry", "personality")

    def __init__(self, life: Life, entry: ModelEntry, personality: str | None) -> None:
        life.in_flight += 1
        self._life: Life | None = life
        self.entry = entry
        self.personality = personality

    @property
    def engine(self) -> Engine:
        if self._life is None:
            raise RuntimeError("this lease has been released")
        return self._life.engine

    async def engine_lost(self) -> bool:
        """Whether the engine has ended by itself; waits a moment, since its connections end before that is seen."""
        life = self._life
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOSS_SEEN_WITHIN):
                while life is not None and not life.over.is_set():
                    await life.over.wait()
        return life is not None and life.over.is_set()

    def release(self) -> None:
        """Give the place back. Calling it again does nothing."""
        life, self._life = self._life, None
        if life is not None:
            life.in_flight -= 1
            if not life.in_flight:
                life.idle_since = time.monotonic()
                life.drained.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
