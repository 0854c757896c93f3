from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import gguf
import pytest

from manager.discovery import hf_files
from manager.entry import HfParams, LlamaParams, ModelEntry
from manager.memory import HOST
from manager.memory_free import Free, Gpus
from manager.memory_ledger import Admitted, Expected, Ledger
from manager.memory_measured import anonymous
from tests.conftest import EMPTY_GGUF, MakeSettings
from tests.fakes.nvml import FakeNvml, Gpu
from tests.gguf_files import write_adapter, write_tiny_gguf

MIB = 1 << 20
GIB = 1 << 30
NONE: Mapping[str, Admitted] = {}


@dataclass
class Machine:
    """What a ledger sees; `free` of the host may be changed."""

    make_settings: MakeSettings
    binary: Path
    total: int = 16 * GIB
    free: int = 10 * GIB

    def ledger(
        self, *gpus: Gpu, llama: Mapping[str, Any] | None = None, torch_cuda: bool = False, **memory: Any
    ) -> Ledger:
        """With a native llama-server, and with the settings of the section `memory`. `torch_cuda`: torch has CUDA."""
        settings = self.make_settings(llama=llama or {"binary": self.binary}, memory=memory)
        return Ledger(
            settings,
            host=lambda: Free(HOST, self.total, self.free, "host"),
            nvidia=Gpus(FakeNvml(*gpus)),
            torch_cuda=lambda: torch_cuda,
        )


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


def size(path: Path) -> int:
    return path.stat().st_size


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


async def test_a_life_teaches_of_the_entry_that_it_had(machine: Machine, model: Path) -> None:
    ledger = machine.ledger()
    old, new = entry(model), entry(model, ctx_size=512)
    await ledger.expected(old)
    await ledger.expected(new)
    ledger.learn(old, {HOST: GIB}, served=True)
    assert [(await ledger.expected(one)).learnt for one in (old, new)] == [{HOST: GIB}, {}]


async def test_a_life_teaches_though_its_memory_was_never_asked_for(machine: Machine, model: Path) -> None:
    first, second = machine.ledger(), machine.ledger()
    first.learn(entry(model), {HOST: GIB}, served=True)
    await first.flush()
    second.learn(entry(model, ctx_size=512), {HOST: 2 * GIB}, served=True)
    await second.flush()
    last = machine.ledger()
    assert (await last.expected(entry(model))).learnt == {HOST: GIB}
    assert (await last.expected(entry(model, ctx_size=512))).learnt == {HOST: 2 * GIB}


async def test_what_takes_no_memory_may_change_while_a_model_runs(machine: Machine, model: Path) -> None:
    ledger = machine.ledger()
    ledger.learn(entry(model), {HOST: GIB}, served=True)
    changed = replace(entry(model), ttl=5.0, description="new", concurrency=3, aliases=("x",))
    assert (await ledger.expected(changed)).learnt == {HOST: GIB}


async def test_a_life_of_a_file_that_was_replaced_meanwhile_teaches_nothing_of_the_new_one(
    machine: Machine, model: Path, tmp_path: Path
) -> None:
    draft = write_tiny_gguf(tmp_path / "draft.gguf")
    seen = [path.stat() for path in (model, draft)]
    stamps = tuple((stat.st_mtime_ns, stat.st_size) for stat in seen)
    one = replace(entry(model, draft_model=str(draft)), stamps=stamps)
    ledger = machine.ledger()
    os.utime(draft, ns=(0, 0))
    ledger.learn(one, {HOST: GIB}, served=True)
    assert (await ledger.expected(one)).learnt == {}
    os.utime(draft, ns=(seen[1].st_mtime_ns, seen[1].st_mtime_ns))
    assert (await ledger.expected(one)).learnt == {HOST: GIB}


