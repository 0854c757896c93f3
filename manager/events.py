"""EventBus: hands every published event to every subscriber, through a bounded queue each."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

T = TypeVar("T")


class Subscription(Generic[T]):
    """What one subscriber has still to read. Where it is too slow, its oldest events are dropped and counted."""

    def __init__(self, size: int) -> None:
        self._events: deque[T] = deque(maxlen=size)
        self._wake = asyncio.Event()
        self._closed = False
        self.dropped = 0

    def push(self, event: T) -> None:
        if len(self._events) == self._events.maxlen:
            self.dropped += 1
        self._events.append(event)
        self._wake.set()

    def close(self) -> None:
        self._closed = True
        self._wake.set()

    async def next(self, timeout: float | None = None) -> T | None:
        """The next event; None where the bus was closed. TimeoutError after `timeout` seconds without one."""
        async with asyncio.timeout(timeout):
            while not self._events:
                if self._closed:
                    return None
                self._wake.clear()
                await self._wake.wait()
        return self._events.popleft()


class EventBus(Generic[T]):
    """Publishing never blocks. A subscriber makes its snapshot right after subscribing and misses nothing."""

    def __init__(self, queue_size: int = 256) -> None:
        self._queue_size = queue_size
        self._subscriptions: set[Subscription[T]] = set()
        self._closed = False

    def publish(self, event: T) -> None:
        for subscription in self._subscriptions:
            subscription.push(event)

    @contextmanager
    def subscribe(self) -> Iterator[Subscription[T]]:
        subscription: Subscription[T] = Subscription(self._queue_size)
        if self._closed:
            subscription.close()
        self._subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)

    def close(self) -> None:
        """End every subscription, present and future, once it has read what it has."""
        self._closed = True
        for subscription in self._subscriptions:
            subscription.close()
