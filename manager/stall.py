"""Peers that take nothing of what is sent to them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import Final

_TCP_INFO: Final = getattr(socket, "TCP_INFO", None)  # Linux
# Where tcpi_bytes_acked begins (linux/tcp.h), and a length that holds it.
_ACKED: Final = 120
_LENGTH: Final = 128


class StallWatch:
    """Once begun, aborts a connection whose peer takes nothing for `timeout` seconds, or at most twice as many."""

    __slots__ = ("_loop", "_taken", "_timeout", "_timer", "_transport")

    def __init__(self, transport: asyncio.Transport, timeout: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport = transport
        self._timeout = timeout
        self._timer: asyncio.TimerHandle | None = None
        self._taken = (0, 0)

    def begin(self) -> None:
        """Nothing where it has begun already."""
        if self._timer is None:
            self._look_later()

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look_later(self) -> None:
        self._taken = taken_of(self._transport)
        self._timer = self._loop.call_later(self._timeout, self._look)

    def _look(self) -> None:
        if taken_of(self._transport) == self._taken:
            self._timer = None
            self._transport.abort()
        else:
            self._look_later()


def taken_of(transport: asyncio.Transport) -> tuple[int, int]:
    """What changes as the peer takes something: bytes that it has acknowledged, and bytes that wait in this process.

    The first is exact, where the system tells it. The second tells everywhere but under TLS, whose own buffer may be
    empty while the one below it, which can't be seen, is full.
    """
    acked = 0
    own = transport.get_extra_info("socket")
    if own is not None and _TCP_INFO is not None:
        with contextlib.suppress(OSError, ValueError):  # it was closed just now
            info = own.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _LENGTH)
            if len(info) == _LENGTH:  # an old kernel tells less
                (acked,) = struct.unpack_from("=Q", info, _ACKED)
    return acked, transport.get_write_buffer_size()
