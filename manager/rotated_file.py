"""RotatedFile: a file that several processes add to, and that is put away under a number when it is full."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

from manager.private_file import open_private


class RotatedFile:
    """Of files that were full the last `keep` stay, .1 the latest. When one is full, its owner decides."""

    def __init__(self, path: Path, keep: int) -> None:
        self.path = path
        self._keep = keep

    @contextlib.contextmanager
    def locked(self) -> Iterator[int]:
        """A descriptor of the file, which no other process writes or moves away meanwhile, if it asks as we do.

        It is made where it is missing. Blocks; raises OSError.
        """
        while True:
            handle = open_private(self.path, os.O_RDWR | os.O_APPEND)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)
                if self._is_ours(handle):
                    yield handle
                    return
            finally:
                os.close(handle)

    def rotate(self) -> None:
        """Put the file away, which is locked: whoever locks it next gets a new one. Raises OSError."""
        self._numbered(self._keep).unlink(missing_ok=True)
        for number in range(self._keep - 1, -1, -1):
            with contextlib.suppress(FileNotFoundError):
                self._numbered(number).replace(self._numbered(number + 1))
        with contextlib.suppress(OSError):  # until there is none: `keep` may have been more before
            for number in itertools.count(self._keep + 1):
                self._numbered(number).unlink()

    def _is_ours(self, handle: int) -> bool:
        """Whether the path leads to this file still: another process may have moved it while we waited."""
        try:
            return os.path.samestat(os.fstat(handle), self.path.stat())
        except FileNotFoundError:
            return False

    def _numbered(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}") if number else self.path
