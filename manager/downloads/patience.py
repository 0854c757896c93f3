"""How often and how long a download is tried again."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from manager.downloads.failure import Broken, DownloadFailed

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Patience:
    """Times are in seconds. `tries`: so many in a row without one new byte, then no more.

    The pause doubles from `first` up to `longest`; one that the server names (Retry-After) goes up to `asked_longest`.
    """

    tries: int = 6
    first: float = 1.0
    longest: float = 60.0
    asked_longest: float = 300.0
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep

    async def wait(self, failures: int, asked: float | None) -> None:
        """Pause after so many failures in a row. Somewhere in the upper half, so that many do not come back at once."""
        if asked is not None:
            await self.sleep(min(asked, self.asked_longest))
            return
        pause = min(self.longest, self.first * 2 ** min(failures - 1, 32))
        await self.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311  nothing secret


class Tries:
    """Counts the failures of one download. `what` names it in messages."""

    def __init__(self, patience: Patience, what: str) -> None:
        self._patience = patience
        self._what = what
        self._failures = 0

    def progressed(self) -> None:
        self._failures = 0

    async def failed(self, why: Broken, have: str = "") -> None:
        """Pause before the next try. Raises DownloadFailed after too many; `have` says how far it came."""
        self._failures += 1
        if self._failures >= self._patience.tries:
            raise DownloadFailed(
                f"{self._what}: given up after {self._failures} tries: {why.says}{have}",
                answered=why.answered,
                elsewhere=True,
            ) from why
        logger.info("url=%s event=retry failures=%d reason=%s", self._what, self._failures, why.says)
        await self._patience.wait(self._failures, why.asked)
