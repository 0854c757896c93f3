"""Backoff: how often a model has failed in a row, with what, and when it may be tried again."""

from __future__ import annotations

import math
import time
from typing import Final

from manager.errors import HerdError, LoadFailed

FIRST: Final = 1.0
# After so many failures in a row only somebody's explicit wish starts it again.
FAILURES_MOST: Final = 5
# A request waits out a back-off up to this long; a longer one is answered at once with Retry-After.
PATIENCE: Final = 1.0


class Backoff:
    """1 s after the first failure, doubled with each one in a row; after the fifth for ever."""

    def __init__(self) -> None:
        self.failures = 0  # in a row
        self.error: HerdError | None = None
        self.exit_code: int | None = None
        self._until = 0.0  # monotonic

    @property
    def left(self) -> float:
        """Seconds until it may be tried again; infinite where nobody tries but by hand."""
        return max(0.0, self._until - time.monotonic())

    @property
    def given_up(self) -> bool:
        return self.failures >= FAILURES_MOST

    def note(self, failure: HerdError, exit_code: int | None) -> None:
        self.failures += 1
        self.error = failure
        self.exit_code = failure.exit_code if isinstance(failure, LoadFailed) else exit_code
        delay = FIRST * 2 ** (self.failures - 1)
        self._until = math.inf if self.given_up else time.monotonic() + delay
        if self.given_up:
            failure.retry_after, failure.should_retry = None, False
        elif failure.should_retry is not False:
            failure.retry_after = delay

    def forget(self) -> None:
        """A clean slate."""
        self.failures = 0
        self._until = 0.0
        self.begin()

    def begin(self) -> None:
        """It is tried again: the last failure is history, the count stays."""
        self.error = self.exit_code = None

    def answer(self) -> HerdError | None:
        """What a request gets at once, because nothing is tried for longer than it would wait."""
        left = self.left
        if left <= PATIENCE or self.error is None:
            return None
        kind = type(self.error) if isinstance(self.error, LoadFailed) else LoadFailed
        if self.given_up:
            often = f" It failed {self.failures} times in a row and is not tried again until it is loaded by hand."
            return kind(self.error.message + often, should_retry=False)
        lasting = self.error.should_retry is False
        return kind(self.error.message, retry_after=None if lasting else left, should_retry=self.error.should_retry)
