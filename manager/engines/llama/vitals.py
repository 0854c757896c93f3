"""Signs of life and work of a llama.cpp child, read off its process or asked on connections of their own."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Final

import psutil

from manager.engines import Activity, UpstreamRequest
from manager.engines.llama.arguments import HTTP_THREADS
from manager.engines.llama.upstream import UpstreamClient
from manager.errors import UpstreamError

PROBE_TIMEOUT: Final = 2.0
HEALTH_TIMEOUT: Final = 5.0
METRICS_TIMEOUT: Final = 1.0


class Vitals:
    """What can be told of a child while it serves. `client` has its requests; `own` is for the questions here.

    Apart, because bytes of /health are no sign that inference works: llama-server answers it on an HTTP thread.
    """

    def __init__(self, client: UpstreamClient, own: UpstreamClient) -> None:
        self._client = client
        self._own = own

    async def answers(self) -> bool:
        if self._client.connections >= HTTP_THREADS:  # they hold every thread that could answer
            return True
        return await self._get("/health", HEALTH_TIMEOUT) is not None

    async def activity(self, pid: int | None) -> Activity:
        """`heard_at` is of the request that has waited longest for its next byte; now, where no byte is due."""
        now = time.monotonic()
        since = self._client.due_since
        heard_at = now if since is None else now - (asyncio.get_running_loop().time() - since)
        return Activity(heard_at, await asyncio.to_thread(cpu_seconds, pid))

    async def metrics(self) -> bytes | None:
        return await self._get("/metrics", METRICS_TIMEOUT)

    def close(self) -> None:
        self._own.close()

    async def _get(self, path: str, patience: float) -> bytes | None:
        """The child's answer; None where it is none, or does not come within `patience` seconds."""
        try:
            async with asyncio.timeout(patience), self._own.open(UpstreamRequest("GET", path)) as answer:
                content = await answer.read()
                return content if answer.status == 200 else None
        except (UpstreamError, TimeoutError):
            return None


async def probe(client: UpstreamClient) -> int:
    """The status of a route that needs the key; 0 where there is no answer."""
    try:
        async with asyncio.timeout(PROBE_TIMEOUT), client.open(UpstreamRequest("GET", "/props")) as answer:
            await answer.read()
            return answer.status
    except (UpstreamError, TimeoutError):
        return 0


def cpu_seconds(pid: int | None) -> float:
    """What a process and its children have computed so far; 0 for one that has gone. Blocks."""
    total = 0.0
    with contextlib.suppress(psutil.Error, OSError):
        process = psutil.Process(pid) if pid is not None else None
        for each in [process, *process.children(recursive=True)] if process else []:
            with contextlib.suppress(psutil.Error, OSError):
                times = each.cpu_times()
                total += times.user + times.system
    return total


def resident_bytes(pid: int) -> int:
    """What of a process is in memory; 0 for one that has gone. Blocks."""
    with contextlib.suppress(psutil.Error, OSError):
        return int(psutil.Process(pid).memory_info().rss)
    return 0
