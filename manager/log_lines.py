"""The form of a log line, text or a JSON object; and which request and model it is about."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, Final

import orjson
from pythonjsonlogger.json import JsonFormatter

ABOUT_MODEL: Final = "model=%s"
# They move the cursor of who reads the log, colour or hide lines, or change the title of the window.
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_CONTINUES: Final = "\n    "


class Answering:
    """Marks what is done for a request. `id` is None once it is answered: tasks that outlive it keep the mark."""

    __slots__ = ("id",)

    def __init__(self, request_id: str) -> None:
        self.id: str | None = request_id


ANSWERING: ContextVar[Answering | None] = ContextVar("ANSWERING", default=None)


def request_now() -> str | None:
    """The id of the request that the calling task or thread works for."""
    answering = ANSWERING.get()
    return answering.id if answering is not None else None


def model_of(record: logging.LogRecord) -> str | None:
    """Whom a record is about: as everywhere in this service, its message then begins with `model=%s`."""
    if isinstance(record.args, tuple) and record.args and str(record.msg).startswith(ABOUT_MODEL):
        return str(record.args[0])
    return None


def stamp(seconds: float) -> str:
    """RFC 3339 in UTC with milliseconds, of seconds since the epoch. What is read of one makes the same one."""
    whole, micros = divmod(round(seconds * 1e6), 1_000_000)  # rounded: a float is a little more or less than it says
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{micros // 1000:03d}Z"


def json_line(fields: Mapping[str, Any]) -> str:
    """The fields as a JSON object and the end of the line."""
    try:
        return orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE).decode()
    except TypeError:  # a path whose bytes are no text; escaped, it is JSON all the same
        return json.dumps(fields) + "\n"


def as_text(message: str) -> str:
    """How the text form shows it: no part looks like a line of its own, and control characters are escaped."""
    return _CONTROL.sub(_escaped, message).replace("\n", _CONTINUES)


def _escaped(found: re.Match[str]) -> str:
    return f"\\x{ord(found[0]):02x}"


def note(form: str, seconds: float, logger: str, message: str) -> str:
    """A line, a warning, that came about while lines were written."""
    if form == "json":
        return json_line({"time": stamp(seconds), "level": "WARNING", "logger": logger, "message": message})
    return f"{stamp(seconds)} WARNING {logger} {message}\n"


def formatter(form: str) -> logging.Formatter:
    """What makes lines of records: `form` is that of the setting log.format."""
    return _Json() if form == "json" else _Text()


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return as_text(super().format(record))

    def formatMessage(self, record: logging.LogRecord) -> str:
        request: str | None = getattr(record, "request", None)
        about = f"request={request} " if request else ""
        return f"{stamp(record.created)} {record.levelname} {record.name} {about}{record.message}"


class _Json(JsonFormatter):
    """Records have `request` and `model` where these are known, and so has the object."""

    def __init__(self) -> None:
        names = {"asctime": "time", "levelname": "level", "name": "logger", "exc_info": "exception"}
        super().__init__(["asctime", "levelname", "name", "message"], rename_fields=names)

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        return stamp(record.created)
