"""A lease of a model for one request, and what becomes of an engine's failure."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from manager.entry import ModelEntry
from manager.errors import GenerationFailed, HerdError, UpstreamClosed, UpstreamConnectError, UpstreamError
from manager.inflight import Running
from manager.lease import Lease
from manager.service import Service

T = TypeVar("T")


async def leased(
    service: Service, entry: ModelEntry, running: Running, priority: int, ask: Callable[[Lease], Awaitable[T]]
) -> T:
    """What `ask` makes of a lease. Loads the model where needed; failures of the engine are recorded."""
    again = True
    while True:
        lease = service.pool.try_lease(entry) or await service.pool.lease(entry, priority)
        with lease:
            running.leased_at = time.monotonic()
            try:
                return await ask(lease)
            except (UpstreamError, GenerationFailed) as error:
                if again and isinstance(error, UpstreamConnectError) and await lease.engine_lost():
                    again = False  # its process had just ended, and nobody got the request: the next one may
                    running.leased_at, running.asked = None, False
                    continue
                if isinstance(error, UpstreamConnectError | UpstreamClosed) and (loss := await lease.loss()):
                    raise loss from None  # why it ended, which its instance has recorded
                _record(service, lease, error)
                raise


def _record(service: Service, lease: Lease, error: HerdError) -> None:
    """Remember the failure. What an engine says of a request may quote it: that is for its sender alone."""
    name, log = lease.entry.name, lease.engine.log.tail()
    if isinstance(error, GenerationFailed):
        error, log = GenerationFailed(f"The engine of '{name}' failed at a request ({error.code})."), ()
    service.pool.record_error(name, error, log)
