"""What is on both ends of the queue of the log: who fills it, in any thread, and who writes what comes out."""

from __future__ import annotations

import copy
import logging
import logging.handlers
import queue
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from manager.log_file import LogFile
from manager.log_lines import model_of, request_now
from manager.log_models import ModelLogs

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LogFiles:
    """The files of the log: the service's own, and one for each model."""

    main: LogFile
    models: ModelLogs


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
