"""ModelLogs: a file for each model, with what its engine writes and what the service says of it."""

from __future__ import annotations

import asyncio
import hashlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import quote

from manager.log_file import LogFile
from manager.log_lines import as_text, json_line, note, stamp
from manager.settings_sections import LogSettings

HAND_OVER_EVERY: Final = 0.5
# Where the disk does not keep up with an engine, its lines are lost and counted, not memory filled. Bytes, about.
HELD_MOST: Final = 16 * 1024**2
LINE_COSTS: Final = 64  # of memory, besides its characters
_SAFE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
_TAKEN: Final = "main"  # by the service's own log


def file_name(model: str) -> str:
    """That of a model's log: its name, changed where it is no safe one of a file; never that of another model's."""
    if _SAFE.fullmatch(model) and model != _TAKEN:
        return f"{model}.log"
    text = model.encode("utf-8", "backslashreplace")
    # No name that stays as it is has a ~.
    return f"{quote(text, safe='').lstrip('.')[:80]}~{hashlib.sha256(text).hexdigest()[:8]}.log"


@dataclass(frozen=True, slots=True)
class Lines:
    """What an engine wrote at one time, in seconds since the epoch; `lost` lines followed that nobody has."""

    time: float
    model: str
    lines: list[str]
    lost: int = 0


class ModelLogs:
    """Engines' lines are gathered on the event loop, and written by the thread that does what `later` is given."""

    def __init__(self, folder: Path, settings: LogSettings, later: Callable[[Callable[[], None]], None]) -> None:
        self._folder = folder
        self._settings = settings
        self._later = later
        self._files: dict[str, LogFile] = {}
        self._lock = threading.Lock()  # of what follows
        self._gathered: list[Lines] = []
        self._lost: dict[str, int] = {}
        self._held = 0  # bytes, gathered or on their way

    def add(self, model: str, lines: list[str]) -> None:
        """Note what its engine wrote just now. On the event loop."""
        size = _size(lines)
        with self._lock:
            waits = bool(self._gathered or self._lost)
            if self._held + size > HELD_MOST:
                self._lost[model] = self._lost.get(model, 0) + len(lines)
            else:
                self._held += size
                self._gathered.append(Lines(time.time(), model, lines))
        if not waits:
            asyncio.get_running_loop().call_later(HAND_OVER_EVERY, self.hand_over)

    def hand_over(self) -> None:
        """Have what was gathered written before what is handed over later, as the service's own lines."""
        with self._lock:
            now = time.time()
            batch = self._gathered + [Lines(now, model, [], lost) for model, lost in self._lost.items()]
            self._gathered, self._lost = [], {}
            if batch:
                self._later(partial(self._write_engines, batch))

    def write(self, model: str, lines: str) -> None:
        """Add whole lines to the file of a model. Blocks; in the writing thread."""
        file = self._files.get(model)
        if file is None:
            path = self._folder / file_name(model)
            file = self._files[model] = LogFile(path, self._settings.max_size, self._settings.keep)
        file.write(lines)

    def _write_engines(self, batch: list[Lines]) -> None:
        texts: dict[str, list[str]] = {}
        for part in batch:
            texts.setdefault(part.model, []).extend(self._shown(part))
        for model, text in texts.items():
            self.write(model, "".join(text))
        with self._lock:
            self._held -= sum(_size(part.lines) for part in batch)

    def _shown(self, part: Lines) -> Iterator[str]:
        time_ = stamp(part.time)
        if self._settings.format == "json":
            fields = {"time": time_, "logger": "engine", "model": part.model}
            yield from (json_line(fields | {"message": line}) for line in part.lines)
        else:
            yield from (f"{time_} ENGINE {as_text(line)}\n" for line in part.lines)
        if part.lost:
            yield note(self._settings.format, part.time, __name__, f"engine's lines lost={part.lost}")


def _size(lines: list[str]) -> int:
    return sum(map(len, lines)) + LINE_COSTS * len(lines)
