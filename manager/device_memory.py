"""What the devices hold, as it was seen last: looked at beside whatever asks, which waits for no driver."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping
from typing import Protocol, TypedDict

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


class Ledger(Protocol):
    """What there is of memory: see `manager.memory_ledger`."""

    async def devices(self, *, recent: bool = False) -> tuple[Free, ...]: ...


class DeviceMemories:
    """By device, as of the last look that came back; empty before the first one, and where a look fails."""

    def __init__(self, pool: ModelPool, ledger: Ledger) -> None:
        self.seen: Mapping[str, DeviceMemory] = {}
        self._pool = pool
        self._ledger = ledger
        self._look: asyncio.Task[None] | None = None
        self._complained = False

    def refresh(self) -> None:
        """Begin a look, unless one is under way still."""
        if self._look is None or self._look.done():
            self._look = asyncio.create_task(self._refresh(), name="look at memory")

    async def close(self) -> None:
        """End the look that is under way. What it has begun in a thread is waited for by nobody."""
        if self._look is not None:
            self._look.cancel()
            await asyncio.wait({self._look})

    async def _refresh(self) -> None:
        try:
            self.seen = await self._found()
            self._complained = False
        except Exception:  # a driver that fails must not end what else there is to tell
            self.seen = {}
            if not self._complained:
                logger.exception("samples are without memory")
            self._complained = True

    async def _found(self) -> dict[str, DeviceMemory]:
        room = await self._pool.look_around()
        devices = room.devices or await self._ledger.devices(recent=True)
        models = Counter[str]()
        for status in self._pool.statuses():
            if status.state not in SETTLED:
                models.update({**status.memory, **status.measured})
        return {
            device.device: DeviceMemory(
                models=models[device.device],
                used=device.total - device.free,
                total=device.total,
                room=room.there.get(device.device),
            )
            for device in devices
        }
