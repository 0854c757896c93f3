"""How many threads torch gets for the next step: all, or fewer while others need the cores."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Final

import psutil
import torch

# So many seconds of steps are looked at together.
PERIOD: Final = 0.3
# A thread that used less of the time than this waited for its mates, which had no core.
CROWDED: Final = 0.7
# Before more are tried again, in seconds.
PATIENCE: Final = 3.0


class ThreadBudget:
    """For the thread that generates, whose own threads wait for each other hundreds of times a step.

    Where one of them has no core, because llama.cpp runs as well, all wait: on two cores SmolLM2 gave 5.6 tokens a
    second with two threads beside a busy llama-server and 21 with one; alone 27 and 22. So they are halved while there
    is a crowd, and doubled again once cores are idle: `idle` tells how many were since the last look, and `patience`
    is how long one such change is left alone. What is computed does not depend on it.
    """

    def __init__(self, most: int, idle: Callable[[], float] | None = None, patience: float = PATIENCE) -> None:
        self._idle = idle or _idle_cores
        self._patience = patience
        self.now = self._most = most
        self._wall = self._cpu = 0.0
        self._changed_at = time.monotonic()
        torch.set_num_threads(most)
        self._idle()  # from now on it tells what was since the last look

    def note(self, wall: float, cpu: float) -> None:
        """Take in a step: seconds that passed, and CPU seconds of the calling thread."""
        self._wall += wall
        self._cpu += cpu
        if self._wall < PERIOD:
            return
        used, self._wall, self._cpu = self._cpu / self._wall, 0.0, 0.0
        if used < CROWDED and self.now > 1:
            self._change(self.now // 2)
        elif (
            self.now < self._most and time.monotonic() - self._changed_at >= self._patience and self._idle() >= self.now
        ):
            self._change(min(self._most, 2 * self.now))

    def _change(self, count: int) -> None:
        self.now = count
        self._changed_at = time.monotonic()
        torch.set_num_threads(count)
        self._idle()


def _idle_cores() -> float:
    """Since the last look."""
    return (os.cpu_count() or 1) * (1 - psutil.cpu_percent(None) / 100)
