"""A client that sends bytes as they are given, and reads answers as they come."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

PATIENCE: Final = 20.0


@dataclass(frozen=True)
class RawAnswer:
    status: int
    headers: Mapping[str, str]  # names in lower case
    body: bytes


class Raw:
    """One connection."""

    def __init__(self, port: int, receive_buffer: int | None = None) -> None:
        self.socket = socket.socket()
        self.socket.settimeout(PATIENCE)
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.connect(("127.0.0.1", port))
        self._file = self.socket.makefile("rb")

    def close(self) -> None:
        self._file.close()
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send it all; a server that closes before it has read it all is no failure here."""
        with contextlib.suppress(ConnectionError):
            self.socket.sendall(data)

    def end(self) -> None:
        """Send no more, and read on."""
        self.socket.shutdown(socket.SHUT_WR)

    def line(self) -> bytes:
        return self._file.readline()

    def answer(self, *, has_body: bool = True) -> RawAnswer:
        """The next answer, whole; AssertionError where there is none."""
        first = self._file.readline()
        assert first.startswith(b"HTTP/1."), f"no answer but {first[:80]!r}"
        headers: dict[str, str] = {}
        while (line := self._file.readline().rstrip(b"\r\n")) != b"":
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        return RawAnswer(int(first.split()[1]), headers, self._body(headers) if has_body else b"")

    def rest(self) -> bytes:
        """All that comes before the server closes; TimeoutError where it does not close."""
        with contextlib.suppress(ConnectionError):
            return self._file.read()
        return b""

    def seconds_until_closed(self) -> float:
        began = time.monotonic()
        self.rest()
        return time.monotonic() - began

    def _body(self, headers: Mapping[str, str]) -> bytes:
        if headers.get("transfer-encoding") != "chunked":
            return self._file.read(int(headers.get("content-length", "0")))
        body = b""
        while size := int(self._file.readline(), 16):
            body += self._file.read(size)
            self._file.readline()
        self._file.readline()
        return body


@contextlib.contextmanager
def raw(port: int, receive_buffer: int | None = None) -> Iterator[Raw]:
    connection = Raw(port, receive_buffer)
    try:
        yield connection
    finally:
        connection.close()
