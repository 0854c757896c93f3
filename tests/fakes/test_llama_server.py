"""What the fake promises to the tests that lean on it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.fakes import write_binary

KEY = {"Authorization": "Bearer k"}
CHAT = {"messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "one two three"}]}


class Fake:
    """A running fake and a client of it."""

    def __init__(self, process: asyncio.subprocess.Process, socket: Path, client: aiohttp.ClientSession) -> None:
        self.process = process
        self.socket = socket
        self.client = client

    async def listening(self) -> None:
        async with asyncio.timeout(5):
            while True:  # the socket's file is there before anyone listens on it
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_unix_connection(self.socket)
                    return writer.close()
                await asyncio.sleep(0.005)

    async def ready(self) -> None:
        await self.listening()
        async with asyncio.timeout(5):
            while (await self.get("/health"))[0] != 200:  # noqa: ASYNC110 - it tells no one when it is ready
                await asyncio.sleep(0.005)

    async def get(self, path: str, **options: Any) -> tuple[int, Any]:
        async with self.client.get(f"http://fake{path}", **{"headers": KEY, **options}) as response:
            return response.status, await response.json()

    async def post(self, path: str, body: Any, **options: Any) -> tuple[int, Any]:
        async with self.client.post(f"http://fake{path}", **{"headers": KEY, "json": body, **options}) as response:
            return response.status, await response.json()

    async def stream(self, body: dict[str, Any]) -> AsyncGenerator[str, None]:
        async with self.client.post(
            "http://fake/v1/chat/completions", json={**body, "stream": True}, headers=KEY
        ) as response:
            async for line in response.content:
                if line.startswith(b"data: "):
                    yield line[6:].decode().strip()

    async def text(self, body: dict[str, Any]) -> str:
        """The text of a stream that must come to its end."""
        frames = [frame async for frame in self.stream(body)]
        assert frames[-1] == "[DONE]"
        parts = [json.loads(frame)["choices"] for frame in frames[:-1]]
        return "".join(choice["delta"].get("content") or "" for choices in parts for choice in choices)


@asynccontextmanager
async def running(folder: Path, *, argv: tuple[str, ...] = (), **knobs: Any) -> AsyncIterator[Fake]:
    socket = folder / "child.sock"
    binary = write_binary(folder, **knobs)
    process = await asyncio.create_subprocess_exec(
        binary,
        "--host",
        str(socket),
        "--model",
        "m.gguf",
        "--no-webui",
        *argv,
        env={"LLAMA_API_KEY": "k"},
        stderr=asyncio.subprocess.DEVNULL,
    )
    connector = aiohttp.UnixConnector(path=str(socket))
    async with aiohttp.ClientSession(connector=connector) as client:
        try:
            yield Fake(process, socket, client)
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def test_healthy_fake_answers_in_llama_server_shapes(tmp_path: Path) -> None:
    async with running(tmp_path, argv=("--alias", "tiny", "-np", "2", "-c", "64")) as fake:
        await fake.ready()
        assert await fake.post("/tokenize", {"content": "one two three"}) == (200, {"tokens": [0, 1, 2]})
        status, body = await fake.post("/apply-template", CHAT)
        assert (status, len(body["prompt"].split())) == (200, 8)
        status, body = await fake.post("/v1/chat/completions", CHAT)
        assert body["choices"][0]["message"]["content"] == "one two three"
        assert (status, body["model"], body["echo"]) == (200, "tiny", CHAT["messages"])
        assert body["usage"] == {"prompt_tokens": 8, "completion_tokens": 3, "total_tokens": 11}
        assert await fake.text(CHAT) == "one two three"
        status, slots = await fake.get("/slots")
        assert [slot["is_processing"] for slot in slots] == [False, False]
        status, body = await fake.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "a " * 40}]})
        assert (status, body["error"]["type"]) == (400, "exceed_context_size_error")
        fake.process.send_signal(signal.SIGTERM)
        assert await fake.process.wait() == 0


async def test_embeddings_are_made_where_the_start_says_so(tmp_path: Path) -> None:
    async with running(tmp_path, argv=("--embedding",)) as fake:
        await fake.ready()
        status, body = await fake.post("/v1/embeddings", {"input": ["one two", [5]]})
        assert (status, [one["embedding"] for one in body["data"]]) == (200, [[2.0], [1.0]])


async def test_embeddings_are_refused_elsewhere(tmp_path: Path) -> None:
    async with running(tmp_path) as fake:
        await fake.ready()
        status, body = await fake.post("/v1/embeddings", {"input": "one"})
        assert (status, body["error"]["type"]) == (501, "not_supported_error")


async def test_key_is_asked_for_everywhere_but_on_health(tmp_path: Path) -> None:
    async with running(tmp_path) as fake:
        await fake.ready()
        assert (await fake.get("/health", headers={}))[0] == 200
        assert (await fake.get("/props", headers={}))[0] == 401
        assert (await fake.get("/props"))[0] == 200


async def test_gate_holds_the_load(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    async with running(tmp_path, gate=gate) as fake:
        await fake.listening()
        status, body = await fake.get("/props")
        assert (status, body["error"]["message"]) == (503, "Loading model")
        gate.touch()
        await fake.ready()


async def test_foreign_server_takes_any_key(tmp_path: Path) -> None:
    async with running(tmp_path, foreign=True) as fake:
        await fake.listening()
        assert (await fake.get("/props", headers={"Authorization": "Bearer wrong"}))[0] == 200


async def test_socket_path_that_exists_ends_the_start(tmp_path: Path) -> None:
    (tmp_path / "child.sock").touch()
    async with running(tmp_path) as fake:
        assert await fake.process.wait() == 1


@pytest.mark.parametrize("knobs", [{"exit_on_start": {"code": 7}}, {"exit_during_load": {"after": 0, "code": 7}}])
async def test_planned_exit_has_its_code(tmp_path: Path, knobs: dict[str, Any]) -> None:
    async with running(tmp_path, **knobs) as fake:
        assert await fake.process.wait() == 7


async def test_ignored_sigterm_leaves_it_running(tmp_path: Path) -> None:
    async with running(tmp_path, ignore_sigterm=True) as fake:
        await fake.ready()
        fake.process.send_signal(signal.SIGTERM)
        await fake.ready()
        assert fake.process.returncode is None


async def test_grandchild_outlives_it(tmp_path: Path) -> None:
    async with running(tmp_path, fork_grandchild=tmp_path / "pid") as fake:
        await fake.ready()
    pid = int((tmp_path / "pid").read_text())
    os.kill(pid, signal.SIGKILL)  # ProcessLookupError where it was gone


async def test_it_is_healthy_after_its_faulty_starts(tmp_path: Path) -> None:
    counter = tmp_path / "starts"
    knobs: dict[str, Any] = {"start_counter": counter, "faulty_starts": 1, "exit_on_start": {"code": 3}}
    async with running(tmp_path, **knobs) as fake:
        assert await fake.process.wait() == 3
    async with running(tmp_path, **knobs) as fake:
        await fake.ready()
        assert counter.read_text().splitlines()[1] == str(fake.process.pid)


async def test_stream_gate_holds_it_after_the_first_token(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    async with running(tmp_path, stream_gate=gate, chunks=3) as fake:
        await fake.ready()
        frames = fake.stream(CHAT)
        await anext(frames)
        assert json.loads(await anext(frames))["choices"][0]["delta"] == {"content": "one"}
        assert (await fake.get("/slots"))[1][0]["is_processing"] is True
        gate.touch()
        assert [frame async for frame in frames][-1] == "[DONE]"


async def test_client_that_leaves_is_noticed_at_once(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    async with running(tmp_path, stall_stream_after=1, disconnect_log=gone) as fake:
        await fake.ready()
        frames = fake.stream(CHAT)
        await anext(frames)
        await fake.client.close()
        async with asyncio.timeout(2):
            while not gone.exists():  # noqa: ASYNC110 - another process writes it
                await asyncio.sleep(0.005)


async def test_death_mid_stream_is_a_sigkill(tmp_path: Path) -> None:
    async with running(tmp_path, die_mid_stream=2) as fake:
        await fake.ready()
        with pytest.raises(aiohttp.ClientError):
            await fake.text(CHAT)
        assert await fake.process.wait() == -signal.SIGKILL


@pytest.mark.parametrize("knobs", [{"cut_stream_after": 1}, {"bad_http": True}])
async def test_broken_stream_breaks_the_client(tmp_path: Path, knobs: dict[str, Any]) -> None:
    async with running(tmp_path, **knobs) as fake:
        await fake.ready()
        with pytest.raises(aiohttp.ClientError):
            await fake.text(CHAT)


async def test_error_frame_ends_the_stream_without_done(tmp_path: Path) -> None:
    async with running(tmp_path, error_stream_after=1) as fake:
        await fake.ready()
        frames = [frame async for frame in fake.stream(CHAT)]
        assert json.loads(frames[-1])["error"]["code"] == 500


async def test_truncated_body_breaks_the_client(tmp_path: Path) -> None:
    async with running(tmp_path, truncated_body=True) as fake:
        await fake.ready()
        with pytest.raises(aiohttp.ClientPayloadError):
            await fake.post("/tokenize", {"content": "a"})


async def test_faulty_requests_bounds_the_faults(tmp_path: Path) -> None:
    async with running(tmp_path, error_status=500, faulty_requests=1) as fake:
        await fake.ready()
        assert [(await fake.post("/tokenize", {"content": "a"}))[0] for _ in range(3)] == [500, 200, 200]


async def test_faults_on_a_probe_where_asked(tmp_path: Path) -> None:
    async with running(tmp_path, error_status=500, faults_on=["/props"]) as fake:
        await fake.ready()
        assert (await fake.get("/props"))[0] == 500
        assert (await fake.post("/tokenize", {"content": "a"}))[0] == 200


async def test_connection_is_dropped_without_an_answer_on_reuse(tmp_path: Path) -> None:
    log = tmp_path / "log"
    async with running(tmp_path, drop_after=1, requests_log=log) as fake:
        await fake.listening()
        reader, writer = await asyncio.open_unix_connection(fake.socket)
        request = b"GET /health HTTP/1.1\r\nHost: fake\r\n\r\n"
        writer.write(request)
        await reader.readuntil(b"ok")
        writer.write(request)
        assert await reader.read() == b'"}'
        writer.close()
        line = json.loads(log.read_text())
        assert (line["method"], line["path"], line["headers"], line["body"]) == (
            "GET",
            "/health",
            {"host": "fake"},
            None,
        )


@pytest.mark.parametrize("silently", [False, True])
async def test_connection_is_closed_after_its_requests(tmp_path: Path, silently: bool) -> None:
    async with running(tmp_path, close_after=1, close_silently=silently) as fake:
        await fake.listening()
        reader, writer = await asyncio.open_unix_connection(fake.socket)
        writer.write(b"GET /health HTTP/1.1\r\nHost: fake\r\n\r\n")
        answer = await reader.read()
        writer.close()
        assert (b"Connection: close" in answer) is not silently


def test_unknown_knob_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        write_binary(tmp_path, no_such_knob=1)
