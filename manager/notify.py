"""What systemd, or another parent that asks for it, is told of the service: the protocol of sd_notify(3)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, MutableMapping
from typing import Any, Final, Self

logger = logging.getLogger(__name__)

# Seconds that a start may take from its first line on: large folders of models are read before it listens.
START: Final = 300.0
# Seconds between two looks at the status line.
STATUS_EVERY: Final = 1.0
# Seconds until a message is sent again that found the other side's queue full.
RETRY: Final = 0.1


class Notifier:
    """Sends datagrams to a Unix socket, in order. Nothing here waits, raises, or does anything without an `address`.

    `watchdog`: seconds within which systemd wants to hear that the loop turns; None: it does not want to.
    """

    def __init__(self, address: str = "", watchdog: float | None = None) -> None:
        self.watchdog = watchdog
        # An abstract name (unix(7)) is written with @ and begins with a zero byte.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) if address else None
        if self._socket is not None:
            self._socket.setblocking(False)
        self._unsent: deque[bytes] = deque()
        self._complained = False

    @classmethod
    def taken_from(cls, environment: MutableMapping[str, str]) -> Self:
        """As NOTIFY_SOCKET and WATCHDOG_* say. They are taken out: programs that we start must not speak for us."""
        address = environment.pop("NOTIFY_SOCKET", "")
        period, pid = environment.pop("WATCHDOG_USEC", ""), environment.pop("WATCHDOG_PID", "")
        ours = period.isdecimal() and int(period) > 0 and pid in {"", str(os.getpid())}
        return cls(address, int(period) / 1e6 if ours else None)

    def starting(self) -> None:
        self._tell("STATUS=Starting", _extend(START))

    def ready(self) -> None:
        """It listens, or has read its files again."""
        self._tell("READY=1")

    def reloading(self) -> None:
        # systemd asks for the time to know that this is the reload which it wants (Type=notify-reload).
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, limit: float) -> None:
        """It ends, which may take so many seconds."""
        self._tell("STOPPING=1", "STATUS=Stopping", _extend(limit))

    @contextlib.asynccontextmanager
    async def telling(self, status: Callable[[], str]) -> AsyncIterator[None]:
        """Meanwhile tell that the loop turns, and what `status` returns whenever that has changed."""
        tasks: list[asyncio.Task[None]] = []
        if self._socket is not None:
            works: list[Coroutine[Any, Any, None]] = [self._tell_status(status)]
            if self.watchdog is not None:
                works.append(self._tell_alive(self.watchdog / 2))
            tasks += map(asyncio.create_task, works)
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)
            if self._socket is not None:
                self._socket.close()

    async def _tell_alive(self, every: float) -> None:
        while True:
            if not self._unsent:  # or a queue that stays full would fill ours
                self._tell("WATCHDOG=1")
            await asyncio.sleep(every)

    async def _tell_status(self, status: Callable[[], str]) -> None:
        told = ""
        while True:
            await asyncio.sleep(STATUS_EVERY)
            if not self._unsent and (now := status()) != told:
                self._tell(f"STATUS={now}")
                told = now

    def _tell(self, *lines: str) -> None:
        if self._socket is not None:
            self._unsent.append("\n".join(lines).encode())
            self._flush()

    def _flush(self) -> None:
        assert self._socket is not None  # noqa: S101  nothing is unsent without one
        while self._unsent and self._socket.fileno() >= 0:
            try:
                # With the address each time: who listens there may be started anew.
                self._socket.sendto(self._unsent[0], self._address)
            except BlockingIOError:
                with contextlib.suppress(RuntimeError):  # before there is a loop; what is told next sends this, too
                    asyncio.get_running_loop().call_later(RETRY, self._flush)
                return
            except OSError as error:
                self._complain(error)
            self._unsent.popleft()

    def _complain(self, error: OSError) -> None:
        """Once: it is tried again and again."""
        if not self._complained:
            self._complained = True
            logger.warning("systemd (NOTIFY_SOCKET) can't be told how the service is: %s", error.strerror or error)


def _extend(seconds: float) -> str:
    return f"EXTEND_TIMEOUT_USEC={round(seconds * 1e6)}"
