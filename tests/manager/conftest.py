"""Instances and engines over fakes, ended with their test; and the command line."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Protocol

import pytest

from manager.cli import main
from manager.engines.llama.engine import LlamaEngine
from manager.entry import ModelEntry
from manager.life import Timing
from manager.run_folder import RunFolder
from tests.conftest import MakeSettings
from tests.fakes import write_binary
from tests.manager.bench import Bench, FakeBench, make_entry


class Run(Protocol):
    """`llamaherd` in this process: exit status, standard output, standard error."""

    def __call__(self, *arguments: str) -> tuple[int, str, str]: ...


@pytest.fixture
def run(make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """In a folder of its own, with no settings in the environment (make_settings sees to both)."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["llamaherd", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capfd.readouterr()
        return int(ended.value.code or 0), out, err

    return call


class MakeFakeBench(Protocol):
    def __call__(self, *, load: float = 10.0, drain: float = 10.0, idle: float | None = None) -> FakeBench: ...


@pytest.fixture
async def make_bench() -> AsyncIterator[MakeFakeBench]:
    """Benches over engines of nothing, for what must not hang on a process's timing."""
    async with AsyncExitStack() as stack:

        def make(*, load: float = 10.0, drain: float = 10.0, idle: float | None = None) -> FakeBench:
            bench = FakeBench(Timing(load=load, drain=drain, idle=idle))
            stack.push_async_callback(bench.close)
            return bench

        yield make


class LlamaFakes:
    """Engines and benches over one fake llama-server program, with its files."""

    def __init__(self, make_settings: MakeSettings, model: Path, folder: Path, runs: Path) -> None:
        self.entry = make_entry(model)
        self.starts = folder / "starts"
        self.run_folder = RunFolder(runs)
        self._make_settings = make_settings
        self._folder = folder
        self._ends: list[Callable[[], Any]] = []

    def engine(
        self, *, entry: ModelEntry | None = None, grace: float = 5.0, binary: Path | None = None, **knobs: Any
    ) -> LlamaEngine:
        make = self.factory(grace=grace, binary=binary, **knobs)
        engine = make(entry or self.entry)
        self._ends.append(engine.stop)
        return engine

    def bench(self, *, load: float = 10.0, drain: float = 10.0, grace: float = 5.0, **knobs: Any) -> Bench:
        bench = Bench(self.entry, self.factory(grace=grace, **knobs), Timing(load=load, drain=drain))
        self._ends.append(bench.instance.close)
        return bench

    def factory(
        self, *, grace: float = 5.0, binary: Path | None = None, **knobs: Any
    ) -> Callable[[ModelEntry], LlamaEngine]:
        """`starts` gets a line for each process that is started."""
        program = binary or write_binary(self._folder, start_counter=self.starts, **knobs)
        settings = self._make_settings(llama={"binary": program}, limits={"stop_grace": grace})
        return lambda entry: LlamaEngine(entry, settings, self.run_folder)

    async def close(self) -> None:
        for end in self._ends:
            await end()


@pytest.fixture
def _llama_files(make_settings: MakeSettings, tiny_gguf: Path, tmp_path: Path, short_folder: Path) -> LlamaFakes:
    # Made before the loop runs: a run folder is made at the service's start, and may block.
    return LlamaFakes(make_settings, tiny_gguf, tmp_path, short_folder / "run")


@pytest.fixture
async def llama(_llama_files: LlamaFakes) -> AsyncIterator[LlamaFakes]:
    yield _llama_files
    await _llama_files.close()
