"""A crowd: thousands of idle connections and hundreds of streams at once, and nothing left of them afterwards."""

from __future__ import annotations

import asyncio
import json
import os
import resource
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil
import pytest

from tests.e2e.service import Service, running, seconds_until
from tests.routes.stage import CHAT, Stage

IDLE: Final = 2000
STREAMS: Final = 200
# How long each stream takes. 60 makes a proof of it.
SECONDS: Final = float(os.environ.get("CROWD_SECONDS", "4"))
TOKEN_EVERY: Final = 0.25
# Files of this process for its side of the connections, and for what it has open besides.
FILES: Final = IDLE + STREAMS + 500
USUAL: Final = 1024  # what most systems let a process open at first: the service has to ask for more
# What the service may have more after a crowd than before, when one like it has been there: bytes, and files.
MORE_MEMORY: Final = 8 * 1024**2
MORE_FILES: Final = 5
PATIENCE: Final = 60.0
PING: Final = b"GET /ping HTTP/1.1\r\nHost: localhost\r\n\r\n"


@dataclass(frozen=True)
class Footprint:
    """What the service takes; without its children."""

    memory: int  # bytes, shared pages in proportion
    files: int

    @classmethod
    def of(cls, service: Service) -> Footprint:
        process = psutil.Process(service.process.pid)
        return cls(process.memory_full_info().pss, process.num_fds())


@pytest.fixture
def files() -> Iterator[Callable[[int], None]]:
    """Sets how many files this process may open, and those that it starts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < FILES:
        pytest.skip(f"a process may have only {hard} files open here; this needs {FILES} (ulimit -Hn)")
    yield lambda most: resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def service(files: Callable[[int], None], tmp_path: Path) -> Iterator[Service]:
    stage = Stage(tmp_path)
    fake = stage.model("alpha", params={"parallel": STREAMS})
    fake.knobs(chunk_delay=TOKEN_EVERY)
    root = str(Path(__file__).parent.parent.parent)
    files(USUAL)
    with running(tmp_path, {**stage.variables(), "PYTHONPATH": root}) as service:
        files(FILES)
        yield service
        assert "Traceback" not in service.log


def port_of(service: Service) -> int:
    return int(service.url.rpartition(":")[2])


class Idle:
    """A connection that was used once, and stays."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def ping(self) -> None:
        self._writer.write(PING)
        async with asyncio.timeout(PATIENCE):
            assert (await self._reader.readuntil(b"pong")).startswith(b"HTTP/1.1 200 ")

    async def close(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()


async def idle_connections(port: int) -> list[Idle]:
    connections = []
    for _ in range(IDLE // 100):
        opened = await asyncio.gather(*(asyncio.open_connection("127.0.0.1", port) for _ in range(100)))
        connections += [Idle(reader, writer) for reader, writer in opened]
    await asyncio.gather(*(connection.ping() for connection in connections))
    return connections


async def stream(service: Service, number: int, tokens: int) -> None:
    """One answer, which must be whole and its own."""
    words = [f"{number}-{index}" for index in range(tokens)]
    body = json.dumps({"stream": True, "messages": [{"role": "user", "content": " ".join(words)}]}).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {service.key}\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(service))
    writer.write(f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
    async with asyncio.timeout(PATIENCE + tokens * TOKEN_EVERY):
        said = await reader.read()
    writer.close()
    await writer.wait_closed()
    frames = [line[6:] for line in said.split(b"\n") if line.startswith(b"data: ")]
    assert frames[-1] == b"[DONE]", said[-300:]
    deltas = [json.loads(frame)["choices"][0]["delta"] for frame in frames[:-1] if b'"delta"' in frame]
    assert "".join(delta.get("content") or "" for delta in deltas) == " ".join(words)


async def crowd(service: Service, seconds: float) -> list[float]:
    """All at once; returns how long a request of somebody else took meanwhile, each in seconds."""
    idle = await idle_connections(port_of(service))
    tokens = max(1, int(seconds / TOKEN_EVERY))
    streams = asyncio.gather(*(stream(service, number, tokens) for number in range(STREAMS)))
    loop = asyncio.get_running_loop()
    waits: list[float] = []
    while not streams.done():
        began = loop.time()
        await idle[len(waits) % IDLE].ping()
        waits.append(loop.time() - began)
        await asyncio.wait({streams}, timeout=0.05)
    await streams
    await asyncio.gather(*(connection.ping() for connection in idle))  # nobody was cut off
    await asyncio.gather(*(connection.close() for connection in idle))
    return waits


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(2 * PATIENCE + 2 * SECONDS)
async def test_a_crowd_is_served_whole_and_leaves_nothing(service: Service) -> None:
    await crowd(service, 0.5)  # what Python and the allocator take for the first crowd they keep for the next
    await asyncio.to_thread(lambda: seconds_until(lambda: Footprint.of(service).files < STREAMS))
    before = Footprint.of(service)
    waits = sorted(await crowd(service, SECONDS))
    await asyncio.to_thread(lambda: seconds_until(lambda: Footprint.of(service).files <= before.files + MORE_FILES))
    after = Footprint.of(service)
    print(  # noqa: T201  the figures of a proof (pytest -s)
        f"crowd of {SECONDS:g} s: memory {before.memory / 2**20:.1f} -> {after.memory / 2**20:.1f} MiB, files "
        f"{before.files} -> {after.files}, others waited {waits[len(waits) // 2] * 1000:.2f} ms, at most "
        f"{waits[-1] * 1000:.1f} ms ({len(waits)} requests)"
    )
    assert after.memory - before.memory < MORE_MEMORY
    assert waits[len(waits) * 9 // 10] < 1.0
