"""What systemd is told, on sockets of the test's own."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from manager.notify import Notifier

PATIENCE: Final = 15.0


@pytest.fixture
def address(short_folder: Path) -> str:
    return str(short_folder / "notify")


@pytest.fixture
def systemd(address: str) -> Iterator[socket.socket]:
    """The other side."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(address)
        listening.setblocking(False)
        yield listening


async def heard(systemd: socket.socket) -> list[str]:
    """The lines of the next message."""
    async with asyncio.timeout(PATIENCE):
        return (await asyncio.get_running_loop().sock_recv(systemd, 4096)).decode().splitlines()


async def test_states_are_told_in_order(systemd: socket.socket, address: str) -> None:
    notifier = Notifier(address)
    before = time.monotonic_ns() // 1000
    async with notifier.telling(lambda: ""):
        notifier.starting()
        notifier.ready()
        notifier.reloading()
        notifier.stopping(65.5)
        assert await heard(systemd) == ["STATUS=Starting", "EXTEND_TIMEOUT_USEC=300000000"]
        assert await heard(systemd) == ["READY=1"]
        state, when = await heard(systemd)
        assert state == "RELOADING=1"
        assert before <= int(when.removeprefix("MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000
        assert await heard(systemd) == ["STOPPING=1", "STATUS=Stopping", "EXTEND_TIMEOUT_USEC=65500000"]


async def test_an_abstract_name_is_one_without_a_file() -> None:
    name = f"llamaherd-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(f"\0{name}")
        systemd.setblocking(False)
        notifier = Notifier(f"@{name}")
        async with notifier.telling(lambda: ""):
            notifier.ready()
            assert await heard(systemd) == ["READY=1"]


async def test_it_is_told_that_the_loop_turns_twice_in_the_time_of_the_watchdog(
    systemd: socket.socket, address: str
) -> None:
    loop = asyncio.get_running_loop()
    async with Notifier(address, watchdog=0.2).telling(lambda: "x"):
        began = loop.time()
        for _ in range(4):
            assert await heard(systemd) == ["WATCHDOG=1"]
        assert loop.time() - began >= 0.29


async def test_the_status_is_told_when_it_has_changed(
    systemd: socket.socket, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("manager.notify.STATUS_EVERY", 0.01)
    texts = iter(["one", "one", "one", "two", "two"])
    ended = asyncio.Event()

    def status() -> str:
        text = next(texts, "three")
        if text == "three":
            ended.set()
        return text

    async with Notifier(address).telling(status):
        assert [await heard(systemd) for _ in range(3)] == [["STATUS=one"], ["STATUS=two"], ["STATUS=three"]]
        assert ended.is_set()


async def test_what_finds_the_queue_full_is_told_later_and_in_order(systemd: socket.socket, address: str) -> None:
    notifier = Notifier(address)
    async with notifier.telling(lambda: ""):
        for _ in range(1000):  # more than any queue of datagrams holds (net.unix.max_dgram_qlen)
            notifier.reloading()
        notifier.ready()
        states = [(await heard(systemd))[0] for _ in range(1001)]
    assert states == ["RELOADING=1"] * 1000 + ["READY=1"]


async def test_a_socket_that_is_gone_disturbs_nothing_and_is_logged_once(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    notifier = Notifier(address)
    async with notifier.telling(lambda: ""):
        notifier.ready()
        notifier.reloading()
    assert caplog.text.count("NOTIFY_SOCKET") == 1


async def test_without_a_socket_nothing_is_told_and_nothing_asked() -> None:
    def status() -> str:
        raise AssertionError

    notifier = Notifier("", watchdog=0.01)
    async with notifier.telling(status):
        notifier.starting()
        notifier.ready()
        await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("variables", "watchdog"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "3000000"}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_that_of_the_variables_where_it_is_for_us(
    variables: dict[str, str], watchdog: float | None
) -> None:
    environment = {**variables, "PATH": "/bin"}
    assert Notifier.taken_from(environment).watchdog == watchdog
    assert environment == {"PATH": "/bin"}


async def test_the_variables_are_taken_out_so_that_no_child_speaks_for_us(systemd: socket.socket, address: str) -> None:
    environment = {"NOTIFY_SOCKET": address}
    notifier = Notifier.taken_from(environment)
    assert environment == {}
    async with notifier.telling(lambda: ""):
        notifier.ready()
        assert await heard(systemd) == ["READY=1"]
