"""Audit: what administrators did, a JSON object a line, appended to a file."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import queue
import stat
import threading
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from manager.errors import ConfigError
from manager.private_file import open_private

logger = logging.getLogger(__name__)

SIZE_MOST: Final = 10 * 1024**2  # bytes of a file before the next one is begun
FILES: Final = 5  # that are kept behind the one that is written


class Audit:
    """Lines are made where `add` is called and written within milliseconds by a thread, which the first one starts.

    The file is opened for each batch of lines and each line is one append: other programs may move the file away
    (logrotate) or append to it (the command line) meanwhile. What can't be written goes to the service's log.
    """

    def __init__(self, path: Path, *, size_most: int = SIZE_MOST) -> None:
        """Make the file, with mode 0600, where it is missing. Blocks. Raises ConfigError where it can't be written."""
        self._path = path
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
                self._rotate()
                self._append(line)
            except (ConfigError, OSError) as error:
                logger.error("audit line not written: %s line=%s", error, line.decode().rstrip())

    def _append(self, line: bytes) -> None:
        try:
            handle = open_private(self._path, os.O_RDWR | os.O_APPEND)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)  # else the line of another process could look broken midway
                if line and _is_broken(handle):
                    line = b"\n" + line
                while line:
                    line = line[os.write(handle, line) :]
            finally:
                os.close(handle)
        except OSError as error:
            raise ConfigError(
                f"{self._path} (setting storage.audit_file): can't write: {error.strerror or error}."
            ) from None

    def _rotate(self) -> None:
        """Begin a new file where this one is large; of the old ones FILES stay, .1 the latest."""
        with suppress(FileNotFoundError):
            if self._path.stat().st_size < self._size_most:
                return
            for number in range(FILES - 1, 0, -1):
                with suppress(FileNotFoundError):
                    self._numbered(number).replace(self._numbered(number + 1))
            self._path.replace(self._numbered(1))

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")


def _line(event: Mapping[str, Any]) -> bytes:
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    # All ASCII: what clients make up can't begin a line, nor tell a terminal what to do.
    return json.dumps({"time": now, **event}, default=str).encode("ascii").replace(b"\x7f", rb"\u007f") + b"\n"


def _is_broken(handle: int) -> bool:
    """Whether the file ends within a line: the disk was full, or the machine went down."""
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode) or not status.st_size:
        return False
    return os.pread(handle, 1, status.st_size - 1) != b"\n"
