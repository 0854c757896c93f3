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
from manager.entry import LlamaParams, ModelEntry
from manager.memory import HOST
from manager.memory_ledger import Ledger
from manager.memory_measured import measure
from manager.run_folder import RunFolder
from manager.settings import Settings
from tests.conftest import MakeSettings
from tests.gguf_files import CONTEXT, add_shape, add_tokenizer, matrices, vocabulary, write_tiny_gguf, written

MIB: Final = 1 << 20
# An estimate is never less than this share of what is measured; once learnt it is never off by more than that share.
LEAST: Final = 0.9
LEARNT: Final = 0.15
# More than a physical batch, so that the buffers for it have been used; it fills windows of 1,024 tokens.
PROMPT: Final = 980

# As many as after a life that was hardly used.
SHORT_PROMPT: Final = 8

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
    # A model that drafts is as large as the one that it drafts for, so that its share can be seen.
    ("smol", {"ctx_size": 1024, "parallel": 1, "draft_model": "draft"}),
)
# Each is run twice. None is so small that libraries, of which other processes have a share at times, matter.
LIVES: Final[tuple[tuple[str, dict[str, Any]], ...]] = (
    ("four bits", {"ctx_size": 1024, "parallel": 1}),
    ("four bits", {"ctx_size": 1024, "parallel": 1, **EIGHT_BIT}),
    ("four bits", {"ctx_size": 2048, "parallel": 2, "mmap": False}),
    ("four bits", {"ctx_size": 4096, "parallel": 2, "kv_unified": True}),
    ("four bits", {"ctx_size": 1024, "parallel": 2, "flash_attn": "off", "ubatch_size": 128}),
)
linux_only = pytest.mark.skipif(not psutil.LINUX, reason="proportional sizes of processes are known on Linux only")


def shown(value: Any) -> str:
    return value if isinstance(value, str) else ""


@dataclass(frozen=True)
class Row:
    launcher: str
    model: str
    params: dict[str, Any]
    expected: int
    measured: int
    learnt: int  # the estimate after this life

    @property
    def cells(self) -> tuple[str, ...]:
        settings = ", ".join(f"{name} {value}" for name, value in self.params.items())
        sizes = [_mib(size) for size in (self.expected, self.measured, self.learnt)]
        return self.launcher, self.model, settings, *sizes, _over(self.expected, self), _over(self.learnt, self)


@pytest.fixture(scope="module")
def table() -> Iterator[list[Row]]:
    """Printed when all rows are there."""
    rows: list[Row] = []
    yield rows
    head = ("launcher", "model", "settings", "estimate", "measured", "learnt", "estimate over", "learnt over")
    lines = [head, *(row.cells for row in rows)]
    print()  # noqa: T201
    for line in lines:
        print("| " + " | ".join(line) + " |")  # noqa: T201


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, starter: Path) -> Mapping[str, Path]:
    """Files of our own: pages of one that another process has mapped too would count by half."""
    folder = tmp_path_factory.mktemp("memory")
    for name in ("smol", "draft"):
        shutil.copyfile(starter, folder / f"{name}.gguf")
    return {
        "smol": folder / "smol.gguf",
        "draft": folder / "draft.gguf",
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


class Lives:
    """Runs lives of models and lets a ledger learn from them."""

    def __init__(self, settings: Settings, run_folder: RunFolder, models: Mapping[str, Path]) -> None:
        self.ledger = Ledger(settings)
        self._settings = settings
        self._run_folder = run_folder
        self._models = models

    def entry(self, model: str, params: dict[str, Any]) -> ModelEntry:
        files = {name: str(self._models[params[name]]) for name in ("draft_model",) if name in params}
        # One thread: several wait for each other, which on a busy machine takes most of the time.
        return ModelEntry(model, self._models[model], LlamaParams(model=model, threads=1, **{**params, **files}))

    async def run(self, entry: ModelEntry, tokens: int) -> int:
        """One life with one request; returns the bytes that it took at its end."""
        engine = LlamaEngine(entry, self._settings, self._run_folder)
        try:
            await engine.start()
            await prompt(engine, tokens)
            assert engine.pid is not None
            measured = await asyncio.to_thread(measure, engine.pid)
        finally:
            await engine.stop()
        self.ledger.learn(entry, measured, served=True)
        return measured[HOST]

    async def expected(self, entry: ModelEntry) -> tuple[int, int]:
        """The bytes of the estimate, and those corrected by what was learnt."""
        expected = await self.ledger.expected(entry)
        assert expected.estimate is not None
        return expected.estimate.total, expected.needed[HOST] + expected.estimate.reclaimable


@pytest.fixture
def lives(settings: Settings, run_folder: RunFolder, models: Mapping[str, Path]) -> Lives:
    return Lives(settings, run_folder, models)


@linux_only
@pytest.mark.alone
@pytest.mark.parametrize(("model", "params"), CASES, ids=shown)
async def test_estimate_is_never_far_under_what_a_process_takes_and_close_to_it_once_learnt(
    model: str, params: dict[str, Any], lives: Lives, settings: Settings, table: list[Row]
) -> None:
    entry = lives.entry(model, params)
    before, uncorrected = await lives.expected(entry)
    assert uncorrected == before
    measured = await lives.run(entry, min(PROMPT, params["ctx_size"] - 40))
    _, learnt = await lives.expected(entry)
    row = Row(settings.llama.launcher, model, params, before, measured, learnt)
    table.append(row)
    assert row.expected >= LEAST * row.measured, row.cells
    # A great part of the small ones is libraries, which take less while other processes have them too.
    if model == "smol":
        assert abs(row.learnt / row.measured - 1) <= LEARNT, row.cells


@linux_only
@pytest.mark.alone
@pytest.mark.parametrize(("model", "params"), LIVES, ids=shown)
async def test_what_a_hardly_used_life_took_is_still_enough_for_a_full_use(
    model: str, params: dict[str, Any], lives: Lives
) -> None:
    entry = lives.entry(model, params)
    await lives.expected(entry)
    await lives.run(entry, SHORT_PROMPT)
    _, learnt = await lives.expected(entry)
    measured = await lives.run(entry, PROMPT)
    assert learnt >= LEAST * measured
    assert learnt <= (1 + LEARNT) * measured


async def prompt(engine: LlamaEngine, tokens: int) -> None:
    """One request of so many tokens."""
    body = {"prompt": [100 + number % 100 for number in range(tokens)], "n_predict": 4}
    async with engine.open(UpstreamRequest("POST", "/completion", json.dumps(body).encode())) as response:
        answer = await response.read()
        assert response.status == 200, answer


def _over(size: int, row: Row) -> str:
    return f"{100 * (size / row.measured - 1):+.0f}%"


def _mib(size: int) -> str:
    return f"{size / MIB:.1f} MiB"
