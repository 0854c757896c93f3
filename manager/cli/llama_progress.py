"""How the making of a build is shown: a bar in a terminal, else a few plain lines. All of it on standard error."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Final

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

_STEPS: Final = 10  # plain lines of a whole compilation


class Watch:
    """See `manager.builds.failure.Tell`. `what` is under way, in a word."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._told = -1

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end()

    def say(self, text: str) -> None:
        self._end()
        typer.echo(text, err=True)

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
        if step != self._told:
            self._told = step
            typer.echo(f"{self._what}: {done} of {total}", err=True)

    def _end(self) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._bar, self._told = None, -1
