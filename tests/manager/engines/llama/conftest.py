"""Real llama.cpp servers for tests: each launcher, started with LlamaArgs on a tiny model, asked over its socket."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from manager.engines.llama.arguments import LlamaArgs
from manager.engines.llama.progress import ASK
from manager.entry import ModelEntry
from tests import launchers
from tests.gguf_files import write_adapter, write_tiny_gguf

KEY: Final = "key-of-this-test"
READY_WITHIN: Final = 30.0


@dataclass(frozen=True)
class Answer:
    status: int
    body: Any


class _SocketConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=20)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Child:
    """One started server and its log."""

    def __init__(self, command: list[str], path: Path, log: Path) -> None:
        self.path = path
        self._log = log
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                env={**os.environ, **ASK, "LLAMA_API_KEY": KEY},
            )

    def ask(self, method: str, path: str, body: Any = None, *, key: str = KEY) -> Answer:
        connection = _SocketConnection(self.path)
        try:
            headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            return Answer(response.status, json.loads(response.read()))
        finally:
            connection.close()

    def wait_ready(self) -> None:
        deadline = time.monotonic() + READY_WITHIN
        while not self._answers():
            assert self.process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.005)

    def log(self) -> list[str]:
        return self._log.read_text(errors="replace").splitlines()

    def say(self, text: bytes) -> None:
        """Write to its stdin, and close that; nothing is only the end."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended already
            self.process.stdin.write(text)
            self.process.stdin.close()

    def told(self) -> bytes:
        """What was on its stdout, now that it has ended."""
        assert self.process.stdout is not None
        return self.process.stdout.read()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()

    def _answers(self) -> bool:
        try:
            return self.ask("GET", "/props").status == 200
        except (OSError, http.client.HTTPException):
            return False


@pytest.fixture(scope="session")
def native_binary() -> Path:
    binary = launchers.native_binary()
    if binary is None:
        pytest.skip("no llama-server: run scripts/test-native, which compiles one")
    return binary


@pytest.fixture(scope="module", params=["native", "embedded"])
def command(request: pytest.FixtureRequest) -> Callable[[LlamaArgs], list[str]]:
    """How each launcher turns options into a command line; a test that uses it runs once for each."""
    if request.param == "embedded":
        return lambda args: [sys.executable, "-P", "-m", "manager.engines.llama.embedded", args.to_json()]
    binary: Path = request.getfixturevalue("native_binary")
    return lambda args: args.argv(binary)


@pytest.fixture(scope="module")
def spawn(
    command: Callable[[LlamaArgs], list[str]], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., AbstractContextManager[Child]]:
    """`with spawn(entry) as child:` starts a server without waiting for it, and kills it in the end."""

    @contextmanager
    def run(entry: ModelEntry, path: Path | None = None) -> Iterator[Child]:
        folder = tmp_path_factory.mktemp("child")
        path = path or folder / "a.sock"
        child = Child(command(LlamaArgs.from_entry(entry, socket=path)), path, folder / "log")
        try:
            yield child
        finally:
            child.end()

    return run


@pytest.fixture(scope="module")
def serve(spawn: Callable[..., AbstractContextManager[Child]]) -> Callable[..., AbstractContextManager[Child]]:
    """Like `spawn`, and the server is ready."""

    @contextmanager
    def run(entry: ModelEntry, path: Path | None = None) -> Iterator[Child]:
        with spawn(entry, path) as child:
            child.wait_ready()
            yield child

    return run


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("model") / "model.gguf")


@pytest.fixture(scope="session")
def adapter_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # With a comma in its path, which llama-server's list of adapters must survive.
    return write_adapter(tmp_path_factory.mktemp("adapter") / "a, b.gguf")
