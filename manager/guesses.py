"""Guesses: wrong API keys, counted by address. The answers to them come later and later."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Final

from limits import RateLimitItemPerMinute
from limits.strategies import FixedWindowRateLimiter

from manager.addresses import one_address
from manager.errors import RateLimited
from manager.quota_windows import Windows

# Wrong keys of one address within ten minutes: so many are answered at once, as a mistyped key should be.
FREE: Final = 5
WINDOW: Final = RateLimitItemPerMinute(1_000_000, 10)
# Seconds before the answer to the next one; twice as many with each.
FIRST_DELAY: Final = 0.25
MOST_DELAY: Final = 8.0
# So many of one address wait for their answers; more are turned away, so that waiting takes no memory.
WAITING: Final = 16


class Guesses:
    """Right keys are never held up: behind one address there can be many people."""

    def __init__(self) -> None:
        self._counts = FixedWindowRateLimiter(Windows())
        self._waiting: Counter[str] = Counter()

    async def slow_down(self, address: str) -> None:
        """Count a wrong key, and wait before it is answered. Raises RateLimited where too many wait already."""
        who = one_address(address)
        self._counts.hit(WINDOW, who)
        count = WINDOW.amount - self._counts.get_window_stats(WINDOW, who).remaining
        if count <= FREE:
            return
        delay = min(MOST_DELAY, FIRST_DELAY * 2 ** min(count - FREE - 1, 10))
        if self._waiting[who] >= WAITING:
            raise RateLimited("Too many wrong API keys came from this address.", retry_after=delay)
        self._waiting[who] += 1
        try:
            await asyncio.sleep(delay)
        finally:
            self._waiting[who] -= 1
            if not self._waiting[who]:
                del self._waiting[who]
