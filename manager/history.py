"""History: the inference requests that have ended, the last ones of them, in memory alone."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from manager.inflight import Running, Tokens


class Ended(NamedTuple):
    """A request at its end. `n` counts them from 1, `outcome` is as in the metrics, `seconds` is all that it took."""

    n: int
    running: Running
    outcome: str
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """As /admin/requests/history tells of it: times since its start, in seconds; null is what is not known."""
        running = self.running
        used, capture = running.used, running.capture
        return {
            "n": self.n,
            "id": running.id,
            "model": running.model or None,
            "key": running.key,
            "route": running.route,
            "stream": running.stream,
            "outcome": self.outcome,
            "started": running.started,
            "waited": _between(running.began, running.leased_at),
            "first_token": _between(running.began, running.first_at),
            "seconds": self.seconds,
            "bytes": running.sent,
            "prompt_tokens": used.prompt if used else None,
            "cached_tokens": used.cached if used else None,
            "completion_tokens": used.generated if used else None,
            "tokens_per_second": self._tokens_per_second(used),
            "prompt_seconds": used.prompt_seconds if used else None,
            "captured": capture is not None and capture.held,
        }

    def _tokens_per_second(self, used: Tokens | None) -> float | None:
        """Of all tokens but the first: as its engine tells, else as they came."""
        if used is None:
            return None
        if used.each:
            return 1.0 / used.each
        first = _between(self.running.began, self.running.first_at)
        if first is None or used.generated < 2 or self.seconds <= first:
            return None
        return (used.generated - 1) / (self.seconds - first)


class History:
    """The last `most` requests that have ended. `last` is the number of the newest one, 0 before there is any."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._ended: dict[int, Ended] = {}  # by number: up to `last`, without gaps
        self.last = 0

    def add(self, running: Running, outcome: str) -> Ended:
        """Note an end, and forget the oldest one where there are too many, with its capture."""
        if len(self._ended) == self._most and (capture := self._ended.pop(self._first).running.capture) is not None:
            capture.forget()
        self.last += 1
        newest = self._ended[self.last] = Ended(self.last, running, outcome, time.monotonic() - running.began)
        return newest

    def newest(self, limit: int, before: int | None = None) -> list[Ended]:
        """The newest first, of those whose number is below `before`."""
        last = self.last if before is None else min(self.last, before - 1)
        return [self._ended[n] for n in range(last, max(self._first - 1, last - limit), -1)]

    def find(self, n: int) -> Ended | None:
        """None where it is forgotten, or was never there."""
        return self._ended.get(n)

    @property
    def _first(self) -> int:
        return self.last - len(self._ended) + 1

    def forget(self) -> int:
        """Forget all of them; returns how many there were. Numbers go on."""
        count = len(self._ended)
        self._ended.clear()
        return count


def _between(began: float, at: float | None) -> float | None:
    return None if at is None else at - began
