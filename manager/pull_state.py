"""Pull: a model that is being fetched for somebody, or was, as everyone may see it."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from manager.errors import HerdError
from manager.model_store import ChoiceNeeded, PlannedFile

_SECRET: Final = re.compile(r"(?<=://)[^/?#]*@|[?#].*", re.DOTALL)
PACE_OVER: Final = 5.0  # seconds of which the speed is told


class PullState(StrEnum):
    WAITING = "waiting"
    RESOLVING = "resolving"
    FETCHING = "fetching"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


ENDED: Final = frozenset({PullState.DONE, PullState.FAILED, PullState.CANCELLED})


@dataclass(frozen=True, slots=True)
class Wanted:
    """What somebody asked for, as `model_store.resolve` takes it."""

    source: str
    quant: str | None = None
    revision: str | None = None
    name: str | None = None
    mmproj: bool = True


@dataclass(slots=True, eq=False)
class Pull:
    """`came` and `total` are bytes of all its files, times are seconds since the epoch.

    `model`: the name under which it is served now; `failure`: why it is not; `note`: what holds it up, until it goes
    on. `over` is set once it has ended.
    """

    wanted: Wanted
    id: str = field(default_factory=lambda: secrets.token_hex(6))
    state: PullState = PullState.WAITING
    created: float = field(default_factory=time.time)
    ended: float | None = None
    came: int = 0
    total: int | None = None
    files: tuple[PlannedFile, ...] = ()
    model: str | None = None
    note: str | None = None
    failure: HerdError | None = None
    over: asyncio.Event = field(default_factory=asyncio.Event)
    said: float = 0.0  # when its progress was told last, by that clock
    _pace: deque[tuple[float, int]] = field(default_factory=deque)

    @property
    def source(self) -> str:
        """Whence it comes, as everyone may know it: an address without user, password and what signs it."""
        return _SECRET.sub("", self.wanted.source)

    @property
    def speed(self) -> float | None:
        """Bytes per second in the last few seconds; None where nothing is fetched, or it can't be told yet."""
        if self.state is not PullState.FETCHING or len(self._pace) < 2:
            return None
        (began, before), (now, came) = self._pace[0], self._pace[-1]
        return (came - before) / (now - began)

    def advance(self, came: int, total: int | None, now: float) -> None:
        """`came` of `total` bytes are there at `now`, in seconds of any clock."""
        self.came, self.total, self.note = came, total, None
        if not self._pace or now > self._pace[-1][0]:
            self._pace.append((now, came))
        while self._pace[0][0] < now - PACE_OVER:
            self._pace.popleft()

    def as_dict(self) -> dict[str, Any]:
        """What /admin/pulls and the event "pull" tell of it."""
        return {
            "id": self.id,
            "source": self.source,
            "quant": self.wanted.quant,
            "revision": self.wanted.revision,
            "name": self.wanted.name,
            "mmproj": self.wanted.mmproj,
            "state": self.state.value,
            "created": self.created,
            "ended": self.ended,
            "bytes": self.came,
            "total": self.total,
            "speed": self.speed,
            "files": [{"name": one.target.name, "bytes": one.size, "sha256": one.sha256} for one in self.files],
            "model": self.model,
            "note": self.note,
            "error": None if self.failure is None else _error(self.failure),
        }


def _error(failure: HerdError) -> dict[str, Any]:
    choices = failure.choices if isinstance(failure, ChoiceNeeded) else ()
    return {
        "message": failure.message,
        "code": failure.code,
        "param": failure.param,
        "choices": [{"quant": choice.quant, "bytes": choice.size} for choice in choices],
    }
