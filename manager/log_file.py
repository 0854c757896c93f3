"""LogFile: a file that lines are added to and that makes room for a new one when it is full."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from manager.private_file import open_private

logger = logging.getLogger(__name__)

FOLDER_MODE: Final = 0o700


class LogFile:
    """Lines are added in batches, by several threads. Of files that were full, the last `keep` stay, .1 the latest.

    It is opened for each batch and locked meanwhile: a log that is quiet holds no descriptor, other programs may move
    it away (logrotate), and a second service may write to it. What can't be written is lost, and the log says so once,
    and how much it was when it can be written again.
    """

    def __init__(self, path: Path, max_size: int, keep: int) -> None:
        """`max_size`: bytes; only a single line that is longer than that makes a larger file."""
        self._path = path
        self._max_size = max_size
        self._keep = keep
        self._lost: int | None = None  # lines, since it can't be written
        self._lock = threading.Lock()

    def check(self) -> None:
        """Make the file where it is missing; where that fails, the log says so. Blocks."""
        with self._lock:
            try:
                with self._locked():
                    pass
            except OSError as error:
                self._note_failure(error, 0)

    def write(self, lines: str) -> None:
        """Add whole lines. Blocks; never raises OSError."""
        data = lines.encode("utf-8", "backslashreplace")
        start = 0
        with self._lock:
            try:
                while start < len(data):
                    start += self._add(data, start)
            except OSError as error:
                self._note_failure(error, data.count(b"\n", start))
                return
            if self._lost is not None:
                logger.warning("file=%s can be written again, lines lost=%d", self._path, self._lost)
                self._lost = None

    def _note_failure(self, error: OSError, lines: int) -> None:
        if self._lost is None:
            logger.warning("file=%s can't be written, its lines are lost: %s", self._path, error.strerror or error)
        self._lost = (self._lost or 0) + lines

    def _add(self, data: bytes, start: int) -> int:
        """Write as many lines as there is room for, at least one to an empty file; else rotate. Returns bytes."""
        with self._locked() as handle:
            size = os.fstat(handle).st_size
            end = _end_of_lines(data, start, self._max_size - size)
            if end == start and not size:
                end = data.find(b"\n", start) + 1 or len(data)
            if end == start:
                self._rotate()
                return 0
            try:
                _write_all(handle, memoryview(data)[start:end])
            except OSError:
                with contextlib.suppress(OSError):  # no half lines
                    os.ftruncate(handle, size)
                raise
            return end - start

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int]:
        """A descriptor of the file, which no other process writes or moves away meanwhile, if it asks as we do."""
        while True:
            self._path.parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
            handle = open_private(self._path, os.O_RDWR | os.O_APPEND)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)
                if self._is_ours(handle):
                    yield handle
                    return
            finally:
                os.close(handle)

    def _is_ours(self, handle: int) -> bool:
        """Whether the path leads to this file still: another process may have moved it while we waited."""
        try:
            return os.path.samestat(os.fstat(handle), self._path.stat())
        except FileNotFoundError:
            return False

    def _rotate(self) -> None:
        """Put the locked file away."""
        self._numbered(self._keep).unlink(missing_ok=True)
        for number in range(self._keep - 1, -1, -1):
            with contextlib.suppress(FileNotFoundError):
                self._numbered(number).replace(self._numbered(number + 1))
        with contextlib.suppress(OSError):  # until there is none: `keep` may have been more before
            for number in itertools.count(self._keep + 1):
                self._numbered(number).unlink()

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}") if number else self._path


def _end_of_lines(data: bytes, start: int, room: int) -> int:
    """The end of the last line that ends within `room` bytes from `start`."""
    if len(data) - start <= room:
        return len(data)
    return data.rfind(b"\n", start, start + room) + 1 or start if room > 0 else start


def _write_all(handle: int, data: memoryview) -> None:
    while data:
        data = data[os.write(handle, data) :]
