"""How often and how long a download is tried again."""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from manager.downloads.failure import Broken, DownloadFailed
from manager.downloads.progress import Note

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Patience:
    """Times are in seconds. `tries`: so many in a row without one new byte, then no more.

    `first_tries`: so many where nothing was begun yet and nobody is there: then more likely the address is wrong.
    The pause doubles from `first` up to `longest`; one that the server names (Retry-After) goes up to `asked_longest`.
    """

    tries: int = 6
    first_tries: int = 2
    first: float = 1.0
    longest: float = 60.0
    asked_longest: float = 300.0
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep

    def pause(self, failures: int, asked: float | None) -> float:
        """After so many failures in a row. Somewhere in the upper half, so that many do not come back at once."""
        if asked is not None:
            return min(asked, self.asked_longest)
        pause = min(self.longest, self.first * 2.0 ** min(failures - 1, 32))
        return pause * random.uniform(0.5, 1.0)  # noqa: S311  nothing secret


class Tries:
    """Counts the failures of one download. `what` names it in messages; `note` is told of each pause.

    `first`: these are the first questions, before anything was begun.
    """

    def __init__(self, patience: Patience, what: str, note: Note | None = None, *, first: bool = False) -> None:
        self._patience = patience
        self._what = what
        self._note = note
        self._first = first
        self._failures = 0

    def progressed(self) -> None:
        self._failures = 0

    async def failed(self, why: Broken, have: str = "") -> None:
        """Pause before the next try. Raises DownloadFailed after too many; `have` says how far it came."""
        self._failures += 1
        patience = self._patience
        if self._failures >= (patience.first_tries if self._first and why.unreached else patience.tries):
            raise DownloadFailed(
                f"{self._what}: given up after {self._failures} tries: {why.says}{have}",
                answered=why.answered,
                elsewhere=True,
            ) from why
        logger.info("url=%s event=retry failures=%d reason=%s", self._what, self._failures, why.says)
        pause = patience.pause(self._failures, why.asked)
        if self._note is not None and pause > 0:
            self._note(f"waiting {math.ceil(pause)} s: {why.says}")
        await patience.sleep(pause)
