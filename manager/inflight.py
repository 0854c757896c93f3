"""The inference requests that wait or run now: who asked for what, and a way to end one of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Final, Literal, NamedTuple

from manager.capture import Capture

LINES_OF_EVENT: Final = 2  # what it says, and an empty one


class Tokens(NamedTuple):
    """What an answer took. `prompt` includes what was `cached`; `each`: seconds per token after the first.

    `prompt_seconds`: how long the engine read what was not cached; None where it does not say.
    """

    prompt: int
    cached: int
    generated: int
    each: float | None = None
    prompt_seconds: float | None = None


class Running:
    """One request, from its acceptance to the end of its answer; written by its own task alone.

    `id` is its X-Request-ID, which clients may choose and use twice; `model` the name in the catalog, empty for one
    that was refused before that was known; `key` the id of its API key, `route` the pattern of its route. `started` is
    in seconds since the epoch, `began`, `leased_at` (it has its model) and `first_at` (its engine's first byte) are of
    time.monotonic. `sent` is in bytes, `lines` counts those of its stream. `asked`: its engine got it and has tokens to
    count. `tokens` is what that reported at the end; where it said nothing, `prompt` is about how many it had to read.
    `counted`: of what it streamed, how many tokens samples have counted already. `capture`: None where nothing is
    captured of it.
    """

    __slots__ = (
        "_cancelled",
        "_task",
        "asked",
        "began",
        "capture",
        "counted",
        "first_at",
        "id",
        "key",
        "leased_at",
        "lines",
        "model",
        "prompt",
        "route",
        "sent",
        "started",
        "stream",
        "tokens",
    )

    def __init__(self, request_id: str, model: str, key: str | None, route: str, stream: bool) -> None:
        self.id = request_id
        self.model = model
        self.key = key
        self.route = route
        self.stream = stream
        self.started = time.time()
        self.began = time.monotonic()
        self.leased_at: float | None = None
        self.first_at: float | None = None
        self.sent = 0
        self.lines = 0
        self.asked = False
        self.prompt = 0
        self.tokens: Tokens | None = None
        self.counted = 0
        self.capture: Capture | None = None
        self._task = asyncio.current_task()
        self._cancelled = False

    @property
    def state(self) -> Literal["waiting", "running"]:
        return "waiting" if self.leased_at is None else "running"

    @property
    def used(self) -> Tokens | None:
        """What it took; where its client left before the engine's report, about that: a token an event."""
        events = self.streamed
        return self.tokens or (Tokens(self.prompt, 0, events) if self.prompt or events else None)

    @property
    def streamed(self) -> int:
        """About how many tokens its stream has had so far."""
        return self.lines // LINES_OF_EVENT

    @property
    def running_since(self) -> float | None:
        """When it got its model, in seconds since the epoch."""
        return None if self.leased_at is None else self.started + self.leased_at - self.began

    @property
    def first_byte_at(self) -> float | None:
        """When the engine's first byte came, in seconds since the epoch."""
        return None if self.first_at is None else self.started + self.first_at - self.began

    def cancel(self) -> None:
        """End it: its task meets a CancelledError where it waits. A second time does nothing."""
        if self._task is not None and not self._cancelled:
            self._cancelled = True
            self._task.cancel()

    def release(self) -> None:
        """Let its task go, which it may outlive."""
        self._task = None

    def excuse(self) -> bool:
        """Whether `cancel`, and nobody else, is why its task was cancelled; the task then lives on.

        Else its client has left, or the service ends: the CancelledError has to go on. To be asked once, by the task.
        """
        if self._task is None or not self._cancelled:
            return False
        self._cancelled = False
        return self._task.uncancel() == 0


class InFlight:
    """All of them, oldest first."""

    def __init__(self) -> None:
        self._running: dict[Running, None] = {}

    def __iter__(self) -> Iterator[Running]:
        return iter(tuple(self._running))

    def __len__(self) -> int:
        return len(self._running)

    def begin(self, request_id: str, model: str, key_id: str | None, route: str, stream: bool) -> Running:
        """Take in the request of the current task; `end` must follow, in that task."""
        running = Running(request_id, model, key_id, route, stream)
        self._running[running] = None
        return running

    def end(self, running: Running) -> None:
        """It is over for its engine; from here on it can't be cancelled."""
        del self._running[running]
        running.excuse()  # a cancel that another error was faster than must not count for the task's next wait
        running.release()

    def cancel(self, request_id: str) -> int:
        """End every request of that id; returns how many there were."""
        found = [running for running in self._running if running.id == request_id]
        for running in found:
            running.cancel()
        return len(found)
