"""What is on both ends of the queue of the log: who fills it, in any thread, and who writes what comes out."""

from __future__ import annotations

import copy
import io
import logging
import logging.handlers
import os
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TextIO

from manager.log_file import LogFile
from manager.log_lines import model_of, note, request_now
from manager.log_models import ModelLogs
from manager.log_recent import RecentLog

logger = logging.getLogger(__name__)

# Where the terminal or the journal does not keep up, lines are dropped and counted, not memory filled. Bytes, about.
HELD_MOST: Final = 16 * 1024**2
TEXT_COSTS: Final = 64  # of memory, besides its characters


@dataclass(frozen=True, slots=True)
class LogFiles:
    """The files of the log: the service's own, and one for each model."""

    main: LogFile
    models: ModelLogs


class Console:
    """A stream, as standard error, that a thread of its own writes to: nobody else waits for who reads it, or fails.

    A daemon, for nothing can wake it while nobody reads. What is held beyond HELD_MOST is dropped and counted, and so
    is what can't be written; the stream says how much that was, when it takes lines again.
    """

    def __init__(self, stream: TextIO, form: str) -> None:
        self._put, self._form = _put_to(stream), form
        self._texts: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._lock = threading.Lock()  # of what follows
        self._held = 0
        self._dropped = 0  # lines
        self._cut = False  # the last line that was written has no end
        self._thread = threading.Thread(target=self._run, name="console", daemon=True)
        self._thread.start()

    def write(self, text: str) -> None:
        """Have whole lines written."""
        with self._lock:
            if self._held > HELD_MOST:
                self._dropped += text.count("\n")
                return
            self._held += len(text) + TEXT_COSTS
        self._texts.put(text)

    def close(self, within: float) -> None:
        """Wait until all is written, at most so many seconds. Nothing may be written after it."""
        self._texts.put(None)
        self._thread.join(within)

    def _run(self) -> None:
        while (text := self._texts.get()) is not None:
            lost = self._try(text)
            with self._lock:
                self._held -= len(text) + TEXT_COSTS
                self._dropped += lost
            if not lost:
                self._tell_dropped()

    def _tell_dropped(self) -> None:
        with self._lock:
            dropped, self._dropped = self._dropped, 0
        message = f"to standard error: lines dropped={dropped}"
        if dropped and self._try(note(self._form, time.time(), __name__, message)):
            with self._lock:
                self._dropped += dropped

    def _try(self, text: str) -> int:
        """Returns how many of its lines could not be written."""
        data = text.encode("utf-8", "backslashreplace")
        done = 0
        try:
            if self._cut:
                self._put(b"\n")
                self._cut = False
            while done < len(data):
                done += self._put(data[done:])
        except OSError:  # a full disk, a reader that went
            if done and not data.endswith(b"\n", 0, done):
                self._cut = True
        return data.count(b"\n", done)


def _put_to(stream: TextIO) -> Callable[[bytes], int]:
    """What writes to it and tells how many bytes it took, past the buffer of the stream.

    That keeps what can't be written; Python tries it again when it ends, and then fails, or waits for our thread.
    """
    try:
        return partial(os.write, stream.fileno())
    except io.UnsupportedOperation:  # it is in memory
        return lambda data: stream.write(data.decode()) and len(data)


@dataclass(frozen=True, slots=True)
class LogEnds:
    """Where the log goes; no `files` where none are wanted."""

    console: Console
    files: LogFiles | None
    recent: RecentLog


class ToQueue(logging.handlers.QueueHandler):
    """Notes whom a record is about, which only the thread that logs knows."""

    def __init__(self, lines: queue.SimpleQueue[Any], files: LogFiles | None) -> None:
        super().__init__(lines)
        self._files = files
        self._plain = logging.Formatter()

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        model = model_of(record)
        record = copy.copy(record)
        record.msg, record.args = record.getMessage(), None
        if record.exc_info:
            record.exc_text, record.exc_info = self._plain.formatException(record.exc_info), None
        if request := request_now():
            record.request = request
        if model:
            record.model = model
            if self._files is not None:
                self._files.models.hand_over()  # what its engine wrote before stands before it
        return record


class Listener(logging.handlers.QueueListener):
    """What comes through the queue is a record, or something to do."""

    def handle(self, record: logging.LogRecord | Callable[[], None]) -> None:
        if isinstance(record, logging.LogRecord):
            super().handle(record)
            return
        try:
            record()
        except Exception:  # the thread has all other lines to write
            logger.exception("lines of engines are lost")


class InFiles(logging.Handler):
    """Records go to the service's file, and those about a model to its file too."""

    def __init__(self, files: LogFiles) -> None:
        super().__init__()
        self._files = files

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record) + "\n"
            self._files.main.write(line)
            if model := getattr(record, "model", None):
                self._files.models.write(model, line)
        except Exception:
            self.handleError(record)
