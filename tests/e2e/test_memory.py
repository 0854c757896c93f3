"""Estimates of memory against the memory of real llama.cpp processes. With -s a table of both is printed."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np
import psutil
import pytest

from manager.engines import UpstreamRequest
from manager.engines.llama.engine import LlamaEngine
from manager.engines.llama.native import Launcher
from manager.entry import LlamaParams, ModelEntry
from manager.memory import estimate
from manager.run_folder import RunFolder
from manager.settings import Settings
from tests.conftest import MakeSettings
from tests.gguf_files import CONTEXT, add_shape, add_tokenizer, matrices, vocabulary, write_tiny_gguf, written

MIB: Final = 1 << 20
# An estimate is never less than this share of what is measured.
LEAST: Final = 0.9
# More than a physical batch, so that the buffers for it have been used; it fills windows of 1,024 tokens.
PROMPT: Final = 980

EIGHT_BIT: Final = {"cache_type_k": "q8_0", "cache_type_v": "q8_0", "flash_attn": "on"}
CASES: Final[tuple[tuple[str, dict[str, Any]], ...]] = (
    ("smol", {"ctx_size": 512, "parallel": 1}),
    ("smol", {"ctx_size": 4096, "parallel": 2}),
    ("smol", {"ctx_size": 8192, "parallel": 4, "kv_unified": True}),
    ("smol", {"ctx_size": 2048, "parallel": 4}),
    ("smol", {"ctx_size": 2048, "parallel": 4, **EIGHT_BIT}),
    ("smol", {"ctx_size": 1024, "parallel": 2, "flash_attn": "off"}),
    ("smol", {"ctx_size": 2048, "parallel": 2, "ubatch_size": 128, "mmap": False}),
    ("tiny", {"ctx_size": 1024, "parallel": 1}),
    ("tiny", {"ctx_size": 8192, "parallel": 4}),
    ("four bits", {"ctx_size": 1024, "parallel": 1}),
    ("four bits", {"ctx_size": 1024, "parallel": 1, "mmap": False}),
)


@dataclass(frozen=True)
class Row:
    launcher: str
    model: str
    params: dict[str, Any]
    expected: int
    measured: int

    @property
    def cells(self) -> tuple[str, ...]:
        settings = ", ".join(f"{name} {value}" for name, value in self.params.items())
        share = f"{100 * (self.expected / self.measured - 1):+.0f}%"
        return self.launcher, self.model, settings, _mib(self.expected), _mib(self.measured), share


@pytest.fixture(scope="module")
def table() -> Iterator[list[Row]]:
    """Printed when all rows are there."""
    rows: list[Row] = []
    yield rows
    lines = [("launcher", "model", "settings", "estimate", "measured", "over"), *(row.cells for row in rows)]
    print()  # noqa: T201
    for line in lines:
        print("| " + " | ".join(line) + " |")  # noqa: T201


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, starter: Path) -> Mapping[str, Path]:
    """Files of our own: pages of one that another process has mapped too would count by half."""
    folder = tmp_path_factory.mktemp("memory")
    shutil.copyfile(starter, folder / "smol.gguf")
    return {
        "smol": folder / "smol.gguf",
        "tiny": write_tiny_gguf(folder / "tiny.gguf"),
        "four bits": write_four_bits(folder / "four.gguf"),
    }


def write_four_bits(path: Path) -> Path:
    """30 MB of zeros in Q4_0, a type of which llama.cpp makes copies."""
    tokens, types = vocabulary()
    width, feed_forward, layers = 1024, 3072, 4
    writer = gguf.GGUFWriter(path, "llama")
    add_tokenizer(writer, tokens, types)
    add_shape(writer, context=CONTEXT, layers=layers, width=width, feed_forward=feed_forward, heads=8)

    def add(name: str, rows: int, columns: int) -> None:
        data = np.zeros((rows, columns // 32 * 18), np.uint8)
        writer.add_tensor(f"{name}.weight", data, raw_dtype=gguf.GGMLQuantizationType.Q4_0)

    add("token_embd", len(tokens), width)
    add("output", len(tokens), width)
    writer.add_tensor("output_norm.weight", np.ones(width, np.float32))
    for layer in range(layers):
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{norm}.weight", np.ones(width, np.float32))
        for name, (rows, columns) in matrices(width, feed_forward).items():
            add(f"blk.{layer}.{name}", rows, columns)
    return written(writer, path)


@pytest.fixture
def settings(make_settings: MakeSettings, launcher: Mapping[str, str]) -> Settings:
    chosen = {"launcher": launcher["LLAMAHERD_LLAMA__LAUNCHER"], "binary": launcher.get("LLAMAHERD_LLAMA__BINARY")}
    return make_settings(llama=chosen)


@pytest.fixture
def run_folder(settings: Settings) -> RunFolder:
    # Made before the loop runs, as the service does: it may block.
    return RunFolder(settings.storage.run_folder)


@pytest.mark.skipif(not psutil.LINUX, reason="proportional sizes of processes are known on Linux only")
@pytest.mark.parametrize(("model", "params"), CASES, ids=lambda value: value if isinstance(value, str) else "")
async def test_estimate_is_never_under_what_a_process_takes_by_more_than_a_tenth(
    model: str,
    params: dict[str, Any],
    models: Mapping[str, Path],
    settings: Settings,
    run_folder: RunFolder,
    table: list[Row],
) -> None:
    entry = ModelEntry(model, models[model], LlamaParams(model=model, threads=2, **params))
    engine = LlamaEngine(entry, settings, run_folder)
    try:
        await engine.start()
        await prompt(engine, min(PROMPT, params["ctx_size"] - 40))
        assert engine.pid is not None
        measured = psutil.Process(engine.pid).memory_full_info().pss
    finally:
        await engine.stop()
    launcher: Launcher = "native" if settings.llama.launcher == "native" else "embedded"
    expected = await asyncio.to_thread(estimate, entry, launcher)
    row = Row(launcher, model, params, expected.total, measured)
    table.append(row)
    assert row.expected >= LEAST * row.measured, row.cells


async def prompt(engine: LlamaEngine, tokens: int) -> None:
    """One request of so many tokens."""
    body = {"prompt": [100 + number % 100 for number in range(tokens)], "n_predict": 4}
    async with engine.open(UpstreamRequest("POST", "/completion", json.dumps(body).encode())) as response:
        answer = await response.read()
        assert response.status == 200, answer


def _mib(size: int) -> str:
    return f"{size / MIB:.1f} MiB"
