"""Audit: what administrators did, a JSON object a line, appended to a file."""

from __future__ import annotations

import json
import logging
import os
import queue
import stat
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from manager.errors import ConfigError
from manager.rotated_file import RotatedFile

logger = logging.getLogger(__name__)

SIZE_MOST: Final = 10 * 1024**2  # bytes of a file before the next one is begun
FILES: Final = 5  # that are kept behind the one that is written
VALUE_MOST: Final = 200  # characters of a value: clients make up names


class Audit:
    """Lines are made where `add` is called and written within milliseconds by a thread, which the first one starts.

    The file is opened for each line and locked while that is appended: other programs may move the file away
    (logrotate), append to it (the command line) or do all that this does (a second service) meanwhile. What can't be
    written goes to the service's log.
    """

    def __init__(self, path: Path, *, size_most: int = SIZE_MOST) -> None:
        """Make the file, with mode 0600, where it is missing. Blocks. Raises ConfigError where it can't be written."""
        self._file = RotatedFile(path, FILES)
        self._size_most = size_most
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._append(b"")

    def add(self, event: Mapping[str, Any]) -> None:
        """Note what was done, with the present time. Never blocks on the disk; to be called by one thread."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._write_all, name="audit", daemon=True)
            self._thread.start()
        self._lines.put(_line(event))

    def write(self, event: Mapping[str, Any]) -> None:
        """As `add`, but it is on disk afterwards. Blocks. Raises ConfigError where that fails."""
        self._append(_line(event))

    def close(self) -> None:
        """Write what is left. Blocks."""
        if self._thread is not None:
            self._lines.put(None)
            self._thread.join()
            self._thread = None

    def _write_all(self) -> None:
        while (line := self._lines.get()) is not None:
            try:
                self._append(line, rotate=True)
            except ConfigError as error:
                logger.error("audit line not written: %s line=%s", error, line.decode().rstrip())

    def _append(self, line: bytes, *, rotate: bool = False) -> None:
        try:
            with self._file.locked() as handle:
                if not rotate or os.fstat(handle).st_size < self._size_most:
                    _write_line(handle, line)
                    return
                self._file.rotate()
            with self._file.locked() as handle:
                _write_line(handle, line)
        except OSError as error:
            raise ConfigError(
                f"{self._file.path} (setting storage.audit_file): can't write: {error.strerror or error}."
            ) from None


def _line(event: Mapping[str, Any]) -> bytes:
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    # All ASCII: what clients make up can't begin a line, nor tell a terminal what to do.
    text = json.dumps({"time": now, **{name: _cut(value) for name, value in event.items()}})
    return text.encode("ascii").replace(b"\x7f", rb"\u007f") + b"\n"


def _cut(value: Any) -> Any:
    """What JSON has a word for stays, all else is a text."""
    if value is None or isinstance(value, bool | int | float):
        return value
    text = str(value)
    return text if len(text) <= VALUE_MOST else text[: VALUE_MOST - 1] + "…"


def _write_line(handle: int, line: bytes) -> None:
    if line and _is_broken(handle):
        line = b"\n" + line
    while line:
        line = line[os.write(handle, line) :]


def _is_broken(handle: int) -> bool:
    """Whether the file ends within a line: the disk was full, or the machine went down."""
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode) or not status.st_size:
        return False
    return os.pread(handle, 1, status.st_size - 1) != b"\n"
