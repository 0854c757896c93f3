"""One child process in its own session: start, log pipe, terminate, kill the group, reap. Knows nothing of models."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from manager.logbuf import LogBuffer

logger = logging.getLogger(__name__)

PR_SET_PDEATHSIG = 1  # linux/prctl.h
# How long the log pipe may stay open after the child's exit: a grandchild can hold it for ever.
PIPE_LINGER = 0.2
# llama-server can hang in its handling of the first SIGTERM; a second one ends it at once.
SECOND_TERM: Final = 1.0

_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def _die_with_parent(parent: int) -> Callable[[], None] | None:
    """What the child runs before exec, so that a manager killed with SIGKILL leaves nobody behind (Linux only)."""
    if _libc is None:
        return None
    prctl = _libc.prctl

    def arm() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # the manager died between fork and prctl
            os._exit(1)

    return arm


class _LogPipe(asyncio.Protocol):
    def __init__(self, log: LogBuffer) -> None:
        self._log = log
        self.closed = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self._log.feed(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed.set()


class ChildProcess:
    """A started child. `spawn` makes it, `stop` ends it; both its outputs go to one log buffer."""

    def __init__(self, process: asyncio.subprocess.Process, pipe: _LogPipe, reader: asyncio.BaseTransport) -> None:
        self._process = process
        self._pipe = pipe
        self._reader = reader
        self._exited = asyncio.create_task(self._wait_and_close_pipe(), name=f"reap {process.pid}")
        self._stopping: asyncio.Task[None] | None = None

    @classmethod
    async def spawn(
        cls, argv: Sequence[str], *, env: Mapping[str, str], cwd: Path | None, log: LogBuffer
    ) -> ChildProcess:
        """Start `argv`. Raises OSError where it can't be started."""
        read_fd, write_fd = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=write_fd,
                stderr=write_fd,
                env=dict(env),
                cwd=cwd,
                start_new_session=True,
                preexec_fn=_die_with_parent(os.getpid()),
            )
        except BaseException:
            os.close(read_fd)
            raise
        finally:
            os.close(write_fd)
        pipe = _LogPipe(log)
        loop = asyncio.get_running_loop()
        reader, _ = await loop.connect_read_pipe(lambda: pipe, os.fdopen(read_fd, "rb", 0))
        return cls(process, pipe, reader)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Negative for a signal, None while the child runs."""
        return self._exited.result() if self._exited.done() else None

    async def wait(self) -> int:
        """Wait for the exit, which is reaped, and for the last of the log. Cancelling leaves the child alone."""
        return await asyncio.shield(self._exited)

    async def stop(self, grace: float) -> None:
        """SIGTERM, after `grace` seconds SIGKILL to the whole group; returns when the child is reaped.

        May be called from any state and by many at once: one stop happens. Cancelling a caller does not end it.
        """
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop(grace), name=f"stop {self.pid}")
        await asyncio.shield(self._stopping)

    async def _stop(self, grace: float) -> None:
        for patience in (min(grace, SECOND_TERM), max(0.0, grace - SECOND_TERM)):
            if not self._exited.done():
                self._signal_group(signal.SIGTERM)
                await asyncio.wait({self._exited}, timeout=patience)
        if not self._exited.done():
            logger.warning("pid=%s did not end within grace_s=%s and is killed", self.pid, grace)
        # Also after a clean exit: grandchildren of its group must not stay.
        self._signal_group(signal.SIGKILL)
        await self._exited

    def _signal_group(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    async def _wait_and_close_pipe(self) -> int:
        code = await self._process.wait()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PIPE_LINGER):
                await self._pipe.closed.wait()
        self._reader.close()
        return code
