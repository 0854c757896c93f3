"""One child process in its own session: start, log pipe, terminate, kill the group, reap. Knows nothing of models."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from manager.confinement import Confinement
from manager.logbuf import LogBuffer
from manager.settings_sections import ChildSettings

logger = logging.getLogger(__name__)

# How long the log pipe may stay open after the child's exit: a grandchild can hold it for ever.
PIPE_LINGER = 0.2
# llama-server can hang in its handling of the first SIGTERM; a second one ends it at once.
SECOND_TERM: Final = 1.0
CONFINEMENT: Final = Confinement(ChildSettings())  # where nothing else is said


class _Output(asyncio.Protocol):
    """One of a child's outputs, on its way to `feed`."""

    def __init__(self, feed: Callable[[bytes], object]) -> None:
        self._feed = feed
        self._transport: asyncio.BaseTransport | None = None
        self.closed = asyncio.Event()

    async def attach(self, descriptor: int) -> None:
        """Read from now on; the descriptor is owned from here."""
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.connect_read_pipe(lambda: self, os.fdopen(descriptor, "rb", 0))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._feed(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed.set()


class _Pipes:
    """The ends of a child's pipes: its own, which go with `hand_over`, and ours."""

    def __init__(self, *, with_stdin: bool, with_stdout: bool) -> None:
        self.log, self.stderr = os.pipe()
        self.status: int | None = None
        self.stdout, self.stdin = self.stderr, asyncio.subprocess.DEVNULL
        self.to_stdin: int | None = None
        if with_stdout:
            self.status, self.stdout = os.pipe()
        if with_stdin:
            self.stdin, self.to_stdin = os.pipe()
            os.set_blocking(self.to_stdin, False)  # a child that does not read must not stop us

    def hand_over(self) -> None:
        """Close the child's ends: it has them, or has not been started."""
        for descriptor in {self.stdout, self.stderr, self.stdin} - {asyncio.subprocess.DEVNULL}:
            os.close(descriptor)

    def drop(self) -> None:
        """Close our ends."""
        for descriptor in (self.log, self.status, self.to_stdin):
            if descriptor is not None:
                os.close(descriptor)


class ChildProcess:
    """A started child. `spawn` makes it, `stop` ends it."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        outputs: Sequence[_Output],
        stdin: int | None = None,
        farewell: bytes | None = None,
    ) -> None:
        self.killed = False  # we did
        self._process = process
        self._outputs = outputs
        self._stdin = stdin
        self._farewell = farewell
        self._exited = asyncio.create_task(self._wait_and_close_pipes(), name=f"reap {process.pid}")
        self._stopping: asyncio.Task[None] | None = None

    @classmethod
    async def spawn(
        cls,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path | None,
        log: LogBuffer,
        on_stdout: Callable[[bytes], object] | None = None,
        farewell: bytes | None = None,
        confinement: Confinement = CONFINEMENT,
    ) -> ChildProcess:
        """Start `argv`, held to `confinement`. Raises OSError where it can't be started.

        Both its outputs go to `log`, or stdout to `on_stdout`. With a `farewell` its stdin stays open for as long as
        it is wanted, and that is written there when it is to stop; else it reads from /dev/null.
        """
        pipes = _Pipes(with_stdin=farewell is not None, with_stdout=on_stdout is not None)
        try:
            with confinement.armed(pipes.stderr) as arm:
                process = await asyncio.create_subprocess_exec(
                    *argv,
                    stdin=pipes.stdin,
                    stdout=pipes.stdout,
                    stderr=pipes.stderr,
                    env=dict(env),
                    cwd=cwd,
                    start_new_session=True,
                    preexec_fn=arm,
                )
        except BaseException:
            pipes.drop()
            raise
        finally:
            pipes.hand_over()
        outputs = [_Output(log.feed)]
        await outputs[0].attach(pipes.log)
        if pipes.status is not None and on_stdout is not None:
            outputs.append(_Output(on_stdout))
            await outputs[1].attach(pipes.status)
        return cls(process, outputs, pipes.to_stdin, farewell)

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

        May be called from any state and by many at once: one stop happens. Cancelling a caller does not end it. A
        grace of 0 kills at once, also where another stop is still patient.
        """
        if grace <= 0:
            self._kill()
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop(grace), name=f"stop {self.pid}")
        await asyncio.shield(self._stopping)

    def say_farewell(self) -> None:
        """Tell a child with an open stdin to end; nothing where it has none."""
        if self._stdin is not None and self._farewell is not None:
            with contextlib.suppress(OSError):  # it does not read, or has just gone
                os.write(self._stdin, self._farewell)

    async def _stop(self, grace: float) -> None:
        for patience in (min(grace, SECOND_TERM), max(0.0, grace - SECOND_TERM)):
            if not self._exited.done() and patience > 0:
                self._signal_group(signal.SIGTERM)
                self.say_farewell()
                await asyncio.wait({self._exited}, timeout=patience)
        if not self._exited.done() and not self.killed:
            logger.warning("pid=%s did not end within grace_s=%s and is killed", self.pid, grace)
        # Also after a clean exit: grandchildren of its group must not stay.
        self._kill()
        await self._exited

    def _kill(self) -> None:
        self.killed = self.killed or not self._exited.done()
        self._signal_group(signal.SIGKILL)

    def _signal_group(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    async def _wait_and_close_pipes(self) -> int:
        code = await self._process.wait()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PIPE_LINGER):
                for output in self._outputs:
                    await output.closed.wait()
        for output in self._outputs:
            output.close()
        if self._stdin is not None:
            os.close(self._stdin)
            self._stdin = None
        return code
