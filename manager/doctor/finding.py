"""What a check says: one fact of the machine or the settings, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """`note`: worth knowing, nothing is wrong. `warning`: something will not be as it could. `error`: it won't work."""

    OK = "ok"
    NOTE = "note"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """`name`: what was looked at; `text`: what it is, a sentence or part of one; `advice`: what to do, if anything."""

    level: Level
    name: str
    text: str
    advice: str | None = None
    area: str = ""


def ok(name: str, text: str) -> Finding:
    return Finding(Level.OK, name, text)


def note(name: str, text: str, advice: str | None = None) -> Finding:
    return Finding(Level.NOTE, name, text, advice)


def warning(name: str, text: str, advice: str | None = None) -> Finding:
    return Finding(Level.WARNING, name, text, advice)


def error(name: str, text: str, advice: str | None = None) -> Finding:
    return Finding(Level.ERROR, name, text, advice)
