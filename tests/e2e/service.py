"""The service as a process: started with the command line, spoken to over HTTP, its children looked at from outside."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

import psutil

from manager.auth import KeyStore
from manager.settings_layers import EXACT_NAMES, PREFIX

# Far above what anything here takes on an idle machine; other work may slow it down a lot.
PATIENCE: Final = 60.0
POLL: Final = 0.005
WITHOUT_KEYS: Final[Mapping[str, str]] = MappingProxyType(dict.fromkeys(("full", "inference", "admin"), ""))


class Service:
    """A running service. `key` may do everything; there is one key for each scope beside it."""

    def __init__(self, process: subprocess.Popen[str], keys: Mapping[str, str]) -> None:
        self.process = process
        self.keys = keys
        self.key, self.inference_key, self.admin_key = keys["full"], keys["inference"], keys["admin"]
        self._lines: list[str] = []
        self._more = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()
        self.url = self.wait_for_log(r"listening urls=(\S+)")[1]
        self.port = int(self.url.rpartition(":")[2])

    @property
    def openai_url(self) -> str:
        return f"{self.url}/v1"

    @property
    def log(self) -> str:
        with self._more:
            return "".join(self._lines)

    def wait_for_log(self, pattern: str) -> re.Match[str]:
        """The first line that matches; AssertionError with the log where none comes."""
        with self._more:
            self._more.wait_for(lambda: self._ended or self._found(pattern), timeout=PATIENCE)
            found = self._found(pattern)
        assert found, f"no line matches {pattern!r}:\n{self.log}"
        return found

    def started(self, model: str) -> int:
        """How often the model was started so far."""
        return len(re.findall(rf"model={re.escape(model)} state=starting\b", self.log))

    def child(self, model: str) -> psutil.Process:
        """The process that runs this model now."""
        return next(child for child in self.children() if _is_named(_command_of(child), model))

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def slots(self, model: str) -> Slots:
        """The slots of the process that runs this model now."""
        child = self.child(model)
        path = re.search(r'[^\s"]+\.sock', " ".join(_command_of(child)))
        assert path
        return Slots(path[0], child.environ()["LLAMA_API_KEY"])

    def stop(self) -> int:
        """End it as a user would; returns the exit status. AssertionError where a process of it stays."""
        children = self.children() if self.process.poll() is None else []
        self.process.terminate()
        return self.wait_ended(children)

    def wait_ended(self, children: list[psutil.Process]) -> int:
        """Wait for the end that was asked for, of the service and of the children that it had."""
        try:
            status = self.process.wait(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"the service did not end:\n{self.log}") from None
        finally:
            # A service that ended by itself has reaped them before.
            left = psutil.wait_procs(children, timeout=5 if self.process.poll() == -signal.SIGKILL else 0.5)[1]
            for child in left:
                child.kill()
            self._reader.join(timeout=PATIENCE)
            assert self.process.stderr is not None
            self.process.stderr.close()
        assert not left, f"processes are left: {left}"
        return status

    def _found(self, pattern: str) -> re.Match[str] | None:
        return next((found for line in self._lines if (found := re.search(pattern, line))), None)

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._more:
                self._lines.append(line)
                self._more.notify_all()
        with self._more:
            self._ended = True
            self._more.notify_all()


@contextlib.contextmanager
def running(
    folder: Path, environment: Mapping[str, str], *, port: int = 0, keys: Mapping[str, str] | None = None
) -> Iterator[Service]:
    """A service with `folder` as its current directory and its models.json in `data`; it is stopped at the end.

    `keys` are those that it has already, WITHOUT_KEYS for one that asks for none; else they are made.
    """
    tokens = keys if keys is not None else _make_keys(folder / "data" / "keys.json")
    process = subprocess.Popen(
        [sys.executable, "-m", "manager.cli", "serve", "--port", str(port)],
        cwd=folder,
        env={**_environment(), **environment},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        service = Service(process, tokens)
    except BaseException:
        process.kill()
        process.wait()
        raise
    try:
        yield service
    finally:
        if process.poll() is None:
            service.stop()


def _make_keys(file: Path) -> dict[str, str]:
    store = KeyStore(file)
    scopes = {"full": ("inference", "admin"), "inference": ("inference",), "admin": ("admin",)}
    return {name: store.create(name, "", of)[0] for name, of in scopes.items()}


def seconds_until(condition: Callable[[], bool]) -> float:
    """How long from now until the condition holds; AssertionError where it never does."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < PATIENCE, "it never came true"
        time.sleep(POLL)
    return time.monotonic() - started


def _environment() -> dict[str, str]:
    """Ours without any setting of the service and without llama.cpp's own."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith((PREFIX, "LLAMA_")) and name not in EXACT_NAMES
    }


def _command_of(child: psutil.Process) -> list[str]:
    try:
        return child.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return []


def _is_named(command: list[str], model: str) -> bool:
    # Native: an argument of its own; embedded: a string within one argument of JSON.
    return any(part == model or f'"{model}"' in part for part in command)


class Slots:
    """What a model's process itself says of its slots."""

    def __init__(self, path: str, key: str) -> None:
        self.path = path
        self.key = key

    def busy(self) -> int:
        """How many are at work."""
        connection = _UnixConnection(self.path)
        try:
            connection.request("GET", "/slots", headers={"Authorization": f"Bearer {self.key}"})
            slots = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        return sum(slot["is_processing"] for slot in slots)

    def seconds_until_free(self) -> float:
        """How long from now until none is at work."""
        return seconds_until(lambda: not self.busy())


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=PATIENCE)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)
