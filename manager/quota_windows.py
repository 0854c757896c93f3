"""What `limits` counts in: moving windows and counters of this process."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Final

from limits.storage import MovingWindowSupport, Storage

MANY: Final = 64


class Windows(Storage, MovingWindowSupport):
    """In memory, for the one thread of the event loop. `clock` gives seconds and never goes back.

    The MemoryStorage of `limits` starts a thread every 10 ms that it is used in, to forget what is over, and goes by
    the time of day: a clock that is put back would lock out whoever is at a limit. Here what is over is forgotten
    where it is met, and counters that nobody asks for when they have become many.
    """

    STORAGE_SCHEME = None  # not to be had by a URI
    base_exceptions: Final = ValueError

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._windows: dict[str, deque[float]] = {}  # when requests came, the oldest first
        self._counters: dict[str, int] = {}
        self._ends: dict[str, float] = {}  # of counters
        self._many = MANY

    # moving windows

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Count `amount` in, where that leaves no more than `limit` within `expiry` seconds."""
        window, now = self._window(key, expiry)
        if len(window) + amount > limit:
            return False
        window.extend([now] * amount)
        return True

    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        """Since when the one counts that has to go before there is more room, and how many there are."""
        window, now = self._window(key, expiry)
        if not window:
            return now, 0
        return window[max(0, len(window) - limit)], len(window)

    def _window(self, key: str, expiry: int) -> tuple[deque[float], float]:
        now = self._clock()
        window = self._windows.get(key)
        if window is None:
            window = self._windows[key] = deque()
        while window and window[0] + expiry <= now:
            window.popleft()
        return window, now

    # counters

    def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        """The count with `amount` more. A counter ends `expiry` seconds after it was begun."""
        count = self.get(key)
        if key not in self._ends:
            if len(self._ends) >= self._many:
                self._forget_ended()
            self._ends[key] = self._clock() + expiry
        self._counters[key] = count + amount
        return count + amount

    def get(self, key: str) -> int:
        if self._ends.get(key, 0.0) <= self._clock():
            self.clear(key)
        return self._counters.get(key, 0)

    def get_expiry(self, key: str) -> float:
        """When the counter ends, by the clock of this storage."""
        return self._ends.get(key, self._clock())

    def _forget_ended(self) -> None:
        now = self._clock()
        for key in [key for key, end in self._ends.items() if end <= now]:
            self.clear(key)
        self._many = max(MANY, 2 * len(self._ends))  # looking at all of them costs each new one the same

    # what every storage has

    def check(self) -> bool:
        return True

    def clear(self, key: str) -> None:
        for counts in (self._windows, self._counters, self._ends):
            counts.pop(key, None)

    def reset(self) -> int | None:
        count = len(self._windows) + len(self._counters)
        for counts in (self._windows, self._counters, self._ends):
            counts.clear()
        return count