async def test_a_life_whose_file_is_gone_stops_nobody(machine: Machine, model: Path, tmp_path: Path) -> None:
    ledger = machine.ledger()
    ledger.learn(entry(tmp_path / "gone.gguf"), {HOST: MIB}, served=True)
    ledger.learn(entry(model), {HOST: GIB}, served=True)
    await ledger.flush()
    assert (await machine.ledger().expected(entry(model))).learnt == {HOST: GIB}


async def test_what_grew_with_use_never_makes_a_model_impossible(machine: Machine, model: Path) -> None:
    ledger = machine.ledger(host_budget=GIB)
    first = (await ledger.expected(entry(model))).needed[HOST]
    ledger.learn(entry(model), {HOST: first + 4 * GIB}, served=True)
    assert (await ledger.room(NONE)).most == {HOST: GIB}
    assert (await ledger.expected(entry(model))).needed == {HOST: GIB}


async def test_without_a_budget_what_was_learnt_counts_up_to_the_device_less_the_reserve(
    machine: Machine, model: Path
) -> None:
    ledger = machine.ledger(Gpu(total=4 * GIB, free=2 * GIB), host_reserve=GIB, gpu_reserve=MIB)
    ledger.learn(entry(model), {HOST: 90 * GIB, "gpu0": 90 * GIB}, served=True)
    most = {HOST: 15 * GIB, "gpu0": 4 * GIB - MIB}
    assert (await ledger.expected(entry(model))).needed == (await ledger.room(NONE)).most == most


async def test_an_estimate_beyond_the_budget_stays_what_it_is(machine: Machine, model: Path) -> None:
    free, tight = machine.ledger(), machine.ledger(host_budget=MIB)
    estimate = (await free.expected(entry(model))).needed
    tight.learn(entry(model), {HOST: GIB}, served=True)
    assert (await tight.expected(entry(model))).needed == estimate


async def test_a_model_that_was_loaded_and_not_used_lowers_nothing(machine: Machine, model: Path) -> None:
    ledger = machine.ledger()
    before = await ledger.expected(entry(model))
    ledger.learn(entry(model), {HOST: MIB}, served=False)
    after = await ledger.expected(entry(model))
    assert (after.learnt, after.needed) == ({HOST: MIB}, before.needed)


@pytest.mark.parametrize("kind", ["missing", "no folder", "empty folder"])
async def test_what_is_not_there_needs_nothing_for_the_load_says_what_is_wrong(
    kind: str, machine: Machine, tmp_path: Path
) -> None:
    path = tmp_path if kind == "empty folder" else tmp_path / "none"
    missing = entry(path) if kind == "missing" else hf_entry(path)
    assert await machine.ledger().expected(missing) == Expected()


