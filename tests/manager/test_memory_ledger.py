from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gguf
import pytest

from manager.entry import LlamaParams, ModelEntry
from manager.memory import HOST
from manager.memory_free import Free, Gpus
from manager.memory_ledger import Expected, Ledger
from manager.memory_measured import anonymous
from tests.conftest import EMPTY_GGUF, MakeSettings
from tests.fakes.nvml import FakeNvml, Gpu
from tests.gguf_files import write_adapter, write_tiny_gguf

MIB = 1 << 20
GIB = 1 << 30
NONE: Mapping[int, Mapping[str, int]] = {}


@dataclass
class Machine:
    """What a ledger sees; `free` of the host may be changed."""

    make_settings: MakeSettings
    binary: Path
    total: int = 16 * GIB
    free: int = 10 * GIB

    def ledger(self, *gpus: Gpu, llama: Mapping[str, Any] | None = None, **memory: Any) -> Ledger:
        """With a native llama-server, and with the settings of the section `memory`."""
        settings = self.make_settings(llama=llama or {"binary": self.binary}, memory=memory)
        return Ledger(settings, host=lambda: Free(HOST, self.total, self.free, "host"), nvidia=Gpus(FakeNvml(*gpus)))


@pytest.fixture
def machine(make_settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    binary = tmp_path / "llama-server"
    binary.touch(mode=0o755)
    return Machine(make_settings, binary)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny_gguf(tmp_path / "model.gguf")


def entry(path: Path, name: str = "tiny", **params: Any) -> ModelEntry:
    return ModelEntry(name, path, LlamaParams(model=str(path), **params))


async def learn_twice_what_is_needed(ledger: Ledger, model: ModelEntry) -> dict[str, int]:
    """One life that took twice as much of everything; returns that."""
    peak = {device: 2 * size for device, size in (await ledger.expected(model)).needed.items()}
    ledger.learn(model, peak, served=True)
    return peak


# what is expected


async def test_the_estimate_is_needed_where_nothing_was_learnt(machine: Machine, model: Path) -> None:
    expected = await machine.ledger().expected(entry(model))
    assert expected.estimate is not None
    assert expected.needed == expected.estimate.devices
    assert expected.learnt == {}


async def test_what_a_life_took_counts_for_the_next_one(machine: Machine, model: Path) -> None:
    ledger = machine.ledger()
    peak = await learn_twice_what_is_needed(ledger, entry(model))
    expected = await ledger.expected(entry(model))
    assert expected.learnt == peak
    assert expected.needed == {HOST: round(1.03 * peak[HOST])}


async def test_what_was_learnt_outlives_the_service(machine: Machine, model: Path) -> None:
    ledger = machine.ledger()
    peak = await learn_twice_what_is_needed(ledger, entry(model))
    await ledger.flush()
    assert (await machine.ledger().expected(entry(model))).learnt == peak


@pytest.mark.parametrize("changed", [{"ctx_size": 512}, {"parallel": 1}, {"cache_type_k": "q8_0"}, {"ubatch_size": 64}])
async def test_other_parameters_of_memory_are_another_shape(
    changed: dict[str, Any], machine: Machine, model: Path
) -> None:
    ledger = machine.ledger()
    await learn_twice_what_is_needed(ledger, entry(model))
    assert (await ledger.expected(entry(model, **changed))).learnt == {}


async def test_parameters_that_take_no_memory_leave_the_shape(machine: Machine, model: Path) -> None:
    ledger = machine.ledger()
    await learn_twice_what_is_needed(ledger, entry(model))
    same = entry(model, "another name", temperature=0.5, threads=1, n_predict=7)
    assert (await ledger.expected(same)).learnt != {}


@pytest.mark.parametrize("which", ["model", "adapter", "draft"])
async def test_a_file_that_changes_is_another_shape(which: str, machine: Machine, model: Path, tmp_path: Path) -> None:
    draft = write_tiny_gguf(tmp_path / "draft.gguf")
    files = {"model": model, "adapter": write_adapter(tmp_path / "adapter.gguf"), "draft": draft}
    one = entry(model, lora=[str(files["adapter"])], draft_model=str(draft))
    ledger = machine.ledger()
    await learn_twice_what_is_needed(ledger, one)
    assert (await ledger.expected(one)).learnt != {}
    os.utime(files[which], ns=(0, 0))
    assert (await ledger.expected(one)).learnt == {}


async def test_another_launcher_is_another_shape(machine: Machine, model: Path) -> None:
    native, embedded = machine.ledger(), machine.ledger(llama={"launcher": "embedded"})
    await learn_twice_what_is_needed(native, entry(model))
    await native.flush()
    assert (await embedded.expected(entry(model))).learnt == {}


async def test_a_life_of_what_is_no_longer_the_entry_teaches_nothing(machine: Machine, model: Path) -> None:
    ledger = machine.ledger()
    old, new = entry(model), entry(model, ctx_size=512)
    await ledger.expected(old)
    await ledger.expected(new)
    ledger.learn(old, {HOST: GIB}, served=True)
    ledger.learn(entry(model, "never asked for"), {HOST: GIB}, served=True)
    assert [(await ledger.expected(one)).learnt for one in (old, new)] == [{}, {}]


async def test_a_model_that_was_loaded_and_not_used_lowers_nothing(machine: Machine, model: Path) -> None:
    ledger = machine.ledger()
    before = await ledger.expected(entry(model))
    ledger.learn(entry(model), {HOST: MIB}, served=False)
    after = await ledger.expected(entry(model))
    assert (after.learnt, after.needed) == ({HOST: MIB}, before.needed)


@pytest.mark.parametrize("kind", ["missing", "empty", "cut off", "no folder"])
async def test_what_can_not_be_read_needs_nothing_for_the_load_says_what_is_wrong(
    kind: str, machine: Machine, tmp_path: Path
) -> None:
    path = tmp_path / "broken.gguf"
    if kind != "missing":
        path.write_bytes(EMPTY_GGUF if kind == "empty" else EMPTY_GGUF[:9])
    broken = entry(path) if kind != "no folder" else replace(entry(tmp_path / "none"), engine="hf")
    assert await machine.ledger().expected(broken) == Expected()


async def test_a_header_that_makes_no_sense_is_logged_and_stops_nobody(
    machine: Machine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    writer = gguf.GGUFWriter(tmp_path / "odd.gguf", "llama")
    writer.add_float32("llama.block_count", float("inf"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    assert await machine.ledger().expected(entry(tmp_path / "odd.gguf", "odd")) == Expected()
    assert "model=odd memory is not known" in caplog.text


async def test_hugging_face_folders_have_an_estimate(machine: Machine, tmp_path: Path) -> None:
    config = {
        "model_type": "x", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 9,
        "max_position_embeddings": 64,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    expected = await machine.ledger(Gpu()).expected(replace(entry(tmp_path), engine="hf"))
    assert list(expected.needed) == [HOST]


# what there is


async def test_room_is_what_is_free_less_the_reserve(machine: Machine) -> None:
    ledger = machine.ledger(Gpu(24 * GIB, 20 * GIB), host_reserve=GIB, gpu_reserve=MIB)
    assert await ledger.room(NONE) == {HOST: 9 * GIB, "gpu0": 20 * GIB - MIB}
    assert await ledger.total() == {HOST: 16 * GIB, "gpu0": 24 * GIB}


async def test_a_reserve_above_what_is_free_leaves_nothing(machine: Machine) -> None:
    assert await machine.ledger(host_reserve=20 * GIB).room(NONE) == {HOST: 0}


async def test_a_budget_counts_whatever_is_free(machine: Machine) -> None:
    ledger = machine.ledger(Gpu(), Gpu(), host_budget=3 * GIB, gpu_budget=5 * GIB)
    running = {os.getpid(): {HOST: GIB, "gpu0": GIB}}
    assert await ledger.room(running) == {HOST: 3 * GIB, "gpu0": 5 * GIB, "gpu1": 5 * GIB}


async def test_what_running_models_have_is_theirs_to_share(machine: Machine) -> None:
    ledger = machine.ledger(host_reserve=0)
    room = (await ledger.room({os.getpid(): {HOST: 8 * GIB}}))[HOST] - machine.free
    # This process grows a little while it looks.
    has = await asyncio.to_thread(anonymous, os.getpid())
    assert 0.9 * has < room < 1.1 * has


async def test_what_a_model_took_beyond_its_admission_is_not_there_for_others(machine: Machine) -> None:
    ledger = machine.ledger(Gpu(free=GIB, used={7: 9 * GIB}), host_reserve=0, gpu_reserve=0)
    running = {os.getpid(): {HOST: 4096}, 7: {"gpu0": 2 * GIB}}
    assert await ledger.room(running) == {HOST: machine.free + 4096, "gpu0": 3 * GIB}


async def test_of_gpus_what_a_process_has_counts_and_else_what_it_was_admitted_with(machine: Machine) -> None:
    ledger = machine.ledger(Gpu(free=GIB, used={7: GIB, 8: None}), gpu_reserve=0, host_reserve=0)
    assert (await ledger.room({7: {"gpu0": 3 * GIB}}))["gpu0"] == 2 * GIB
    assert (await ledger.room({9: {"gpu0": 3 * GIB}}))["gpu0"] == 4 * GIB


async def test_a_process_that_is_gone_has_nothing(machine: Machine) -> None:
    assert await machine.ledger(host_reserve=0).room({2**22 + 1: {HOST: GIB}}) == {HOST: machine.free}


# GPUs


async def test_gpus_count_for_the_native_launcher_only(machine: Machine, model: Path) -> None:
    native, embedded = machine.ledger(Gpu()), machine.ledger(Gpu(), llama={"launcher": "embedded"})
    assert list((await native.expected(entry(model))).needed) == [HOST, "gpu0"]
    assert list((await embedded.expected(entry(model))).needed) == [HOST]
    assert list(await embedded.room(NONE)) == list(await embedded.total()) == [HOST]


@pytest.mark.parametrize(("visible", "devices"), [("", [HOST]), ("1", [HOST, "gpu0"]), (None, [HOST, "gpu0", "gpu1"])])
async def test_only_visible_gpus_count(visible: str | None, devices: list[str], machine: Machine, model: Path) -> None:
    ledger = machine.ledger(
        Gpu(uuid="a"), Gpu(uuid="b"), llama={"binary": machine.binary, "cuda_visible_devices": visible}
    )
    assert list(await ledger.room(NONE)) == devices
    assert list((await ledger.expected(entry(model, split_mode="layer", tensor_split=[1, 1]))).needed) == devices


async def test_a_gpu_without_memory_of_its_own_uses_the_hosts(machine: Machine, model: Path) -> None:
    ledger = machine.ledger(Gpu(broken=["memory"]))
    assert list(await ledger.room(NONE)) == [HOST]
    assert list((await ledger.expected(entry(model))).needed) == [HOST]


async def test_a_model_with_open_gpu_layers_takes_as_many_as_there_is_room_for(
    machine: Machine, tmp_path: Path
) -> None:
    large = write_tiny_gguf(tmp_path / "large.gguf", layers=8, width=512)
    open_, all_ = entry(large, ctx_size=65536), entry(large, ctx_size=65536, gpu_layers=-1)
    small = Gpu(total=3 * GIB, free=2 * GIB)
    found = {
        name: (await machine.ledger(gpu).expected(one)).needed
        for name, one, gpu in (("whole", open_, Gpu()), ("some", open_, small), ("all", all_, small))
    }
    assert found["whole"] == found["all"]
    assert 0 < found["some"]["gpu0"] < found["all"]["gpu0"]
    assert found["some"][HOST] > found["all"][HOST]


async def test_models_that_run_leave_room_on_the_gpu_for_the_layers_of_another(
    machine: Machine, tmp_path: Path
) -> None:
    large = entry(write_tiny_gguf(tmp_path / "large.gguf", layers=8, width=512), ctx_size=65536)
    full = machine.ledger(Gpu(total=24 * GIB, free=MIB, used={7: 20 * GIB}))
    alone = await machine.ledger(Gpu(total=24 * GIB, free=20 * GIB)).expected(large)
    await full.room({7: {"gpu0": 20 * GIB}})
    assert (await full.expected(large)).needed == alone.needed


# the file


async def test_a_file_that_can_not_be_written_is_logged_and_tried_again(
    machine: Machine, model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = machine.ledger()
    peak = await learn_twice_what_is_needed(ledger, entry(model))
    file = tmp_path / "data" / "memory.json"
    file.mkdir(parents=True)
    await ledger.flush()
    assert f"memory_file={file} not written" in caplog.text
    file.rmdir()
    await ledger.flush()
    assert (await machine.ledger().expected(entry(model))).learnt == peak


async def test_nothing_learnt_writes_nothing(machine: Machine, model: Path, tmp_path: Path) -> None:
    ledger = machine.ledger()
    await ledger.expected(entry(model))
    await ledger.flush()
    assert not (tmp_path / "data" / "memory.json").exists()


async def test_many_at_once_write_a_whole_file(machine: Machine, model: Path) -> None:
    ledger = machine.ledger()
    await ledger.expected(entry(model))

    async def one(size: int) -> None:
        ledger.learn(entry(model), {HOST: size}, served=True)
        await ledger.flush()

    await asyncio.gather(*(one(GIB + size) for size in range(20)))
    assert (await machine.ledger().expected(entry(model))).learnt == {HOST: GIB + 19}


async def test_a_broken_file_is_named_and_stops_nothing(
    machine: Machine, model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "data" / "memory.json"
    file.parent.mkdir()
    file.write_text("{")
    ledger = machine.ledger()
    first, second = await asyncio.gather(ledger.expected(entry(model)), ledger.expected(entry(model)))
    assert first == second
    assert caplog.text.count(str(file)) == 1


def test_a_ledger_can_be_made_before_the_loop_runs(machine: Machine) -> None:
    make: Callable[[], Ledger] = machine.ledger
    assert asyncio.run(make().room(NONE))[HOST] > 0


async def test_gpus_do_not_count_for_a_server_that_was_not_compiled_for_them(machine: Machine, model: Path) -> None:
    machine.binary.write_text("#!/bin/sh\necho 'Available devices:'\necho '  (none)'\n")
    ledger = machine.ledger(Gpu())
    assert list((await ledger.expected(entry(model))).needed) == [HOST]
    assert list(await ledger.room(NONE)) == [HOST]
