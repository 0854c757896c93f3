"""Feed: the numbered log of what happens in the service, for readers that come, go and come back."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from manager.event_id import EventId, draw_run
from manager.state import ModelState, ModelStatus

# How long after the last reader has left `heard` still says yes: a connection that broke is soon back.
REMEMBERED: Final = 30.0


class EventsLost(Exception):
    """A reader was too slow, and events that it had not read are gone: what it knows has to be told anew."""


@dataclass(frozen=True, slots=True)
class Event:
    """`id` is an EventId as text, whose run is drawn per feed."""

    id: str
    kind: str
    data: Mapping[str, Any]


class Feed:
    """Keeps the last `keep` events for all readers together; a reader is no more than a place in them.

    Publishing never blocks, and readers, slow ones too, cost no memory. Who begins with a snapshot makes it with no
    await after `subscribe` or `skip`, under `last_id`: then nothing is missed and nothing comes twice.
    """

    def __init__(self, keep: int = 1000, remembered: float = REMEMBERED) -> None:
        self._remembered = remembered
        self._run = draw_run()
        self._number = 0  # of the newest event
        self._events: deque[Event] = deque(maxlen=keep)
        self._readers: set[Reader] = set()
        self._heard_until = 0.0
        self._closed = False

    @property
    def last_id(self) -> str:
        """The id of the newest event; before the first one its number is 0."""
        return str(EventId(self._run, self._number))

    def publish(self, kind: str, data: Mapping[str, Any]) -> None:
        """Tell every reader. `data` is JSON, and nobody changes it from now on."""
        self._number += 1
        self._events.append(Event(self.last_id, kind, data))
        self._wake()

    def heard(self) -> bool:
        """Whether anybody listens. Events that come by the thousand are made only if so.

        Where nobody does, an event counts as lost: whoever comes back later gets a snapshot.
        """
        if self._readers or (self._heard_until and time.monotonic() < self._heard_until):
            return True
        self._heard_until = 0.0
        self._number += 1
        self._events.clear()
        return False

    @contextmanager
    def subscribe(self, after: str | None = None) -> Iterator[Reader]:
        """A reader of what comes from now on, and in its `missed` what came after that id."""
        reader = Reader(self, self._number, self._since(after))
        self._readers.add(reader)
        try:
            yield reader
        finally:
            self._readers.discard(reader)
            self._heard_until = time.monotonic() + self._remembered

    def close(self) -> None:
        """End every reader, present and future, once it has read what there is."""
        self._closed = True
        self._wake()

    def _since(self, after: str | None) -> tuple[Event, ...] | None:
        place = EventId.parse(after)
        if place is None or place.run != self._run:
            return None
        count = self._number - place.number
        if not 0 <= count <= len(self._events):
            return None
        return tuple(islice(self._events, len(self._events) - count, None))

    def _wake(self) -> None:
        for reader in self._readers:
            reader.wake.set()


class Reader:
    """One reader of a feed. `missed`: what came after the id that it gave; None where that can't be told."""

    def __init__(self, feed: Feed, number: int, missed: tuple[Event, ...] | None) -> None:
        self.missed = missed
        self.wake = asyncio.Event()
        self._feed = feed
        self._number = number  # of the event that it read last

    async def next(self, timeout: float | None = None) -> Event | None:
        """The next event; None where the feed was closed. TimeoutError after `timeout` seconds without one.

        Raises EventsLost where the next event is gone, until `skip`.
        """
        feed = self._feed
        if self._number == feed._number:
            async with asyncio.timeout(timeout):
                while self._number == feed._number:
                    if feed._closed:
                        return None
                    self.wake.clear()
                    await self.wake.wait()
        behind = feed._number - self._number
        if behind > len(feed._events):
            raise EventsLost
        self._number += 1
        return feed._events[-behind]

    def skip(self) -> None:
        """Go on with what comes from now on."""
        self._number = self._feed._number


def status_dict(status: ModelStatus) -> dict[str, Any]:
    """What /admin/models and the event "model" tell of a model's life; seconds since the epoch, bytes by device."""
    failed = status.state is ModelState.FAILED
    return {
        "name": status.model,
        "state": status.state.value,
        "since": status.since,
        "personality": status.personality,
        "in_flight": status.in_flight,
        "waiting": status.waiting,
        "yielding": status.yielding,
        "progress": status.progress,
        "idle_since": status.idle_since,
        "device": status.device,
        "memory": {"expected": dict(status.memory), "measured": dict(status.measured)},
        "load_seconds": status.load_seconds,
        "loads": status.loads,
        "evictions": status.evictions,
        "evicted": {"for": status.evicted.wanted, "at": status.evicted.at} if status.evicted else None,
        "failures": status.failures,
        "last_error": _error(status) if failed else None,
        "pid": status.pid,
    }


def _error(status: ModelStatus) -> dict[str, Any]:
    return {
        "message": status.error,
        "code": status.error_code,
        "exit_code": status.exit_code,
        "at": status.since,
        "retry_at": status.retry_at,
    }
