"""A bounded buffer of a child's last log lines. It knows nothing of processes or files."""

from __future__ import annotations

from collections import deque


class LogBuffer:
    """Keeps the last `max_lines` lines of a byte stream; a line longer than `max_line` bytes is cut there."""

    def __init__(self, max_lines: int = 400, max_line: int = 2000) -> None:
        self._lines: deque[str] = deque(maxlen=max_lines)
        self._partial = b""
        self._max_line = max_line

    def feed(self, data: bytes) -> list[str]:
        """Add bytes as they were read; returns the lines that they completed."""
        *complete, rest = (self._partial + data).split(b"\n")
        # A child that never ends its line must not grow the buffer.
        self._partial = rest[: self._max_line]
        lines = [line[: self._max_line].decode("utf-8", "replace").rstrip("\r") for line in complete]
        self._lines.extend(lines)
        return lines

    def tail(self, count: int = 20) -> tuple[str, ...]:
        """The last `count` lines, the unfinished one included."""
        lines = list(self._lines)
        if self._partial:
            lines.append(self._partial.decode("utf-8", "replace"))
        return tuple(lines[-count:])
