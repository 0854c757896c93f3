"""Which addresses are of the public internet, and look-ups that never come back."""

from __future__ import annotations

import asyncio
import socket
import threading
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from manager.public_hosts import LOOK_UPS, is_public, look_up


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("::ffff:8.8.8.8", True),
        ("64:ff9b::8.8.8.8", True),
        ("2002:808:808::1", True),
        ("168.63.129.17", True),
        ("192.88.98.1", True),
        *(
            (address, False)
            for address in (
                *("127.0.0.1", "127.9.9.9", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254"),  # noqa: S104
                *("100.64.0.1", "192.0.2.1", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255"),
                *("::", "::1", "fe80::1", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "ff0e::1", "2001:db8::1"),
                *("::ffff:127.0.0.1", "::ffff:169.254.169.254", "::7f00:1", "64:ff9b::10.0.0.1", "64:ff9b:1::808:808"),
                *(
                    "192.88.99.1",
                    "192.88.99.255",
                    "3fff::1",
                    "3fff:fff:ffff::1",
                    "168.63.129.16",
                    "::ffff:168.63.129.16",
                ),
                *("64:ff9b::192.88.99.1", "2002:a83f:8110::1", "5f00::1", "100::1", "4000::1", "::8.8.8.8"),
                *("2002:a00:1::1", "2002:7f00:1::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "fe80::1%eth0"),
            )
        ),
    ],
)
def test_public_are_addresses_of_the_internet_only(address: str, public: bool) -> None:
    assert is_public(address) is public


def test_this_machines_own_addresses_are_not_public(monkeypatch: pytest.MonkeyPatch) -> None:
    own = {
        "lo": [SimpleNamespace(family=socket.AF_INET, address="127.0.0.1")],
        "eth0": [
            SimpleNamespace(family=psutil.AF_LINK, address="00:16:3e:00:00:01"),
            SimpleNamespace(family=socket.AF_INET, address="8.8.4.4"),
            SimpleNamespace(family=socket.AF_INET6, address="2606:4700::1234"),
            SimpleNamespace(family=socket.AF_INET6, address="2002:909:909::1"),
            SimpleNamespace(family=socket.AF_INET6, address="fe80::1%eth0"),
        ],
    }
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: own)
    carried = ("::ffff:8.8.4.4", "64:ff9b::808:404", "2002:808:404::1")
    for address in ("8.8.4.4", "2606:4700::1234", "2002:909:909::1", *carried):
        assert not is_public(address), address
    for address in ("8.8.4.5", "2606:4700::1235", "2002:909:909::2"):
        assert is_public(address), address


class DeadServers:
    """The system's resolver, which has no answer for names that begin with "dead" until `answer` is set."""

    def __init__(self) -> None:
        self.answer = threading.Event()
        self.ended = threading.Semaphore(0)

    def __call__(self, host: str, port: int, **_: Any) -> list[Any]:
        if not host.startswith("dead"):
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("8.8.8.8", port))]
        assert self.answer.wait(10)
        self.ended.release()
        raise socket.gaierror(socket.EAI_AGAIN, "try again")


@pytest.fixture
def dead(monkeypatch: pytest.MonkeyPatch) -> DeadServers:
    servers = DeadServers()
    monkeypatch.setattr(socket, "getaddrinfo", servers)
    return servers


async def test_names_of_dead_servers_hold_up_no_others_and_are_so_many_at_most(dead: DeadServers) -> None:
    waiting = [asyncio.create_task(look_up(f"dead{n}.test", 443)) for n in range(LOOK_UPS - 1)]
    await asyncio.sleep(0)
    assert await look_up("alive.test", 443) == ["8.8.8.8"]
    waiting.append(asyncio.create_task(look_up("dead.test", 443)))
    await asyncio.sleep(0)
    for task in waiting[:5]:
        task.cancel()
    with pytest.raises(OSError, match="too many"):  # nobody waits for those any more, but they still run
        await look_up("alive.test", 443)
    dead.answer.set()
    done = await asyncio.gather(*waiting, return_exceptions=True)
    assert {type(one) for one in done[5:]} == {socket.gaierror}
    assert {type(one) for one in done[:5]} == {asyncio.CancelledError}
    await asyncio.to_thread(lambda: [dead.ended.acquire(timeout=10) for _ in waiting])
    assert await look_up("alive.test", 443) == ["8.8.8.8"]


async def test_a_name_that_is_none_is_told_so() -> None:
    with pytest.raises(UnicodeError):
        await look_up("x" * 64 + ".test", 443)
