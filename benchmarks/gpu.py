"""Measures one model through the service, on the GPU and on the CPU: what its users get. See scripts/gpu_check.py."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from benchmarks.gpu_judging import FREED_SLACK, FREED_WITHIN, OnGpu, Token
from benchmarks.targets import ROOT, logged, process
from manager.auth import KeyStore
from manager.builds.smoke import OFFLOADED
from manager.engines.llama.native import drives_cuda
from manager.memory_free import Gpus, gpus

PROMPTS: Final = (
    "What is the capital of France?",
    "Count from one to ten.",
    "Write a sentence about the sea.",
    "Explain in two sentences why the sky is blue.",
    "List three fruits.",
)
STREAMS: Final = (1, 8, 32)
COMPARED: Final = 48  # tokens of an answer
WINDOW: Final = 512  # of one stream, in tokens
CPU, GPU = "on-cpu", "on-gpu"
_STEP: Final = 0.02
_WRITTEN_WITHIN: Final = 5.0  # seconds until a line of an engine is in its file


@dataclass(frozen=True, slots=True)
class Service:
    """A running service with the model twice, once for each side."""

    url: str
    key: str
    size: int  # bytes of the model's file
    log: Path  # of the second model's engine

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """What the service answers, from JSON. Raises RuntimeError for any status but 200."""
        address = urlsplit(self.url)
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=600)
        with contextlib.closing(connection):
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            text = answer.read()
            if answer.status != 200:
                raise RuntimeError(f"{method} {path}: {answer.status} {text[:500].decode('utf-8', 'replace')}")
            return json.loads(text)

    def answer(self, model: str, prompt: str, tokens: int, **more: Any) -> Any:
        """One answer at temperature 0, which no earlier prompt helps."""
        asked = {"model": model, "messages": [{"role": "user", "content": prompt}], "max_tokens": tokens}
        return self.ask("POST", "/v1/chat/completions", {**asked, "temperature": 0, "cache_prompt": False, **more})


def require_gpu(nvidia: Gpus | None = None, binary: Path | None = None) -> None:
    """Raise RuntimeError where there is no NVIDIA GPU, or `binary` says that it would use none."""
    if not (nvidia or gpus()).free():
        raise RuntimeError("no NVIDIA GPU")
    if binary is not None and not drives_cuda(binary):
        raise RuntimeError(f"no NVIDIA GPU for {binary}: its --list-devices names none of CUDA")


@contextlib.contextmanager
def service(binary: Path, model: Path, *, gpu: bool) -> Iterator[Service]:
    """`gpu`: whether the second of the two models has all its layers there; else both are on the CPU."""
    with tempfile.TemporaryDirectory(prefix="lh-gpu-") as name:
        folder = Path(name)
        data = folder / "data"
        data.mkdir()
        params = {"model": str(model), "ctxSize": WINDOW, "parallel": max(STREAMS), "repeatPenalty": 1}
        on_cpu = {**params, "gpuLayers": 0, "device": "none"}
        on_gpu = {**params, "gpuLayers": -1} if gpu else on_cpu
        (data / "models.json").write_text(json.dumps({CPU: {"params": on_cpu}, GPU: {"params": on_gpu}}))
        keys = KeyStore(data / "keys.json")
        keys.load()
        key, _ = keys.create("gpu check", "made for one run", ("inference", "admin"))
        settings = {
            "LLAMAHERD_SERVER__PORT": "0",
            "LLAMAHERD_STORAGE__DATA_FOLDER": str(data),
            "LLAMAHERD_STORAGE__SLOTS_BUDGET": "0",
            "LLAMAHERD_LLAMA__LAUNCHER": "native",
            "LLAMAHERD_LLAMA__BINARY": str(binary),
            "LLAMAHERD_LLAMA__LOG_LEVEL": "trace",  # tells how many layers went to the GPU
            "LLAMAHERD_LOG__FOLDER": str(folder / "logs"),
            "LLAMAHERD_LOG__MAX_SIZE": str(1 << 30),  # what the load said is not put away
            "LLAMAHERD_SCHEDULING__MOST_LOADED": "1",
            "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
            **{name: value for name, value in os.environ.items() if name.startswith(("CUDA_", "NVIDIA_"))},
        }
        argv = [sys.executable, "-m", "manager.cli", "serve"]
        with process("service", argv, settings, folder):
            url = logged(folder / "service.log", re.compile(r"listening urls=(http://\S+)"))
            yield Service(url, key, model.stat().st_size, folder / "logs" / f"{GPU}.log")


def texts(there: Service, model: str) -> list[list[Token]]:
    """The answer to each prompt, with what was likely at each place."""
    found = []
    for prompt in PROMPTS:
        answer = there.answer(model, prompt, COMPARED, logprobs=True, top_logprobs=10)
        found.append([_token(one) for one in answer["choices"][0]["logprobs"]["content"]])
    return found


def _token(told: dict[str, Any]) -> Token:
    return Token(told["token"], told["logprob"], {one["token"]: one["logprob"] for one in told["top_logprobs"]})


def speeds(there: Service, model: str, tokens: int) -> dict[int, float]:
    """Tokens per second of all together, from the first request to the last answer, by the number of streams."""
    there.answer(model, "Hello", 8)
    return {streams: _speed(there, model, streams, tokens) for streams in STREAMS}


def _speed(there: Service, model: str, streams: int, tokens: int) -> float:
    made: list[int] = []
    failed: list[Exception] = []

    def stream(number: int) -> None:
        try:
            answer = there.answer(model, f"Story {number}: once upon a time", tokens, ignore_eos=True)
            made.append(answer["usage"]["completion_tokens"])
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=stream, args=(number,)) for number in range(streams)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise RuntimeError(f"{len(failed)} of {streams} streams failed: {failed[0]}")
    return sum(made) / (time.perf_counter() - began)


class OnGpuWatch:
    """NVML before the load, while the model is there, and after it has gone."""

    def __init__(self, there: Service) -> None:
        self._there = there
        self._before = _free()

    def look(self) -> OnGpu:
        """To be called while the model is loaded and was used; unloads it."""
        details = self._there.ask("GET", f"/admin/models/{GPU}")
        layers = self._layers()
        estimate = sum(size for device, size in details["estimate"]["devices"].items() if device.startswith("gpu"))
        by_process = gpus().used({details["pid"]})
        missing = sum(self._before) - sum(_free())
        taken = sum(by_process.values()) if by_process else missing
        self._there.ask("POST", "/unloadModel", {"model": GPU})
        return OnGpu(
            estimate=estimate,
            taken=taken if self._before else None,
            file_size=self._there.size,
            layers=layers,
            freed_after=self._freed_after(),
        )

    def _layers(self) -> tuple[int, int] | None:
        """By the file of its log: /admin/models/ID/logs has the last lines only, and the load was long ago."""
        until = time.perf_counter() + _WRITTEN_WITHIN
        while True:
            with contextlib.suppress(FileNotFoundError):
                found = OFFLOADED.search(self._there.log.read_text(errors="replace"))
                if found:
                    return int(found[1]), int(found[2])
            if time.perf_counter() > until:
                return None
            time.sleep(_STEP)

    def _freed_after(self) -> float | None:
        began = time.perf_counter()
        while (passed := time.perf_counter() - began) <= FREED_WITHIN:
            if sum(_free()) >= sum(self._before) - FREED_SLACK:
                return passed
            time.sleep(_STEP)
        return None


def _free() -> Sequence[int]:
    """Bytes of each GPU."""
    return [gpu.free for gpu in gpus().free()]
