"""Reads whole files in a thread: what that gives, how far it is, and an end to it when nobody waits any more."""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

BLOCK: Final = 8 * 1024 * 1024
T = TypeVar("T")
# Is told how many bytes more were read.
Tell = Callable[[int], None]


class _Stopped(Exception):
    """Nobody waits for it any more."""


async def in_thread(function: Callable[[Tell], T], told: Tell | None = None) -> T:
    """What the function gives in a thread. `told` is called in the loop. Cancelled, it waits for the thread to stop."""
    loop = asyncio.get_running_loop()
    stop = threading.Event()

    def tell(count: int) -> None:
        if stop.is_set():
            raise _Stopped
        if told is not None:
            loop.call_soon_threadsafe(told, count)

    running = loop.run_in_executor(None, function, tell)
    try:
        await asyncio.wait([running])
        return running.result()
    finally:
        if not running.done():
            stop.set()
            await asyncio.wait([running])
            running.exception()  # it was stopped; nobody asks why


def digest(path: Path, tell: Tell) -> str:
    """SHA-256 in hex. Raises OSError. Blocks."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            found.update(block)
            tell(len(block))
    return found.hexdigest()


def git_blob(path: Path) -> str:
    """Git's name of a file's content. Raises OSError. Blocks."""
    found = hashlib.sha1(usedforsecurity=False)
    with path.open("rb") as file:
        found.update(b"blob %d\0" % os.fstat(file.fileno()).st_size)
        while block := file.read(BLOCK):
            found.update(block)
    return found.hexdigest()
