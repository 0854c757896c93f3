"""What is measured: a child by itself, the service before such a child, and llama.cpp's own router before one."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import secrets
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from benchmarks.load import Case, Target
from manager.auth import KeyStore
from manager.engines.llama.arguments import LlamaArgs

MODEL: Final = "tiny"
MOCK: Final = Path(__file__).with_name("mock_child.py")
ROOT: Final = Path(__file__).parents[1]
HOST: Final = "127.0.0.1"
START_LIMIT: Final = 60.0
STOP_LIMIT: Final = 15.0
CLOSE_WAIT: Final = 0.5  # how long after an answer a close may come
# The window of one conversation, in tokens of the tiny model (a token is a byte).
WINDOW: Final = 1024
# More would wait for each other at every layer of so small a model, and for the load generator's core.
THREADS: Final = 1

Kind = Literal["native", "embedded", "mock"]


@dataclass(frozen=True, slots=True)
class Child:
    """How the child is started, alike for itself, the service and the router."""

    kind: Kind
    model: Path
    slots: int
    binary: Path | None = None  # of a native llama-server

    def argv(self, port: int) -> list[str]:
        """A child that listens on a TCP port: wrk can't do Unix sockets."""
        args = LlamaArgs(
            MODEL,
            {
                "model": str(self.model),
                "alias": MODEL,
                "metrics": True,
                "slots": True,
                "web_page": False,
                "ctx_size": WINDOW * self.slots,
                "parallel": self.slots,
                "threads": THREADS,
            },
        )
        if self.kind == "embedded":
            attributes = {**args.attributes(), "hostnames": [HOST], "port": port}
            return [sys.executable, "-m", "manager.engines.llama.embedded", json.dumps(attributes)]
        start = [sys.executable, str(MOCK)] if self.binary is None else [str(self.binary)]
        return [*start, *args.argv(Path("llama-server"))[1:], "--host", HOST, "--port", str(port)]


@contextlib.contextmanager
def straight(child: Child, folder: Path) -> Iterator[Target]:
    """The child by itself."""
    key, port = secrets.token_urlsafe(32), free_port()
    with process("straight", child.argv(port), {"LLAMA_API_KEY": key}, folder) as pid:
        yield _ready(Target("straight", f"http://{HOST}:{port}", key, pid), folder)


@contextlib.contextmanager
def service(child: Child, folder: Path) -> Iterator[Target]:
    """The service as a user starts it, with a key stored and everything on, before a child of its own."""
    data = folder / "data"
    data.mkdir()
    entry = {"params": {"model": str(child.model), "ctxSize": WINDOW, "parallel": child.slots, "threads": THREADS}}
    (data / "models.json").write_text(json.dumps({MODEL: entry}))
    keys = KeyStore(data / "keys.json")
    keys.load()
    key, _ = keys.create("benchmark", "made for one run", ("inference",))
    launcher = {"LLAMAHERD_LLAMA__LAUNCHER": "embedded" if child.kind == "embedded" else "native"}
    if child.kind != "embedded":
        launcher["LLAMAHERD_LLAMA__BINARY"] = str(child.binary or _mock_binary(folder))
    settings = {"LLAMAHERD_SERVER__PORT": "0", "LLAMAHERD_STORAGE__DATA_FOLDER": str(data), **launcher}
    with process("service", [sys.executable, "-m", "manager.cli", "serve"], settings, folder) as pid:
        url = logged(folder / "service.log", re.compile(r"listening urls=(http://\S+)"))
        yield _ready(Target("service", url, key, pid), folder)


@contextlib.contextmanager
def router(child: Child, folder: Path) -> Iterator[Target]:
    """llama.cpp's own router, which starts a child per model of a folder."""
    assert child.binary is not None  # noqa: S101 - only a native llama-server has a router
    models = folder / "models"
    models.mkdir()
    shutil.copy(child.model, models / f"{MODEL}.gguf")
    key, port = secrets.token_urlsafe(32), free_port()
    argv = [str(child.binary), "--models-dir", str(models), "--host", HOST, "--port", str(port), "--no-webui"]
    size = ["--ctx-size", str(WINDOW * child.slots), "--parallel", str(child.slots), "--threads", str(THREADS)]
    with process("router", [*argv, *size], {"LLAMA_API_KEY": key}, folder) as pid:
        yield _ready(Target("router", f"http://{HOST}:{port}", key, pid), folder)


def tried(target: Target, case: Case) -> Case:
    """Ask once: the case with its tokens, and whether the target closes the connection after its answer.

    RuntimeError where it is no good answer.
    """
    with contextlib.closing(_connect(target)) as connection:
        status, answer = _ask(connection, target, case)
        if status != 200:
            raise RuntimeError(f"{target.name}: {case.path} answered {status}: {answer[:300]}")
        used = re.findall(r'"completion_tokens": ?(\d+)', answer)
        # Nothing more is to come, so a socket that gets readable has been closed.
        closed = connection.sock is None or bool(select.select([connection.sock], [], [], CLOSE_WAIT)[0])
    return replace(case, tokens=int(used[-1]) if used else 0, close=closed)


def _connect(target: Target) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(target.url.removeprefix("http://"), timeout=START_LIMIT)


def _ask(connection: http.client.HTTPConnection, target: Target, case: Case) -> tuple[int, str]:
    headers = {"Authorization": f"Bearer {target.key}", "Content-Type": "application/json"}
    connection.request("POST", case.path, case.body, headers)
    response = connection.getresponse()
    return response.status, response.read().decode("utf-8", "replace")


def _ready(target: Target, folder: Path) -> Target:
    """Wait until a request is answered; that also loads the model where this is done on demand."""
    warm = Case("warm", "/tokenize", json.dumps({"model": MODEL, "content": "ready?"}))
    deadline = time.monotonic() + START_LIMIT
    last = "nothing answered"
    while time.monotonic() < deadline:
        try:
            with contextlib.closing(_connect(target)) as connection:
                status, answer = _ask(connection, target, warm)
        except OSError:
            time.sleep(0.02)
            continue
        if status == 200:
            return target
        last = f"{status} {answer[:300]}"
        time.sleep(0.02)
    log = (folder / f"{target.name}.log").read_text(errors="replace")
    raise RuntimeError(f"{target.name} did not get ready ({last}); its log ends with:\n{log[-2000:]}")


def logged(log: Path, pattern: re.Pattern[str]) -> str:
    """What the first group matches in a growing log."""
    deadline = time.monotonic() + START_LIMIT
    while time.monotonic() < deadline:
        found = pattern.search(log.read_text(errors="replace"))
        if found:
            return found[1]
        time.sleep(0.02)
    raise RuntimeError(f"the service does not listen; its log ends with:\n{log.read_text(errors='replace')[-2000:]}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _mock_binary(folder: Path) -> Path:
    binary = folder / "llama-server"
    binary.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {shlex.quote(str(MOCK))} "$@"\n')
    binary.chmod(0o755)
    return binary


@contextlib.contextmanager
def process(name: str, argv: Sequence[str], environment: dict[str, str], folder: Path) -> Iterator[int]:
    """The pid of a process with its log in `folder`; at the end it, and what it started, is gone."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH") if name in os.environ}
    with (folder / f"{name}.log").open("wb") as log:
        child = subprocess.Popen(
            argv,
            # The folder is empty of .env files; PYTHONPATH makes the modules found from there.
            cwd=folder,
            env={**kept, "PYTHONPATH": str(ROOT), **environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield child.pid
    finally:
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(STOP_LIMIT)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
