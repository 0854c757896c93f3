"""Blocking work that may never come back, as of a driver that hangs: in threads that hold up no end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


async def in_daemon_thread(work: Callable[[], T], name: str) -> T:
    """As asyncio.to_thread, but neither the event loop nor the process waits at its end for a thread of these."""
    done: Future[T] = Future()
    done.set_running_or_notify_cancel()
    threading.Thread(target=_run, args=(work, done), name=name, daemon=True).start()
    return await asyncio.wrap_future(done)


def _run(work: Callable[[], T], done: Future[T]) -> None:
    try:
        result = work()
    except BaseException as error:  # whoever waits gets it
        done.set_exception(error)
    else:
        done.set_result(result)
