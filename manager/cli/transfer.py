"""How long work on large files is shown, and what is said where it is broken off."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Final, TypeVar

import typer

from manager.cli.options import size

T = TypeVar("T")
Progress = Callable[[int, int | None], None]

SAY_EVERY: Final = 5.0  # seconds, where there is no terminal
INTERRUPTED: Final = 130  # as the shell has it


@contextlib.contextmanager
def shown_progress(what: str) -> Iterator[Progress]:
    """What is to be told of the bytes: a bar on standard error, or a line now and then where that is no terminal."""
    if not sys.stderr.isatty():
        yield _lines(what)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.text import Text

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(Text(what).markup, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _lines(what: str) -> Progress:
    said = time.monotonic()
    before: int | None = None

    def tell(done: int, total: int | None) -> None:
        nonlocal said, before
        now = time.monotonic()
        if before is None:
            before = done
        if now - said < SAY_EVERY:
            return
        speed = (done - before) / (now - said)
        of = "" if total is None else f" of {size(total)}"
        typer.echo(f"{what}: {size(done)}{of}, {size(int(speed))}/s", err=True)
        said, before = now, done

    return tell


def say_note(note: str) -> None:
    """What holds the work up, on standard error; where a bar is there, above it."""
    sys.stderr.write(f"{note}\n")
    sys.stderr.flush()


def run_interruptible(work: Coroutine[Any, Any, T], advice: str) -> T:
    """The result of the work; Ctrl-C ends it, and the command with status 130 and this advice."""
    try:
        return asyncio.run(_ended_by_interrupt(work))
    except (KeyboardInterrupt, asyncio.CancelledError):
        typer.echo(f"\nStopped. {advice}", err=True)
        raise typer.Exit(INTERRUPTED) from None


async def _ended_by_interrupt(work: Coroutine[Any, Any, T]) -> T:
    """Cancelled by SIGINT, which wakes the loop up.

    The one of asyncio.run does not where the signal comes just before the loop begins to wait for a silent server.
    """
    task = asyncio.current_task()
    assert task is not None  # noqa: S101  we are in it
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, task.cancel)
    try:
        return await work
    finally:
        loop.remove_signal_handler(signal.SIGINT)
