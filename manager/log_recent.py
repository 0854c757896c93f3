"""The last lines of the service's own log, kept in memory for those who may read it and can't reach the machine."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import threading
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

from manager.log_lines import as_text, stamp

MOST: Final = 1000  # lines
_ACCESS: Final = "access"
# An access line of the text form; see manager.log.
_ANSWERED: Final = re.compile(r"(?P<time>\S+) ACCESS request=(?P<request>\S+) (?P<message>.*)\n", re.DOTALL)
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


class RecentLog:
    """Keeps the last MOST lines, for readers on one event loop. Any thread may add to it, and waits for no reader.

    Readers go on from the number of lines that they have seen, as in LogBuffer.
    """

    def __init__(self) -> None:
        self._adding = threading.Lock()
        # Total and lines, put in place at once: readers need no lock, for which the event loop would wait.
        self._kept: tuple[int, tuple[LogLine | str, ...]] = (0, ())
        self._loop: asyncio.AbstractEventLoop | None = None  # of those who wait
        self._waiting = 0
        self._more = asyncio.Event()

    @property
    def total(self) -> int:
        """How many lines there ever were."""
        return self._kept[0]

    def add(self, lines: Sequence[LogLine | str]) -> None:
        """Add lines; those of requests as they were written, in either form: they are read when somebody asks."""
        with self._adding:
            total, kept = self._kept
            self._kept = total + len(lines), (*kept, *lines[-MOST:])[-MOST:]
            loop = self._loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # it is closed, and who waited has gone with it
                loop.call_soon_threadsafe(self._wake)

    def tail(self, count: int) -> list[LogLine]:
        """The last `count` lines."""
        return self.since(self.total - count)[0]

    def since(self, number: int) -> tuple[list[LogLine], int]:
        """The lines after the first `number` ones, as far as they are still kept, and the number to go on from."""
        total, kept = self._kept
        count = min(max(0, total - number), len(kept))
        return [_parsed(line) for line in kept[len(kept) - count :]], total

    async def wait(self, number: int) -> None:
        """Until there are more lines than `number`."""
        self._loop = asyncio.get_running_loop()  # before the look: what is added from now on wakes us
        self._waiting += 1
        try:
            while self.total <= number:
                await self._more.wait()
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._loop = None

    def _wake(self) -> None:
        self._more.set()
        self._more = asyncio.Event()


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


def _parsed(line: LogLine | str) -> LogLine:
    if isinstance(line, LogLine):
        return line
    return _of_json(json.loads(line)) if line.startswith("{") else _of_text(line)


def _of_text(line: str) -> LogLine:
    found = _ANSWERED.fullmatch(line) or _NOTED.fullmatch(line)
    assert found is not None, line  # noqa: S101  manager.log writes no others
    fields = found.groupdict()
    level, logger = fields.get("level", "INFO"), fields.get("logger", _ACCESS)
    return LogLine(_seconds(fields["time"]), level, logger, fields["message"], fields.get("request"))


def _of_json(fields: dict[str, Any]) -> LogLine:
    message = fields.get("message") or _told(fields)
    return LogLine(_seconds(fields["time"]), fields["level"], fields["logger"], message, fields.get("request"))


def _told(fields: dict[str, Any]) -> str:
    """A request that was answered, as the text form tells of it."""
    answered = f"{fields['method']} {fields['path']!r} status={fields['status']} ms={fields['ms']:.1f}"
    return f"key={fields['key'] or '-'} {answered}"


def _seconds(time: str) -> float:
    return datetime.fromisoformat(time).timestamp()
