"""Where log lines go: everything through one queue to standard error and files, access lines in batches."""

from __future__ import annotations

import asyncio
import logging
import queue
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Protocol, TextIO

from aiohttp.http_exceptions import HttpProcessingError

from manager.errors import HerdError
from manager.log_file import LogFile
from manager.log_lines import formatter, json_line, note
from manager.log_models import ModelLogs
from manager.log_queue import Console, InFiles, Listener, LogEnds, LogFiles, ToQueue
from manager.log_recent import RecentLog, ToRecent
from manager.settings_sections import LogSettings

logger = logging.getLogger(__name__)

FLUSH_EVERY: Final = 0.5
# Where the disk does not keep up, lines are dropped and counted, not memory filled.
PENDING_MOST: Final = 100_000
# Seconds that standard error has at the end to take what is left: it may be a pipe that nobody reads.
CONSOLE_ENDS_WITHIN: Final = 2.0
_WITHOUT_FILES: Final = LogSettings(folder=None)


@contextmanager
def logging_to(stream: TextIO, level: str, settings: LogSettings = _WITHOUT_FILES) -> Iterator[LogEnds]:
    """Send the log to `stream` and to files, where these are wanted, while the context lasts.

    Writing happens in threads of its own: the files do not wait for the stream. What can't be written ends nothing. An
    exception that ends the context is only written to the file: who started the service hears of it in another way.
    """
    lines: queue.SimpleQueue[Any] = queue.SimpleQueue()
    files = _files(settings, lines.put)
    form = formatter(settings.format)
    console = Console(stream, settings.format)
    to_console = logging.StreamHandler(console)
    to_console.setFormatter(form)
    in_files = InFiles(files) if files is not None else logging.NullHandler()
    in_files.setFormatter(form)
    recent = RecentLog()
    listener = Listener(lines, to_console, in_files, ToRecent(recent))
    requests = logging.getLogger("aiohttp.server")
    requests.addFilter(_without_bytes_of_requests)
    root = logging.getLogger()
    to_queue = ToQueue(lines, files)
    level_before = root.level
    root.addHandler(to_queue)
    root.setLevel(level.upper())
    listener.start()
    if files is not None:
        files.main.check()
    failure: logging.LogRecord | None = None
    try:
        yield LogEnds(console, files, recent)
    except Exception as error:
        failure = _ended_by(error)
        raise
    finally:
        root.removeHandler(to_queue)
        root.setLevel(level_before)
        requests.removeFilter(_without_bytes_of_requests)
        if files is not None:
            files.models.hand_over()
        listener.stop()
        if failure is not None:
            in_files.handle(failure)
        console.close(CONSOLE_ENDS_WITHIN)


def _files(settings: LogSettings, later: Callable[[Callable[[], None]], None]) -> LogFiles | None:
    if settings.folder is None:
        return None
    main = LogFile(settings.folder / "main.log", settings.max_size, settings.keep)
    return LogFiles(main, ModelLogs(settings.folder, settings, later))


def _ended_by(error: Exception) -> logging.LogRecord:
    if isinstance(error, HerdError):
        return logger.makeRecord(logger.name, logging.CRITICAL, __file__, 0, "ended: %s", (error.message,), None)
    exc_info = type(error), error, error.__traceback__
    return logger.makeRecord(logger.name, logging.CRITICAL, __file__, 0, "ended", (), exc_info)


def _without_bytes_of_requests(record: logging.LogRecord) -> bool:
    """aiohttp logs what it can't parse, with the bytes at fault: a key can be among them."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, HttpProcessingError):
        record.msg, record.args = f"not a valid request: {type(error).__name__}", ()
        record.exc_info = record.exc_text = None
        record.levelno, record.levelname = logging.INFO, "INFO"
    return True


class _Writable(Protocol):
    def write(self, text: str, /) -> object: ...


class AccessLog:
    """One line per request, made on its way in about a microsecond and written in batches by a thread."""

    def __init__(self, stream: _Writable | None = None, recent: RecentLog | None = None) -> None:
        self._stream = stream or sys.stderr
        self._recent = recent or RecentLog()
        self._as_json = False
        self._file: LogFile | None = None
        self._pending: list[str] = []
        self._dropped = 0
        self._second = 0
        self._stamp = ""

    def write_as(self, form: str, ends: LogEnds) -> None:
        """Lines are of this form from now on, as that of the setting log.format, and go where all others go."""
        self._as_json = form == "json"
        self._stream, self._file = ends.console, ends.files.main if ends.files is not None else None
        self._recent = ends.recent

    def add(
        self,
        request_id: str,
        method: str,
        path: str,
        status: int,
        seconds: float,
        key_id: str,
        model: str | None = None,
    ) -> None:
        """Note one answered request. `path` has no query string: a question may be in it.

        `model`: the one that it had a lease of.
        """
        if len(self._pending) >= PENDING_MOST:
            self._dropped += 1
            return
        now = time.time()
        second = int(now)
        if second != self._second:  # strftime once a second, not once a request
            self._second = second
            self._stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        if self._as_json:
            fields: dict[str, Any] = {
                "time": f"{self._stamp}.{int((now - second) * 1000):03d}Z",
                "level": "INFO",
                "logger": "access",
                "request": request_id,
                "key": None if key_id == "-" else key_id,
                "method": method,
                "path": path,
                "status": status,
                "ms": round(seconds * 1000, 1),
            }
            if model is not None:
                fields["model"] = model
            self._pending.append(json_line(fields))
            return
        # Last: it may have blanks.
        about = "" if model is None else f" model={model}"
        self._pending.append(
            f"{self._stamp}.{int((now - second) * 1000):03d}Z ACCESS request={request_id} key={key_id} "
            f"{method} {path!r} status={status} ms={seconds * 1000:.1f}{about}\n"
        )

    async def run(self) -> None:
        """Write until cancelled, then write what is left."""
        try:
            while True:
                await asyncio.sleep(FLUSH_EVERY)
                if self._pending:
                    await asyncio.to_thread(self._write, self._take())
        finally:
            if self._pending or self._dropped:
                await asyncio.to_thread(self._write, self._take())

    def _take(self) -> list[str]:
        lines, self._pending = self._pending, []
        if self._dropped:
            form = "json" if self._as_json else "text"
            lines.append(note(form, time.time(), "access", f"lines dropped={self._dropped}"))
            self._dropped = 0
        return lines

    def _write(self, lines: list[str]) -> None:
        # In a thread of its own the lock of the interpreter is held only for the join.
        text = "".join(lines)
        self._recent.add(lines)
        if self._file is not None:
            self._file.write(text)
        self._stream.write(text)
