"""Samples: what the service does and holds, looked at every few seconds, for who wants to draw it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol, TypedDict

from manager.inflight import InFlight, Running, Tokens
from manager.memory_free import Free
from manager.pool import ModelPool
from manager.state import SETTLED

logger = logging.getLogger(__name__)


class DeviceMemory(TypedDict):
    """Bytes of a device: what the running models have, what everybody has, and what all models may have together.

    `room` is None where admission is off, and so nobody looks.
    """

    models: int
    used: int
    total: int
    room: int | None


class Sample(TypedDict):
    """One look. `at` is in seconds since the epoch; `requests`: how many have ended since the sample before."""

    at: float
    running: int
    waiting: int
    prompt_tokens_per_second: float
    completion_tokens_per_second: float
    requests: int
    memory: Mapping[str, DeviceMemory]


class Ledger(Protocol):
    """What there is of memory: see `manager.memory_ledger`."""

    async def devices(self) -> tuple[Free, ...]: ...


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

    def __iter__(self) -> Iterator[Sample]:
        """Oldest first."""
        return iter(tuple(self._samples))

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


async def keep_sampling(samples: Samples, inflight: InFlight, pool: ModelPool, ledger: Ledger) -> None:
    """Make a sample again and again, and tell it on the feed; for ever."""
    complained = False
    while True:
        await asyncio.sleep(samples.every)
        memory: Mapping[str, DeviceMemory] = {}
        try:
            memory = await _memory(pool, ledger)
            complained = False
        except Exception:  # a driver that fails must not end what else samples tell
            if not complained:
                logger.exception("samples are without memory")
            complained = True
        sample = samples.take(inflight, memory)
        if pool.feed.heard():
            pool.feed.publish("sample", sample)


async def _memory(pool: ModelPool, ledger: Ledger) -> dict[str, DeviceMemory]:
    devices, room = await asyncio.gather(ledger.devices(), pool.room())
    models = Counter[str]()
    for status in pool.statuses():
        if status.state not in SETTLED:
            models.update({**status.memory, **status.measured})
    return {
        device.device: DeviceMemory(
            models=models[device.device],
            used=device.total - device.free,
            total=device.total,
            room=room.get(device.device),
        )
        for device in devices
    }
