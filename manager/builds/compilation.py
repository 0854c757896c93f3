"""Runs CMake, and with it Ninja and the compilers: log, progress, and an end that leaves no process."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Final

import psutil

from manager.builds.failure import BuildFailed, Tell

_STEP: Final = re.compile(r"\[(\d+)/(\d+)\]")
_TROUBLE: Final = re.compile(r"FAILED:|CMake Error|ninja: error|ninja: fatal")
_GRACE: Final = 5.0  # seconds from asking everything to end to killing it
_ROUNDS: Final = 10  # of killing
_KEPT: Final = 400  # lines of the end in which the reason is looked for
_SHOWN: Final = 20  # lines of the reason


class Compilation:
    """Commands that are run one after the other, with all that they say in one log file.

    `environment` goes over ours. Use as a context manager, which holds the log open. Blocks.
    """

    def __init__(self, log: Path, environment: Mapping[str, str], tell: Tell) -> None:
        self.path = log
        self._tell = tell
        self._environment = os.environ | {"NINJA_STATUS": "[%f/%t] ", **environment}
        self._log: BinaryIO | None = None

    def __enter__(self) -> Compilation:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._log = self.path.open("wb", buffering=0)
        return self

    def __exit__(self, *_: object) -> None:
        if self._log is not None:
            self._log.close()

    def run(self, what: str, command: Sequence[str]) -> None:
        """Raise BuildFailed with the telling lines where the command fails; `what` it was for.

        Whatever ends this call, an interrupt included, no process of the command is left.
        """
        last: deque[str] = deque(maxlen=_KEPT)
        self._write(f"$ {' '.join(command)}\n".encode())
        try:
            process = _start(command, self._environment)
        except OSError as error:
            raise BuildFailed(f"{command[0]} can't be started: {error.strerror}") from error
        try:
            self._read(process, last.append)
            status = process.wait()
        finally:
            _end(process)
        if status != 0:
            shown = "\n".join(_telling(list(last)))
            raise BuildFailed(f"{what} failed (exit status {status}):\n{shown}\nAll of it: {self.path}")

    def _read(self, process: subprocess.Popen[bytes], keep: Callable[[str], None]) -> None:
        assert process.stdout is not None  # noqa: S101  it was started with a pipe
        for line in process.stdout:
            self._write(line)
            text = line.decode("utf-8", "replace").rstrip()
            if step := _STEP.match(text):
                self._tell.progress(int(step[1]), int(step[2]))
            keep(text)

    def _write(self, data: bytes) -> None:
        assert self._log is not None  # noqa: S101  only used inside the context
        self._log.write(data)


def _start(command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    # A session of its own: Ctrl-C reaches this process alone, which then ends the others in order.
    return subprocess.Popen(  # noqa: S603  CMake, with options that are each one argument; no shell is involved
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process and all that it started, compilers too, which Ninja puts into groups of their own."""
    assert process.stdout is not None  # noqa: S101  it was started with a pipe
    process.stdout.close()
    if process.poll() is not None:
        return
    asked = _family(process.pid)
    _signal(asked, signal.SIGTERM)
    psutil.wait_procs(asked, timeout=_GRACE)
    for _ in range(_ROUNDS):  # some may have been started meanwhile
        if not (left := _family(process.pid)):
            break
        _signal(left, signal.SIGKILL)
        psutil.wait_procs(left, timeout=1)
    process.wait()


def _family(pid: int) -> list[psutil.Process]:
    """The process and what it started that still runs: its descendants, and orphans of its session."""
    found = []
    with contextlib.suppress(psutil.Error):
        found = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    for each in psutil.process_iter():
        with contextlib.suppress(OSError):
            if os.getsid(each.pid) == pid and each not in found:
                found.append(each)
    return list(filter(_runs, found))


def _runs(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


def _signal(processes: Sequence[psutil.Process], number: int) -> None:
    for each in processes:
        with contextlib.suppress(psutil.Error):
            each.send_signal(number)


def _telling(lines: Sequence[str]) -> list[str]:
    """From the first sign of trouble on, else the last lines."""
    first = next((number for number, line in enumerate(lines) if _TROUBLE.search(line)), None)
    return list(lines[-_SHOWN:] if first is None else lines[first : first + _SHOWN])
