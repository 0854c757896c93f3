"""Tells how far a download is, but not oftener than somebody can look."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

# Bytes that are there, and bytes in all where that is known.
Progress = Callable[[int, int | None], None]
# What holds it up, in words for whoever looks on.
Note = Callable[[str], None]
EVERY: Final = 0.1  # seconds


class Meter:
    """Passes on what it is told, at most once in `EVERY` seconds, and the last word always."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._next = 0.0

    def tell(self, done: int, total: int | None) -> None:
        now = time.monotonic()
        if self._progress is not None and now >= self._next:
            self._next = now + EVERY
            self._progress(done, total)

    def end(self, done: int) -> None:
        if self._progress is not None:
            self._progress(done, done)
