"""A bounded buffer of a child's last log lines, and the way to follow them. It knows nothing of processes or files."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from itertools import islice

from manager.event_id import draw_run


class LogBuffer:
    """Keeps the last `max_lines` lines of a byte stream; a line longer than `max_line` bytes is cut there.

    `total` is how many lines were ever completed in this `run`, which each buffer has of its own. Whoever follows
    remembers a number of lines and asks for more; the buffer keeps nothing for followers, and without any they cost
    nothing.
    """

    def __init__(self, max_lines: int = 400, max_line: int = 2000) -> None:
        self.run = draw_run()
        self.total = 0
        self.closed = False
        self._lines: deque[str] = deque(maxlen=max_lines)
        self._partial = b""
        self._max_line = max_line
        self._more: asyncio.Event | None = None  # while somebody waits
        self._tee: Callable[[list[str]], None] | None = None

    def tee(self, to: Callable[[list[str]], None]) -> None:
        """Have `to` called with all lines, as they are completed; it must neither block nor raise."""
        if self._lines:
            to(list(self._lines))
        self._tee = to

    def feed(self, data: bytes) -> list[str]:
        """Add bytes as they were read; returns the lines that they completed. Called on the event loop."""
        *complete, rest = (self._partial + data).split(b"\n")
        # A child that never ends its line must not grow the buffer.
        self._partial = rest[: self._max_line]
        lines = [line[: self._max_line].decode("utf-8", "replace").rstrip("\r") for line in complete]
        self._lines.extend(lines)
        self.total += len(lines)
        if lines:
            self._wake()
            if self._tee is not None:
                self._tee(lines)
        return lines

    def close(self) -> None:
        """Nothing more will come: the unfinished line counts as a line, and nobody waits any longer."""
        if self._partial:
            self.feed(b"\n")
        self.closed = True
        self._wake()

    def tail(self, count: int = 20) -> tuple[str, ...]:
        """The last `count` lines, the unfinished one included."""
        lines = list(self._lines)
        if self._partial:
            lines.append(self._partial.decode("utf-8", "replace"))
        return tuple(lines[-count:]) if count else ()

    def since(self, number: int) -> tuple[list[str], int]:
        """The lines after the first `number` ones, as far as they are still kept, and the number to go on from."""
        kept = len(self._lines)
        count = min(max(0, self.total - number), kept)
        return list(islice(self._lines, kept - count, None)), self.total

    async def wait(self, number: int) -> None:
        """Until there are more lines than `number`, or the buffer is closed."""
        while self.total <= number and not self.closed:
            if self._more is None:
                self._more = asyncio.Event()
            await self._more.wait()

    def _wake(self) -> None:
        if self._more is not None:
            self._more.set()
            self._more = None
