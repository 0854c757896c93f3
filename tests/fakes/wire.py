"""HTTP/1.1 as the fake llama-server speaks it, on blocking sockets."""

from __future__ import annotations

import json
import os
import select
import socket
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit


class ClientGone(Exception):
    """The client left while its answer was being made."""


class CutOff(Exception):
    """A fault: close the connection now."""


@dataclass
class Request:
    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes
    json: dict[str, Any] = field(default_factory=dict)


class Connection:
    """One client's socket, blocking; waits notice a client that leaves."""

    def __init__(self, sock: socket.socket, number: int) -> None:
        self.sock = sock
        self.number = number
        self.extra_headers = ""
        self._buffer = b""
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN | select.POLLHUP)

    def read(self) -> Request | None:
        """The next request; None where the client closed, or nothing came before the socket's timeout."""
        try:
            while b"\r\n\r\n" not in self._buffer:
                self._fill()
            head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
            first, *lines = head.decode("latin-1").split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            length = int(headers.get("content-length", 0))
            while len(self._buffer) < length:
                self._fill()
        except (OSError, EOFError):
            return None
        body, self._buffer = self._buffer[:length], self._buffer[length:]
        method, target, _ = first.split(" ")
        url = urlsplit(target)
        return Request(method, url.path, parse_qs(url.query), headers, body)

    def _fill(self) -> None:
        data = self.sock.recv(65536)
        if not data:
            raise EOFError
        self._buffer += data

    def send(self, data: bytes) -> None:
        try:
            self.sock.sendall(data)
        except OSError as error:
            raise ClientGone from error

    def wait(self, seconds: float = 0.0) -> None:
        """Sleep; raises ClientGone as soon as the client leaves."""
        deadline = time.monotonic() + seconds
        while True:
            left = max(0.0, deadline - time.monotonic())
            if self._poll.poll(left * 1000):
                try:
                    alive = self.sock.recv(1, socket.MSG_PEEK)
                except OSError as error:
                    raise ClientGone from error
                if not alive:
                    raise ClientGone
                time.sleep(min(left, 0.01))  # a request sent ahead waits in the socket: poll would return at once
            if time.monotonic() >= deadline:
                return

    def wait_for_file(self, path: str) -> None:
        while not os.path.exists(path):  # noqa: PTH110 - pathlib is slow to import
            self.wait(0.005)

    def head(self, status: int, content_type: str, length: int | None) -> bytes:
        size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
        return (
            f"HTTP/1.1 {status} Fake\r\nServer: llama.cpp\r\nContent-Type: {content_type}\r\n{size}\r\n"
            f"{self.extra_headers}\r\n"
        ).encode()

    def answer(self, status: int, body: Any, *, claim: int = 0) -> None:
        """Send a whole answer; `claim` bytes more are promised than sent."""
        text = isinstance(body, str)
        data = body.encode() if text else json.dumps(body).encode()
        kind = "text/plain; version=0.0.4" if text else "application/json; charset=utf-8"
        self.send(self.head(status, kind, len(data) + claim) + data)

    def event(self, payload: Any) -> None:
        text = payload if isinstance(payload, str) else json.dumps(payload)
        data = f"data: {text}\n\n".encode()
        self.send(b"%x\r\n%s\r\n" % (len(data), data))


def error_object(status: int, message: str, kind: str, **more: Any) -> dict[str, Any]:
    return {"error": {"code": status, "message": message, "type": kind, **more}}
