"""Signs of life for streams that are quiet, so that nothing on the way takes them for dead."""

from __future__ import annotations

import asyncio
import time
from typing import Final, Protocol

from aiohttp import web

# How many times a stream is looked at in the time after which it gets a sign of life.
LOOKS: Final = 5


class Stream(Protocol):
    """`sent_at`: when something was last sent, by time.monotonic."""

    sent_at: float

    def beat(self) -> None:
        """Send a sign of life, where nothing is just being sent."""


class Heartbeat:
    """Looks after all streams with one timer, which is there while there are any: each of its own would cost each."""

    def __init__(self, every: float) -> None:
        self._every = every
        self._streams: set[Stream] = set()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, stream: Stream) -> None:
        """From now on, until `discard`, it gets a sign of life whenever it was quiet for the time that is set."""
        self._streams.add(stream)
        if self._timer is None:
            self._look_later()

    def discard(self, stream: Stream) -> None:
        self._streams.discard(stream)

    def _look_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._every / LOOKS, self._look)

    def _look(self) -> None:
        self._timer = None
        due = time.monotonic() - self._every
        for stream in self._streams:
            if stream.sent_at <= due:
                stream.beat()
        if self._streams:
            self._look_later()


HEARTBEAT: Final = web.AppKey("heartbeat", Heartbeat)
