"""Where log lines go: everything through one queue to standard error, access lines in batches."""

from __future__ import annotations

import asyncio
import logging
import logging.handlers
import queue
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, TextIO

from aiohttp.http_exceptions import HttpProcessingError

FLUSH_EVERY: Final = 0.5
# Where the terminal or the journal does not keep up, lines are dropped and counted, not memory filled.
PENDING_MOST: Final = 100_000


@contextmanager
def logging_to(stream: TextIO, level: str) -> Iterator[None]:
    """Send the log to `stream` while the context lasts; writing happens in a thread of its own."""
    handler = logging.StreamHandler(stream)
    formatter = logging.Formatter("%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    lines: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    listener = logging.handlers.QueueListener(lines, handler)
    requests = logging.getLogger("aiohttp.server")
    requests.addFilter(_without_bytes_of_requests)
    root = logging.getLogger()
    queue_handler = logging.handlers.QueueHandler(lines)
    root.addHandler(queue_handler)
    root.setLevel(level.upper())
    listener.start()
    try:
        yield
    finally:
        root.removeHandler(queue_handler)
        requests.removeFilter(_without_bytes_of_requests)
        listener.stop()


def _without_bytes_of_requests(record: logging.LogRecord) -> bool:
    """aiohttp logs what it can't parse, with the bytes at fault: a key can be among them."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, HttpProcessingError):
        record.msg, record.args = f"not a valid request: {type(error).__name__}", ()
        record.exc_info = record.exc_text = None
        record.levelno, record.levelname = logging.INFO, "INFO"
    return True


class AccessLog:
    """One line per request, made on its way in about a microsecond and written in batches by a thread."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._pending: list[str] = []
        self._dropped = 0
        self._second = 0
        self._stamp = ""

    def add(self, request_id: str, method: str, path: str, status: int, seconds: float, key_id: str) -> None:
        """Note one answered request. `path` has no query string: a question may be in it."""
        if len(self._pending) >= PENDING_MOST:
            self._dropped += 1
            return
        now = time.time()
        second = int(now)
        if second != self._second:  # strftime once a second, not once a request
            self._second = second
            self._stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        self._pending.append(
            f"{self._stamp}.{int((now - second) * 1000):03d}Z ACCESS request={request_id} key={key_id} "
            f"{method} {path!r} status={status} ms={seconds * 1000:.1f}\n"
        )

    async def run(self) -> None:
        """Write until cancelled, then write what is left."""
        try:
            while True:
                await asyncio.sleep(FLUSH_EVERY)
                if self._pending:
                    await asyncio.to_thread(self._write, self._take())
        finally:
            self._write(self._take())

    def _take(self) -> list[str]:
        lines, self._pending = self._pending, []
        if self._dropped:
            lines.append(f"access lines dropped={self._dropped}\n")
            self._dropped = 0
        return lines

    def _write(self, lines: list[str]) -> None:
        # In a thread of its own the lock of the interpreter is held only for the join.
        try:
            self._stream.write("".join(lines))
            self._stream.flush()
        except OSError:  # a full disk, a reader that went: requests go on
            self._dropped += len(lines)