async def test_a_file_that_is_not_understood_needs_its_size(machine: Machine, model: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(EMPTY_GGUF[:9] + bytes(3 * MIB))
    expected = await machine.ledger().expected(entry(broken))
    assert expected == Expected(None, {}, {HOST: 3 * MIB + 9})
    # Of the model that drafts for it, too.
    drafts = await machine.ledger().expected(entry(broken, draft_model=str(model)))
    assert drafts.needed == {HOST: 3 * MIB + 9 + size(model)}


async def test_what_a_file_that_is_not_understood_took_counts(machine: Machine, tmp_path: Path) -> None:
    path = tmp_path / "new.gguf"
    path.write_bytes(EMPTY_GGUF[:9])
    ledger = machine.ledger()
    ledger.learn(entry(path), {HOST: GIB}, served=True)
    assert await ledger.expected(entry(path)) == Expected(None, {HOST: GIB}, {HOST: round(1.03 * GIB)})


async def test_a_header_that_makes_no_sense_is_logged_and_stops_nobody(
    machine: Machine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "odd.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_float32("llama.block_count", float("inf"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    expected = await machine.ledger().expected(entry(path, "odd"))
    assert expected == Expected(None, {}, {HOST: size(path)})
    assert "model=odd memory is not known" in caplog.text


# models in our own process


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A Hugging Face folder with weights of 64 MiB in bfloat16."""
    path = tmp_path / "folder"
    path.mkdir()
    config = {
        "architectures": ["LlamaForCausalLM"], "dtype": "bfloat16", "hidden_size": 1024, "num_hidden_layers": 2,
        "num_attention_heads": 8, "vocab_size": 1000, "max_position_embeddings": 4096,
    }  # fmt: skip
    (path / "config.json").write_text(json.dumps(config))
    tensor = {"dtype": "BF16", "shape": [32768, 1024], "data_offsets": [0, 64 * MIB]}
    header = json.dumps({"w": tensor}).encode()
    with (path / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 64 * MIB)
    return path


def hf_entry(path: Path, name: str = "hf", **params: Any) -> ModelEntry:
    return ModelEntry(name, path, HfParams(model=str(path), **params), engine="hf")


async def test_a_folder_has_an_estimate(machine: Machine, folder: Path) -> None:
    expected = await machine.ledger(Gpu()).expected(hf_entry(folder))
    assert expected.estimate is not None
    assert expected.needed == expected.estimate.devices
    assert list(expected.needed) == [HOST]  # torch can't use the GPU here
    assert expected.estimate.of("weights") == 64 * MIB


async def test_a_folder_goes_to_the_gpus_that_torch_can_use(machine: Machine, folder: Path) -> None:
    needed = (await machine.ledger(Gpu(), torch_cuda=True).expected(hf_entry(folder))).needed
    assert needed["gpu0"] > 64 * MIB
    hidden = machine.ledger(Gpu(), torch_cuda=True, llama={"binary": machine.binary, "cuda_visible_devices": ""})
    assert (await hidden.expected(hf_entry(folder))).needed == needed  # what children may see does not bind us
    assert list((await hidden.room(NONE)).there) == [HOST, "gpu0"]
    assert list((await machine.ledger(Gpu(), torch_cuda=True).expected(hf_entry(folder, device_map="cpu"))).needed) == [
        HOST
    ]


async def test_libraries_stay_when_a_model_in_our_process_goes(
    machine: Machine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    first = await machine.ledger().expected(hf_entry(folder))
    assert first.estimate is not None
    assert first.lasting == {HOST: first.estimate.of("libraries")}
    monkeypatch.setitem(sys.modules, "torch", cast(Any, NoCuda))
    second = await machine.ledger().expected(hf_entry(folder))
    assert second.lasting == {}
    assert second.needed == {HOST: first.needed[HOST] - first.lasting[HOST]}


class NoCuda:
    """torch, as far as it is asked."""

    class cuda:
        @staticmethod
        def is_initialized() -> bool:
            return False


async def test_models_in_our_process_have_what_their_engines_say_of_each_device(machine: Machine) -> None:
    ledger = machine.ledger(Gpu(free=GIB), host_reserve=0, gpu_reserve=0)
    running = {
        "a": Admitted({HOST: GIB, "gpu0": GIB}, True, None, {HOST: 2 * GIB, "gpu0": 3 * GIB}),
        "b": Admitted({HOST: GIB}, True, None, {HOST: MIB}),
    }
    room = await ledger.room(running)
    assert room.there == {HOST: machine.free + 2 * GIB + MIB, "gpu0": 4 * GIB}
    assert room.held == {name: admitted.measured for name, admitted in running.items()}


async def test_a_model_in_our_process_that_loads_is_not_there_twice(machine: Machine) -> None:
    ledger = machine.ledger(host_reserve=0)
    room = await ledger.room({"a": Admitted({HOST: 4 * GIB}, False, None, {HOST: GIB})})
    assert room.there == {HOST: machine.free + GIB}
    assert (await ledger.room({"a": Admitted({HOST: 4 * GIB}, False)})).there == {HOST: machine.free}


async def test_of_a_model_in_our_process_that_can_not_say_what_it_takes_what_it_was_admitted_with_counts(
    machine: Machine,
) -> None:
    room = await machine.ledger(host_reserve=0).room({"a": Admitted({HOST: GIB}, True)})
    assert (room.there, room.held) == ({HOST: machine.free + GIB}, {"a": {}})


async def test_what_a_model_in_our_process_held_counts_beside_what_it_never_counts_itself(
    machine: Machine, folder: Path
) -> None:
    ledger, one = machine.ledger(), hf_entry(folder)
    before = await ledger.expected(one)
    assert before.estimate is not None
    counted = before.estimate.of("weights") + before.estimate.of("cache")
    ledger.learn(one, {HOST: counted + 5 * MIB}, served=True)
    after = await ledger.expected(one)
    assert after.learnt == {HOST: counted + 5 * MIB}
    assert after.needed == {HOST: before.needed[HOST] + 5 * MIB}


async def test_a_light_life_in_our_process_lowers_nothing(machine: Machine, folder: Path) -> None:
    ledger, one = machine.ledger(), hf_entry(folder)
    before = (await ledger.expected(one)).needed
    ledger.learn(one, {HOST: MIB}, served=True)
    assert (await ledger.expected(one)).needed == before


@pytest.mark.parametrize(
    "changed",
    [{"cache_tokens": 100}, {"parallel": 2}, {"dtype": "float32"}, {"device_map": "cpu"}, {"ctx_size": 512}],
)
async def test_other_parameters_of_memory_are_another_shape_of_a_folder(
    changed: dict[str, Any], machine: Machine, folder: Path
) -> None:
    ledger = machine.ledger()
    await learn_twice_what_is_needed(ledger, hf_entry(folder))
    assert (await ledger.expected(hf_entry(folder, **changed))).learnt == {}
    assert (await ledger.expected(hf_entry(folder, "another", temperature=0.5, threads=3))).learnt != {}


async def test_another_launcher_of_llama_cpp_is_no_other_shape_of_a_folder(machine: Machine, folder: Path) -> None:
    native, embedded = machine.ledger(), machine.ledger(llama={"launcher": "embedded"})
    await learn_twice_what_is_needed(native, hf_entry(folder))
    await native.flush()
    assert (await embedded.expected(hf_entry(folder))).learnt != {}


async def test_a_life_of_a_folder_that_was_changed_meanwhile_teaches_nothing_of_the_new_one(
    machine: Machine, folder: Path
) -> None:
    stamps = tuple(
        (stat.st_mtime_ns, stat.st_size) for stat in (path.stat() for path in await asyncio.to_thread(hf_files, folder))
    )
    one = replace(hf_entry(folder), stamps=stamps)
    ledger = machine.ledger()
    os.utime(folder / "model.safetensors", ns=(0, 0))
    ledger.learn(one, {HOST: GIB}, served=True)
    assert (await ledger.expected(one)).learnt == {}


async def test_where_what_is_free_decides_on_devices_what_a_folder_took_before_says_nothing(
    machine: Machine, folder: Path
) -> None:
    ledger = machine.ledger(Gpu(), torch_cuda=True)
    for device_map, counts in (("auto", False), ("cuda:0", True)):
        one = hf_entry(folder, device_map=device_map)
        before = (await ledger.expected(one)).needed
        ledger.learn(one, {HOST: 8 * GIB}, served=True)
        assert ((await ledger.expected(one)).needed != before) == counts


async def test_a_folder_may_go_to_each_of_several_gpus_as_a_whole(machine: Machine, folder: Path) -> None:
    one, ledger = hf_entry(folder), machine.ledger(Gpu(uuid="a"), Gpu(uuid="b"), torch_cuda=True)
    ways = await ledger.placements(one)
    assert [way.entry.hf.device_map for way in ways] == ["cuda:0", "cuda:1", "auto"]
    assert [set(way.expected.needed) for way in ways[:2]] == [{HOST, "gpu0"}, {HOST, "gpu1"}]
    ledger.learn(ways[1].entry, {HOST: MIB, "gpu1": 9 * GIB}, served=True)
    assert (await ledger.placements(one))[0].expected.learnt == {HOST: MIB, "gpu0": 9 * GIB}  # they are alike


# what there is


async def test_room_is_what_is_free_less_the_reserve(machine: Machine) -> None:
    ledger = machine.ledger(Gpu(24 * GIB, 20 * GIB), host_reserve=GIB, gpu_reserve=MIB)
    room = await ledger.room(NONE)
    assert room.there == {HOST: 9 * GIB, "gpu0": 20 * GIB - MIB}
    assert room.most == {HOST: 15 * GIB, "gpu0": 24 * GIB - MIB}
    assert room.held == {}
    assert await ledger.total() == {HOST: 16 * GIB, "gpu0": 24 * GIB}


async def test_a_reserve_above_what_is_there_leaves_nothing(machine: Machine) -> None:
    room = await machine.ledger(host_reserve=20 * GIB).room(NONE)
    assert room.there == room.most == {HOST: 0}


async def test_a_budget_counts_whatever_is_free(machine: Machine) -> None:
    ledger = machine.ledger(Gpu(), Gpu(), host_budget=3 * GIB, gpu_budget=5 * GIB)
    room = await ledger.room({"m": Admitted({HOST: GIB, "gpu0": GIB}, True, os.getpid())})
    assert room.there == room.most == {HOST: 3 * GIB, "gpu0": 5 * GIB, "gpu1": 5 * GIB}


@pytest.mark.parametrize("admitted", [4096, 8 * GIB])
@pytest.mark.parametrize("ready", [True, False])
async def test_what_a_running_model_really_has_is_theirs_to_share_whatever_it_was_admitted_with(
    admitted: int, ready: bool, machine: Machine
) -> None:
    room = await machine.ledger(host_reserve=0).room({"m": Admitted({HOST: admitted}, ready, os.getpid())})
    held = room.held["m"]
    assert room.there == {HOST: machine.free + held[HOST]}
    # This process grows a little while it looks.
    has = await asyncio.to_thread(anonymous, os.getpid())
    assert 0.9 * has < held[HOST] < 1.1 * has


async def test_of_a_gpu_what_nvml_says_of_a_process_counts(machine: Machine) -> None:
    ledger = machine.ledger(Gpu(free=GIB, used={7: 9 * GIB, 8: GIB}), gpu_reserve=0)
    running = {"a": Admitted({"gpu0": 2 * GIB}, True, 7), "b": Admitted({"gpu0": 3 * GIB}, False, 8)}
    room = await ledger.room(running)
    assert room.there["gpu0"] == 11 * GIB
    assert [room.held[name]["gpu0"] for name in "ab"] == [9 * GIB, GIB]


async def test_a_gpu_that_a_model_was_not_admitted_to_counts_all_the_same(machine: Machine) -> None:
    ledger = machine.ledger(Gpu(free=GIB), Gpu(free=GIB, used={7: MIB}, uuid="other"), gpu_reserve=0)
    room = await ledger.room({"m": Admitted({HOST: GIB}, True, 7)})
    assert (room.there["gpu0"], room.there["gpu1"], room.held["m"]["gpu1"]) == (GIB, GIB + MIB, MIB)


@pytest.mark.parametrize("used", [{}, {7: None}], ids=["not listed", "listed without a size"])
async def test_what_nvml_does_not_know_is_guessed_where_a_model_is_ready_and_still_free_where_it_is_not(
    used: Mapping[int, int | None], machine: Machine
) -> None:
    ledger = machine.ledger(Gpu(free=10 * GIB, used=used), gpu_reserve=0)
    for ready, there in ((True, 13 * GIB), (False, 10 * GIB)):
        room = await ledger.room({"m": Admitted({"gpu0": 3 * GIB}, ready, 7)})
        assert room.there["gpu0"] == there
        assert "gpu0" not in room.held["m"]


async def test_a_process_that_is_gone_has_nothing(machine: Machine) -> None:
    gone = 2**22 + 1
    room = await machine.ledger(host_reserve=0).room({"m": Admitted({HOST: GIB}, True, gone)})
    assert (room.there, room.held) == ({HOST: machine.free}, {"m": {HOST: 0}})


# GPUs


async def test_gpus_count_for_the_native_launcher_only(machine: Machine, model: Path) -> None:
    native, embedded = machine.ledger(Gpu()), machine.ledger(Gpu(), llama={"launcher": "embedded"})
    assert list((await native.expected(entry(model))).needed) == [HOST, "gpu0"]
    assert list((await embedded.expected(entry(model))).needed) == [HOST]
    assert list((await embedded.room(NONE)).there) == list(await embedded.total()) == [HOST]


@pytest.mark.parametrize(("visible", "devices"), [("", [HOST]), ("1", [HOST, "gpu0"]), (None, [HOST, "gpu0", "gpu1"])])
async def test_only_visible_gpus_count(visible: str | None, devices: list[str], machine: Machine, model: Path) -> None:
    ledger = machine.ledger(
        Gpu(uuid="a"), Gpu(uuid="b"), llama={"binary": machine.binary, "cuda_visible_devices": visible}
    )
    assert list((await ledger.room(NONE)).there) == devices
    assert list((await ledger.expected(entry(model, split_mode="layer", tensor_split=[1, 1]))).needed) == devices


async def test_a_gpu_without_memory_of_its_own_uses_the_hosts(machine: Machine, model: Path) -> None:
    ledger = machine.ledger(Gpu(broken=["memory"]))
    assert list((await ledger.room(NONE)).there) == [HOST]
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
    await full.room({"m": Admitted({"gpu0": 20 * GIB}, True, 7)})
    assert (await full.expected(large)).needed == alone.needed


async def test_what_is_free_on_several_gpus_does_not_change_what_was_learnt(machine: Machine, model: Path) -> None:
    gpus = [Gpu(uuid="a"), Gpu(uuid="b")]
    ledger = machine.ledger(*gpus)
    peak = await learn_twice_what_is_needed(ledger, entry(model))
    await ledger.flush()
    gpus[0].free = 2 * GIB
    assert (await ledger.expected(entry(model))).learnt == peak


@pytest.mark.parametrize(
    ("params", "lowers"),
    [({}, False), ({"gpu_layers": -1}, False), ({"gpu_layers": -1, "tensor_split": [1, 1]}, True)],
    ids=["open", "by what is free", "settled"],
)
async def test_on_gpus_less_counts_only_where_the_layers_always_go_to_the_same(
    params: dict[str, Any], lowers: bool, machine: Machine, model: Path
) -> None:
    ledger, one = machine.ledger(Gpu(uuid="a"), Gpu(uuid="b")), entry(model, **params)
    before = (await ledger.expected(one)).needed
    ledger.learn(one, {**before, "gpu0": MIB}, served=True)
    assert ((await ledger.expected(one)).needed["gpu0"] < before["gpu0"]) == lowers


@pytest.mark.parametrize("other", [[Gpu()], [Gpu(), Gpu(name="Tesla T4")], [Gpu(), Gpu(total=80 * GIB)], []])
async def test_other_gpus_are_another_shape(other: list[Gpu], machine: Machine, model: Path) -> None:
    ledger = machine.ledger(Gpu(), Gpu())
    await learn_twice_what_is_needed(ledger, entry(model))
    await ledger.flush()
    assert (await machine.ledger(*other).expected(entry(model))).learnt == {}


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
    assert asyncio.run(make().room(NONE)).there[HOST] > 0


async def test_gpus_do_not_count_for_a_server_that_was_not_compiled_for_them(machine: Machine, model: Path) -> None:
    machine.binary.write_text("#!/bin/sh\necho 'Available devices:'\necho '  (none)'\n")
    ledger = machine.ledger(Gpu())
    assert list((await ledger.expected(entry(model))).needed) == [HOST]
    assert list((await ledger.room(NONE)).there) == [HOST]
