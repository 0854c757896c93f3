"""Signs of life and work of a llama.cpp child, read off its process or asked on connections of their own."""

from __future__ import annotations

import asyncio
import contextlib
import errno
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
# What this service itself has too little of, where it can't even ask.
OUR_OWN_WANT: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})


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
        try:
            return await self._ask("/health", HEALTH_TIMEOUT) is not None
        except (UpstreamError, TimeoutError) as error:
            return _is_our_own_want(error)

    async def activity(self, pid: int | None) -> Activity:
        """Raises OSError where the process can't be looked at for a want of ours."""
        heard_at = time.monotonic() - self._client.in_vain
        return Activity(heard_at, await asyncio.to_thread(cpu_seconds, pid))

    async def metrics(self) -> bytes | None:
        try:
            return await self._ask("/metrics", METRICS_TIMEOUT)
        except (UpstreamError, TimeoutError):
            return None

    def close(self) -> None:
        self._own.close()

    async def _ask(self, path: str, patience: float) -> bytes | None:
        """The child's answer; None where it is a refusal. UpstreamError, or TimeoutError after `patience` seconds."""
        async with asyncio.timeout(patience), self._own.open(UpstreamRequest("GET", path)) as answer:
            content = await answer.read()
            return content if answer.status == 200 else None


def _is_our_own_want(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno in OUR_OWN_WANT:
            return True
        error = error.__cause__
    return False


async def probe(client: UpstreamClient) -> int:
    """The status of a route that needs the key; 0 where there is no answer."""
    try:
        async with asyncio.timeout(PROBE_TIMEOUT), client.open(UpstreamRequest("GET", "/props")) as answer:
            await answer.read()
            return answer.status
    except (UpstreamError, TimeoutError):
        return 0


def cpu_seconds(pid: int | None) -> float:
    """What a process and its children have computed so far; 0 for one that has gone. Blocks.

    Raises OSError where this service has no file descriptor left to look: 0 would say that it does not work.
    """
    total = 0.0
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid) if pid is not None else None
        for each in [process, *process.children(recursive=True)] if process else []:
            with contextlib.suppress(psutil.Error):
                times = each.cpu_times()
                total += times.user + times.system
    return total


def resident_bytes(pid: int) -> int:
    """What of a process is in memory; 0 for one that has gone. Blocks."""
    with contextlib.suppress(psutil.Error, OSError):
        return int(psutil.Process(pid).memory_info().rss)
    return 0
