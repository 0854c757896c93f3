"""LogFile: a file that lines are added to and that makes room for a new one when it is full."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from manager.rotated_file import RotatedFile

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
        self._file = RotatedFile(path, keep)
        self._max_size = max_size
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
                logger.warning("file=%s can be written again, lines lost=%d", self._file.path, self._lost)
                self._lost = None

    def _note_failure(self, error: OSError, lines: int) -> None:
        if self._lost is None:
            logger.warning("file=%s can't be written, its lines are lost: %s", self._file.path, error.strerror or error)
        self._lost = (self._lost or 0) + lines

    def _add(self, data: bytes, start: int) -> int:
        """Write as many lines as there is room for, at least one to an empty file; else rotate. Returns bytes."""
        with self._locked() as handle:
            size = os.fstat(handle).st_size
            end = _end_of_lines(data, start, self._max_size - size)
            if end == start and not size:
                end = data.find(b"\n", start) + 1 or len(data)
            if end == start:
                self._file.rotate()
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
        self._file.path.parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        with self._file.locked() as handle:
            yield handle


def _end_of_lines(data: bytes, start: int, room: int) -> int:
    """The end of the last line that ends within `room` bytes from `start`."""
    if len(data) - start <= room:
        return len(data)
    return data.rfind(b"\n", start, start + room) + 1 or start if room > 0 else start


def _write_all(handle: int, data: memoryview) -> None:
    while data:
        data = data[os.write(handle, data) :]
