"""The last lines of the service's own log, kept in memory for those who may read it and can't reach the machine."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import threading
from collections import deque
from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import islice, takewhile
from operator import attrgetter
from typing import Any, Final, NamedTuple

from manager.event_id import draw_run
from manager.log_lines import as_text, stamp

MOST: Final = 1000  # lines of each kind
_ACCESS: Final = "access"
# An access line of the text form; see manager.log.
_ANSWERED: Final = re.compile(
    r"(?P<time>\S+) ACCESS request=(?P<request>\S+) (?P<message>.* ms=[\d.]+(?: model=(?P<model>.+))?)\n", re.DOTALL
)
_NOTED: Final = re.compile(r"(?P<time>\S+) (?P<level>[A-Z]+) (?P<logger>\S+) (?P<message>.*)\n", re.DOTALL)


class LogLine(NamedTuple):
    """A line of the log. `time` is in seconds since the epoch."""

    time: float
    level: str
    logger: str
    message: str
    request: str | None = None
    model: str | None = None

    @property
    def text(self) -> str:
        """As the text form of the log has it, without the end of the line."""
        who = "ACCESS" if self.logger == _ACCESS and self.level == "INFO" else f"{self.level} {self.logger}"
        about = f"request={self.request} " if self.request else ""
        return as_text(f"{stamp(self.time)} {who} {about}{self.message}")


class KeptLine:
    """A line and its number, `n`. One about a request is read when somebody asks for it, and once."""

    __slots__ = ("_line", "n")

    def __init__(self, n: int, line: LogLine | str) -> None:
        self.n = n
        self._line = line

    @property
    def line(self) -> LogLine:
        if isinstance(self._line, str):
            self._line = _parsed(self._line)
        return self._line


class RecentLog:
    """Keeps the last MOST records, and of lines about requests as many, for readers on one event loop.

    However many requests there are, they push no record out. All are numbered together, as they come, from 1 in
    this `run`; readers go on from the number of the last line that they have seen. Any thread may add, and waits for
    no reader.
    """

    def __init__(self) -> None:
        self.run = draw_run()
        self._lock = threading.Lock()  # of these three; held for moments, as the event loop waits for it too
        self._total = 0
        self._records: deque[KeptLine] = deque(maxlen=MOST)
        self._requests: deque[KeptLine] = deque(maxlen=MOST)
        self._loop: asyncio.AbstractEventLoop | None = None  # of those who wait
        self._waiting = 0
        self._more = asyncio.Event()

    @property
    def total(self) -> int:
        """How many lines there ever were."""
        return self._total

    def add(self, lines: Sequence[LogLine | str]) -> None:
        """Add records, or lines about requests as they were written, in either form: these are read when asked for."""
        last = lines[-MOST:]
        with self._lock:
            self._total += len(lines)
            for n, line in enumerate(last, self._total - len(last) + 1):
                (self._requests if isinstance(line, str) else self._records).append(KeptLine(n, line))
            loop = self._loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # it is closed, and who waited has gone with it
                loop.call_soon_threadsafe(self._wake)

    def tail(self, count: int, *, access: bool = True) -> tuple[list[KeptLine], int]:
        """The last `count` lines, and the number to go on from. `access`: those about requests too."""
        with self._lock:
            kept = [one for ring in self._rings(access) for one in islice(reversed(ring), count)]
            total = self._total
        return _in_order(kept)[max(0, len(kept) - count) :], total

    def since(self, number: int, *, access: bool = True) -> tuple[list[KeptLine], int]:
        """The lines after that number, as far as they are still kept, and the number to go on from."""
        with self._lock:
            rings = self._rings(access)
            kept = [one for ring in rings for one in takewhile(lambda one: one.n > number, reversed(ring))]
            total = self._total
        return _in_order(kept), total

    async def wait(self, number: int, *, access: bool = True) -> None:
        """Until there are lines after that number."""
        self._loop = asyncio.get_running_loop()  # before the look: what is added from now on wakes us
        self._waiting += 1
        try:
            while all(ring[-1].n <= number for ring in self._rings(access) if ring):
                await self._more.wait()
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._loop = None

    def _rings(self, access: bool) -> tuple[deque[KeptLine], ...]:
        return (self._records, self._requests) if access else (self._records,)

    def _wake(self) -> None:
        self._more.set()
        self._more = asyncio.Event()


def _in_order(kept: Iterable[KeptLine]) -> list[KeptLine]:
    return sorted(kept, key=attrgetter("n"))


class ToRecent(logging.Handler):
    """Records go there; they have `request` and `model` where these are known, as ToQueue notes it."""

    def __init__(self, recent: RecentLog) -> None:
        super().__init__()
        self._recent = recent
        self.setFormatter(logging.Formatter())  # the message, and the traceback where there is one

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = self.format(record).encode("utf-8", "backslashreplace").decode()
            about = getattr(record, "request", None), getattr(record, "model", None)
            self._recent.add([LogLine(record.created, record.levelname, record.name, message, *about)])
        except Exception:
            self.handleError(record)


def _parsed(line: str) -> LogLine:
    return _of_json(json.loads(line)) if line.startswith("{") else _of_text(line)


def _of_text(line: str) -> LogLine:
    found = _ANSWERED.fullmatch(line) or _NOTED.fullmatch(line)
    assert found is not None, line  # noqa: S101  manager.log writes no others
    fields = found.groupdict()
    level, logger = fields.get("level", "INFO"), fields.get("logger", _ACCESS)
    about = fields.get("request"), fields.get("model")
    return LogLine(_seconds(fields["time"]), level, logger, fields["message"], *about)


def _of_json(fields: dict[str, Any]) -> LogLine:
    message = fields.get("message") or _told(fields)
    about = fields.get("request"), fields.get("model")
    return LogLine(_seconds(fields["time"]), fields["level"], fields["logger"], message, *about)


def _told(fields: dict[str, Any]) -> str:
    """A request that was answered, as the text form tells of it."""
    answered = f"{fields['method']} {fields['path']!r} status={fields['status']} ms={fields['ms']:.1f}"
    about = f" model={fields['model']}" if "model" in fields else ""
    return f"key={fields['key'] or '-'} {answered}{about}"


def _seconds(time: str) -> float:
    return datetime.fromisoformat(time).timestamp()
