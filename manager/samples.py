"""Samples: what the service does and holds, looked at every few seconds, for who wants to draw it."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import TypedDict

from manager.device_memory import DeviceMemories, DeviceMemory
from manager.feed import Feed
from manager.inflight import InFlight, Running, Tokens


class Sample(TypedDict):
    """One look. `at` is in seconds since the epoch; `requests`: how many have ended since the sample before."""

    at: float
    running: int
    waiting: int
    prompt_tokens_per_second: float
    completion_tokens_per_second: float
    requests: int
    memory: Mapping[str, DeviceMemory]


class Samples:
    """The last `most` samples, one for each `every` seconds, and what counts for the next one.

    A token counts once: those that a stream has sent so far when a sample is made, the rest of what its engine
    reports at its end. What was counted too much by then is taken off the tokens that come.
    """

    def __init__(self, *, every: float, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.every = every
        self._samples: deque[Sample] = deque(maxlen=most)
        self._clock = clock
        self._began = clock()  # of what counts for the next one
        self._requests = self._prompt = self._completion = 0

    def newest(self, count: int | None = None) -> list[Sample]:
        """The last `count` of them, or all; oldest first."""
        first = 0 if count is None else max(0, len(self._samples) - count)
        return list(islice(self._samples, first, None))

    def ended(self, running: Running, used: Tokens | None) -> None:
        """Count a request that has ended."""
        self._requests += 1
        if used is not None:
            self._prompt += used.prompt
            self._completion += used.generated - running.counted

    def take(self, inflight: Iterable[Running], memory: Mapping[str, DeviceMemory]) -> Sample:
        """Make the next one."""
        waiting = running = 0
        for one in inflight:
            if one.state == "waiting":
                waiting += 1
            else:
                running += 1
            self._completion += one.streamed - one.counted
            one.counted = one.streamed
        now = self._clock()
        seconds = max(now - self._began, 1e-6)
        sample = Sample(
            at=time.time(),
            running=running,
            waiting=waiting,
            prompt_tokens_per_second=self._prompt / seconds,
            completion_tokens_per_second=max(0, self._completion) / seconds,
            requests=self._requests,
            memory=memory,
        )
        self._began = now
        self._requests = self._prompt = 0
        self._completion = min(0, self._completion)
        self._samples.append(sample)
        return sample


async def keep_sampling(samples: Samples, inflight: InFlight, memories: DeviceMemories, feed: Feed) -> None:
    """Make a sample again and again, and tell it on the feed; for ever. Its memory is that of the last look."""
    loop = asyncio.get_running_loop()
    due = loop.time()
    memories.refresh()
    try:
        while True:
            due = due_next(due, loop.time(), samples.every)
            await asyncio.sleep(due - loop.time())
            sample = samples.take(inflight, memories.seen)
            if feed.heard():
                feed.publish("sample", sample)
            memories.refresh()
    finally:
        await memories.close()


def due_next(due: float, now: float, every: float) -> float:
    """The first time after `now` that is some times `every` after `due`, which was the last one."""
    return due + every * max(1, math.floor((now - due) / every) + 1)
