"""Work in threads that nobody has to wait for."""

from __future__ import annotations

import asyncio
import threading

import pytest

from manager.daemon_thread import in_daemon_thread


async def test_what_it_returns_or_raises_comes_back() -> None:
    assert await in_daemon_thread(lambda: threading.current_thread().name, "work") == "work"
    with pytest.raises(ZeroDivisionError):
        await in_daemon_thread(lambda: 1 / 0, "work")


def test_neither_loop_nor_process_waits_for_it() -> None:
    begun, goes_on, threads = threading.Event(), threading.Event(), list[threading.Thread]()

    def work() -> None:
        threads.append(threading.current_thread())
        begun.set()
        goes_on.wait()

    async def main() -> None:
        task = asyncio.create_task(in_daemon_thread(work, "work"))
        await asyncio.to_thread(begun.wait)
        task.cancel()
        await asyncio.wait({task})

    asyncio.run(main())
    assert threads[0].daemon
    assert threads[0].is_alive()
    goes_on.set()  # its result has nowhere to go, and that is no error
    threads[0].join()
