"""How the making of a build is shown: a bar in a terminal, else a few plain lines. All of it on standard error."""

from __future__ import annotations

import sys
import time
from threading import Event, Thread
from types import TracebackType
from typing import Final

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

_STEPS: Final = 10  # plain lines of a whole compilation, but for those that time brings
_EVERY: Final = 60.0  # seconds without a plain line: what watches a log takes longer silence for a hang


class Watch:
    """See `manager.builds.failure.Tell`. `what` is under way, in a word; `every`: seconds of silence at most."""

    def __init__(self, what: str, every: float = _EVERY) -> None:
        self._what = what
        self._every = every
        self._began = self._last = time.monotonic()
        self._over = Event()
        self._reminder: Thread | None = None
        self._state: str | None = None
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._told = -1

    def __enter__(self) -> Watch:
        if not sys.stderr.isatty():
            self._reminder = Thread(target=self._remind, name="progress", daemon=True)
            self._reminder.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end()
        self._over.set()
        if self._reminder is not None:
            self._reminder.join()

    def say(self, text: str) -> None:
        self._end()
        self._print(text)

    def progress(self, done: int, total: int) -> None:
        if not sys.stderr.isatty():
            self._tell_plainly(done, total)
            return
        if self._bar is None:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task(self._what)
            self._bar.start()
        assert self._task is not None  # noqa: S101  made with the bar
        self._bar.update(self._task, completed=done, total=total)

    def _tell_plainly(self, done: int, total: int) -> None:
        step = done * _STEPS // max(1, total)
        self._state = f"{self._what}: {done} of {total}"
        if step != self._told:
            self._told = step
            self._print(self._state)

    def _remind(self) -> None:
        """Where nothing has been printed for a while, say how far it is: one file of CUDA takes minutes."""
        while not self._over.wait(max(0.0, self._last + self._every - time.monotonic())):
            if time.monotonic() >= self._last + self._every:
                self._print(f"{self._state or 'Still at it'}, after {(time.monotonic() - self._began) / 60:.0f} min")

    def _print(self, text: str) -> None:
        self._last = time.monotonic()
        typer.echo(text, err=True)

    def _end(self) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._bar, self._told, self._state = None, -1, None
