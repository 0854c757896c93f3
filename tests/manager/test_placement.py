"""Which GPU a model goes to on a machine with several, whose GPUs are faked; files and processes are not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from manager import memory_devices
from manager.app import create_app
from manager.catalog import Catalog
from manager.engines import Engine
from manager.engines.llama.engine import LlamaEngine
from manager.entry import HfParams, LlamaParams, ModelEntry
from manager.errors import ConfigError, LoadFailed
from manager.memory import FIT_MARGIN, HOST
from manager.memory_devices import refuse_two_names
from manager.memory_free import Free, Gpus
from manager.memory_ledger import Ledger
from manager.metrics import Metrics
from manager.placement import Numbering, leaves_open, on_gpu
from manager.pool import ModelPool
from manager.run_folder import RunFolder
from manager.service import SERVICE
from manager.settings import Settings
from manager.state import ModelState
from tests.conftest import MakeSettings
from tests.fakes import write_binary
from tests.fakes.nvml import FakeNvml, Gpu
from tests.gguf_files import write_adapter, write_tiny_gguf
from tests.manager.bench import FakeEngine, soon, until

MIB = 1 << 20
GIB = 1 << 30
HUGE = 1 << 21  # a window by which the model needs 34 GiB


@dataclass
class Box:
    """A machine with GPUs, a llama-server that knows them, and room on the host."""

    make_settings: MakeSettings
    folder: Path

    def settings(self, count: int, **sections: Any) -> Settings:
        """`count`: GPUs that llama-server lists; it can do nothing else."""
        lines = "".join(f"echo '  CUDA{number}: NVIDIA A10 (24576 MiB)'\n" for number in range(count))
        binary = self.folder / "list-devices"
        binary.write_text(f"#!/bin/sh\necho 'Available devices:'\n{lines}")
        binary.chmod(0o755)
        llama = {"binary": binary, **sections.pop("llama", {})}
        return self.make_settings(llama=llama, **{"scheduling": {"linger": 0.001, "batch_window": 0.05}, **sections})

    def ledger(self, settings: Settings, *gpus: Gpu, torch_cuda: bool = False) -> Ledger:
        return Ledger(
            settings,
            host=lambda: Free(HOST, 64 * GIB, 60 * GIB, "host"),
            nvidia=Gpus(FakeNvml(*gpus)),
            torch_cuda=lambda: torch_cuda,
        )


@pytest.fixture
def box(make_settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Box:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return Box(make_settings, tmp_path)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("placement") / "model.gguf", layers=8, width=512)


def entry(path: Path, name: str = "m", **params: Any) -> ModelEntry:
    return ModelEntry(name, path, LlamaParams(model=str(path), **params))


def alike(count: int, total: int = 24 * GIB) -> list[Gpu]:
    return [Gpu(total=total, free=total, uuid=f"GPU-{number}") for number in range(count)]


async def devices(ledger: Ledger, one: ModelEntry) -> list[str | None]:
    return [way.device for way in await ledger.placements(one)]


# what is open


@pytest.mark.parametrize(
    "said",
    [
        {"device": "CUDA1"},
        {"device": "none"},
        {"main_gpu": 0},
        {"split_mode": "layer"},
        {"tensor_split": [1, 1]},
        {"gpu_layers": 0},
        {"extra_args": ["-ts", "3,1"]},
        {"extra_args": ["--device=CUDA1"]},
        {"extra_args": ["--rpc", "other:50052"]},
        {"extra_args": ["-ot", "exps=CUDA1"]},
        {"extra_args": ["--override-tensor=exps=CUDA1"]},
        {"extra_args": ["-otd", "exps=CUDA1"]},
        {"extra_args": ["--spec-draft-device", "CUDA1"]},
        {"extra_args": ["-mmdev", "CUDA1"]},
        {"extra_args": ["-fit", "off"]},
        {"extra_args": ["--fit-target", "512,4096"]},
    ],
)
async def test_an_entry_that_says_where_it_goes_goes_there(said: dict[str, Any], box: Box, model: Path) -> None:
    ledger = box.ledger(box.settings(2), *alike(2))
    assert await devices(ledger, entry(model, **said)) == [None]


@pytest.mark.parametrize("said", [{}, {"gpu_layers": -1}, {"gpu_layers": 3}, {"extra_args": ["--swa-full"]}])
async def test_any_other_may_go_to_each_gpu_as_a_whole(said: dict[str, Any], box: Box, model: Path) -> None:
    ledger = box.ledger(box.settings(3), *alike(3))
    ways = await ledger.placements(entry(model, **said))
    assert [way.device for way in ways] == ["gpu0", "gpu1", "gpu2", None]
    assert [way.entry.llama.device for way in ways] == ["CUDA0", "CUDA1", "CUDA2", None]
    for way in ways[:-1]:
        assert set(way.expected.needed) == {HOST, way.device}
    assert set(ways[-1].expected.needed) == {HOST, "gpu0", "gpu1", "gpu2"}


async def test_without_several_gpus_nothing_is_chosen(box: Box, model: Path) -> None:
    assert await devices(box.ledger(box.settings(1), *alike(1)), entry(model)) == [None]
    assert await devices(box.ledger(box.settings(2, llama={"placement": "split"}), *alike(2)), entry(model)) == [None]
    embedded = box.make_settings(llama={"launcher": "embedded"})
    assert await devices(box.ledger(embedded, *alike(2)), entry(model)) == [None]


async def test_gpus_that_llama_server_does_not_name_one_by_one_are_its_own_affair(box: Box, model: Path) -> None:
    assert await devices(box.ledger(box.settings(3), *alike(2)), entry(model)) == [None]  # parts of a GPU (MIG), say
    assert await devices(box.ledger(box.settings(1), *alike(2)), entry(model)) == [None]


async def test_a_file_that_is_not_understood_is_placed_by_llama_cpp(box: Box, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"no header")
    assert await devices(box.ledger(box.settings(2), *alike(2)), entry(broken)) == [None]


@pytest.mark.parametrize(
    ("visible", "totals"), [("1,0", [16, 24]), ("GPU-1", [16]), ("GPU-1,GPU-0", [16, 24]), ("0,1", [24, 16])]
)
async def test_gpus_are_numbered_as_cuda_visible_devices_has_them(
    visible: str, totals: list[int], box: Box, model: Path
) -> None:
    gpus = [Gpu(total=size * GIB, free=size * GIB, uuid=f"GPU-{n}") for n, size in enumerate((24, 16))]
    settings = box.settings(len(totals), llama={"cuda_visible_devices": visible})
    ledger = box.ledger(settings, *gpus)
    assert list((await ledger.total()).values())[1:] == [size * GIB for size in totals]
    assert len(await ledger.placements(entry(model))) == (3 if len(totals) == 2 else 1)


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of this machine, and torch can use them."""
    monkeypatch.setattr(memory_devices, "gpus", lambda: Gpus(FakeNvml(*alike(2))))
    monkeypatch.setattr(memory_devices, "torch_drives_cuda", lambda: True)


def refusal(settings: Settings, *entries: ModelEntry) -> str:
    try:
        refuse_two_names(settings, entries)
    except ConfigError as error:
        return error.message
    return ""


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(
    ("visible", "service", "refused"),
    [
        ("1", None, True),
        ("GPU-1", "0", True),
        ("1,0", None, True),
        ("0", None, False),  # gpu0 is the same for both
        ("GPU-1", "1", False),
        ("", None, False),
        (None, "1", False),
    ],
)
def test_gpus_that_would_share_a_name_are_refused(
    visible: str | None, service: str | None, refused: bool, box: Box, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = box.settings(1, llama={"cuda_visible_devices": visible})
    no_gpu = box.make_settings(llama={"launcher": "embedded", "cuda_visible_devices": visible})
    if service is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", service)
    folder = ModelEntry("hf", model, HfParams(model="hf"), engine="hf")
    assert refusal(settings, entry(model), folder).startswith(f"llama.cuda_visible_devices is {visible}, ") == refused
    on_cpu = replace(folder, params=HfParams(model="hf", device_map="cpu"))
    assert not refusal(settings, entry(model), on_cpu)
    assert not refusal(no_gpu, folder)
    monkeypatch.setattr(memory_devices, "torch_drives_cuda", lambda: False)
    assert not refusal(settings, folder)


@pytest.mark.usefixtures("two_gpus")
async def test_neither_start_nor_reload_takes_gpus_that_would_share_a_name(box: Box, model: Path) -> None:
    settings = box.settings(1, llama={"cuda_visible_devices": "1"})
    models = settings.storage.models_file
    folder = models.parent / "models" / "folder"
    await asyncio.to_thread(folder.mkdir, parents=True)
    (folder / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    listed: dict[str, Any] = {"m": {"params": {"model": str(model)}}}
    models.write_text(json.dumps(listed))
    service = create_app(settings)[SERVICE]
    models.write_text(json.dumps({**listed, "hf": {"engine": "hf", "params": {"model": str(folder)}}}))
    with pytest.raises(ConfigError, match=r"^llama.cuda_visible_devices is 1, .*\(hf\)"):
        create_app(settings)
    with pytest.raises(ConfigError, match=r"^llama.cuda_visible_devices is 1, .*\(hf\)"):
        await service.reloader.reload()
    assert service.pool.catalog.names == ("m",)


# what it needs there


async def test_open_gpu_layers_need_what_llama_cpp_leaves_free_too(box: Box, model: Path) -> None:
    ledger = box.ledger(box.settings(2), *alike(2))
    for layers, spare in ((None, FIT_MARGIN), (-1, 0)):
        first, *_ = await ledger.placements(entry(model, gpu_layers=layers))
        assert first.expected.spare == {"gpu0": spare}


async def test_all_of_it_counts_however_little_room_a_gpu_has(box: Box, model: Path) -> None:
    small = [Gpu(total=24 * GIB, free=GIB, uuid="a"), Gpu(total=24 * GIB, free=24 * GIB, uuid="b")]
    one = entry(model, ctx_size=65536)
    first, second, _ = await box.ledger(box.settings(2), *small).placements(one)
    assert first.expected.needed["gpu0"] == second.expected.needed["gpu1"] > GIB


async def test_a_draft_and_a_projector_go_along(box: Box, model: Path, tmp_path: Path) -> None:
    draft = write_tiny_gguf(tmp_path / "draft.gguf")
    ledger = box.ledger(box.settings(2), *alike(2))
    for one in (entry(model, draft_model=str(draft)), replace(entry(model), mmproj=write_adapter(tmp_path / "p.gguf"))):
        _, second, _ = await ledger.placements(one)
        plain = (await ledger.placements(entry(model)))[1]
        assert set(second.expected.needed) == {HOST, "gpu1"}
        assert second.expected.needed["gpu1"] > plain.expected.needed["gpu1"]


# what was learnt


async def test_gpus_that_are_alike_share_what_was_learnt(box: Box, model: Path) -> None:
    gpus = [*alike(2), Gpu(total=80 * GIB, free=80 * GIB, uuid="large", name="NVIDIA A100")]
    ledger = box.ledger(box.settings(3), *gpus)
    one = entry(model, gpu_layers=-1)
    before = await ledger.placements(one)
    ledger.learn(before[1].entry, {HOST: GIB, "gpu1": 9 * GIB}, served=True)
    after = await ledger.placements(one)
    assert [way.expected.learnt for way in after] == [
        {HOST: GIB, "gpu0": 9 * GIB},
        {HOST: GIB, "gpu1": 9 * GIB},
        {},
        {},
    ]
    assert after[0].expected.needed["gpu0"] == after[1].expected.needed["gpu1"] == round(1.03 * 9 * GIB)
    assert after[2].expected == before[2].expected


async def test_what_was_learnt_of_a_placed_model_outlives_the_service(box: Box, model: Path) -> None:
    settings = box.settings(2)
    first = box.ledger(settings, *alike(2))
    placed = (await first.placements(entry(model)))[1].entry
    first.learn(placed, {HOST: GIB, "gpu1": 9 * GIB, "gpu0": MIB}, served=True)
    await first.flush()
    ways = await box.ledger(settings, *alike(2)).placements(entry(model))
    assert ways[0].expected.learnt == {HOST: GIB, "gpu0": 9 * GIB, "gpu1": MIB}


@pytest.mark.parametrize(
    ("device", "order", "renamed"),
    [
        (None, (0, 1, 2), None),
        ("CUDA2", (2, 0, 1), "CUDA0"),
        ("cuda1, CUDA0", (1, 0, 2), "CUDA0,CUDA1"),
        ("CUDA7", (0, 1, 2), "CUDA7"),
        ("Vulkan1", (0, 1, 2), "Vulkan1"),
        ("none", (0, 1, 2), "none"),
    ],
)
def test_gpus_are_numbered_as_an_entry_names_them(
    device: str | None, order: tuple[int, ...], renamed: str | None
) -> None:
    one = entry(Path("/m.gguf"), device=device)
    numbering = Numbering.of(one, 3)
    assert (numbering.order, numbering.renamed(one).llama.device) == (order, renamed)
    sizes = {HOST: 1, "gpu0": 2, "gpu1": 3, "gpu2": 4}
    assert numbering.outward(numbering.inward(sizes)) == sizes
    assert numbering.inward({f"gpu{order[0]}": 7}) == {"gpu0": 7}


# models of Hugging Face


def test_a_model_of_hugging_face_is_placed_where_its_device_map_is_auto() -> None:
    def of(**params: Any) -> ModelEntry:
        return ModelEntry("h", Path("/h"), HfParams(model="/h", **params), engine="hf")

    assert leaves_open(of())
    others: tuple[str | dict[str, str], ...] = ("cpu", "cuda:0", "balanced", {"": "cuda:1"})
    for said in others:
        assert not leaves_open(of(device_map=said))
    placed = on_gpu(of(), 1)
    assert placed.hf.device_map == "cuda:1"
    assert Numbering.of(placed, 2).renamed(placed) == on_gpu(of(), 0)
    assert Numbering.of(of(), 2).renamed(of()) == of()


# the pool: who goes where over time


class Machine:
    """A pool over engines of nothing whose memory NVML counts by their process, as soon as they are there."""

    def __init__(self, box: Box, model: Path, gpus: list[Gpu], sizes: Mapping[str, int], **sections: Any) -> None:
        """`sizes`: bytes of each model on a GPU, which are learnt beforehand; HUGE: no GPU has as much."""
        self.gpus = gpus
        self.started: list[tuple[str, str | None]] = []
        self.engines: dict[str, FakeEngine] = {}
        self.held: set[str] = set()
        self._sizes = sizes
        settings = box.settings(len(gpus), memory={"gpu_reserve": 0, **sections.pop("memory", {})}, **sections)
        self.ledger = box.ledger(settings, *gpus)
        windows = {name: HUGE if size == HUGE else 256 + number for number, (name, size) in enumerate(sizes.items())}
        self.entries = [entry(model, name, gpu_layers=-1, ctx_size=window) for name, window in windows.items()]
        self.pool = ModelPool(Catalog(self.entries), settings, self._make, self.ledger, Metrics())

    async def learn(self) -> None:
        for one in self.entries:
            ways = await self.ledger.placements(one) if self._sizes[one.name] != HUGE else ()
            for way in ways[:-1]:
                self.ledger.learn(way.entry, {str(way.device): round(self._sizes[one.name] / 1.03)}, served=True)

    def _make(self, one: ModelEntry) -> Engine:
        self.started.append((one.name, one.llama.device))
        pid = len(self.started)
        engine = Accounted(pid, self, one.llama.device, self._sizes[one.name], hold_start=one.name in self.held)
        self.engines[one.name] = engine
        return engine

    async def use(self, name: str) -> None:
        (await soon(self.pool.lease(self.pool.find(name).entry))).release()


class Accounted(FakeEngine):
    """Takes its memory of the faked GPUs when it has started, and gives it back when it stops."""

    def __init__(self, number: int, machine: Machine, device: str | None, size: int, **knobs: Any) -> None:
        super().__init__(number, **knobs)
        self._number = number
        self._size = size
        self._of = [int(device.removeprefix("CUDA"))] if device else list(range(len(machine.gpus)))
        self._gpus = machine.gpus

    async def start(self) -> None:
        await super().start()
        self._take(self._size // len(self._of))

    async def stop(self, *, force: bool = False) -> None:
        await super().stop(force=force)
        if self.pid is not None:
            self._take(-self._size // len(self._of))
            self.pid = None

    def _take(self, size: int) -> None:
        for number in self._of:
            gpu = self._gpus[number]
            gpu.free -= size
            gpu.used = {pid: used for pid, used in gpu.used.items() if pid != self._number}
            if size > 0:
                gpu.used = {**gpu.used, self._number: size}


@pytest.fixture
async def make_machine(box: Box, model: Path) -> AsyncIterator[Callable[..., Any]]:
    async with AsyncExitStack() as stack:

        async def make(gpus: list[Gpu], **sections: Any) -> Machine:
            sizes = sections.pop("sizes")
            machine = await asyncio.to_thread(Machine, box, model, gpus, sizes, **sections)
            stack.push_async_callback(close, machine)
            await machine.learn()
            return machine

        yield make


async def close(machine: Machine) -> None:
    for engine in machine.engines.values():
        engine.may_start.set()
    await soon(machine.pool.close())


async def test_models_go_where_they_fit_best_and_stay_beside_each_other(make_machine: Callable[..., Any]) -> None:
    gpus = [Gpu(total=24 * GIB, free=24 * GIB, uuid="a"), Gpu(total=16 * GIB, free=16 * GIB, uuid="b")]
    machine = await make_machine(gpus, sizes={"small": 9 * GIB, "large": 20 * GIB, "third": 6 * GIB})
    for name in ("small", "large", "third"):
        await machine.use(name)
    assert machine.started == [("small", "CUDA1"), ("large", "CUDA0"), ("third", "CUDA1")]
    assert len(machine.pool.loaded) == 3
    status = machine.pool.status("large")
    assert status.device == "gpu0"
    assert set(status.memory) == {HOST, "gpu0"}


async def test_two_that_load_at_once_do_not_take_the_same_room(make_machine: Callable[..., Any]) -> None:
    machine = await make_machine(alike(2), sizes={"a": 20 * GIB, "b": 20 * GIB, "c": 4 * GIB})
    machine.held = {"a", "b"}
    first = asyncio.create_task(machine.use("a"))
    await until(lambda: machine.pool.state("a") is ModelState.STARTING)
    second = asyncio.create_task(machine.use("b"))  # the memory of the first is free still
    await until(lambda: machine.pool.state("b") is ModelState.STARTING)
    await machine.use("c")
    assert machine.started == [("a", "CUDA0"), ("b", "CUDA1"), ("c", "CUDA0")]
    for name in "ab":
        machine.engines[name].may_start.set()
    await soon(asyncio.gather(first, second))
    assert len(machine.pool.loaded) == 3


async def test_on_the_gpu_of_the_one_that_is_worth_least_room_is_made(make_machine: Callable[..., Any]) -> None:
    machine = await make_machine(alike(3), sizes=dict.fromkeys("abcd", 20 * GIB), scheduling={"policy": "lru"})
    for name in "abcbac":
        await machine.use(name)
    await asyncio.sleep(0.01)  # nobody lingers
    await machine.use("d")
    assert machine.started[-1] == ("d", "CUDA1")  # where b was, which was used the longest ago
    assert set(machine.pool.loaded) == {"a", "c", "d"}


async def test_what_fits_on_no_gpu_is_spread_and_comes_back_to_one_when_it_fits(
    make_machine: Callable[..., Any],
) -> None:
    machine = await make_machine(alike(2), sizes={"huge": HUGE, "a": 20 * GIB, "b": 20 * GIB})
    await machine.use("huge")
    assert machine.pool.status("huge").device is None
    await machine.use("a")
    await machine.use("b")
    assert machine.started == [("huge", None), ("a", "CUDA0"), ("b", "CUDA1")]
    assert set(machine.pool.loaded) == {"a", "b"}


async def test_after_an_unload_the_room_is_there_again(make_machine: Callable[..., Any]) -> None:
    machine = await make_machine(alike(2), sizes={"a": 20 * GIB, "b": 20 * GIB, "c": 20 * GIB})
    await machine.use("a")
    await machine.use("b")
    await soon(machine.pool.unload("a"))
    assert (await soon(machine.pool.outlook("c"))).way.device == "gpu0"
    await machine.use("c")
    assert machine.started[-1] == ("c", "CUDA0")
    assert set(machine.pool.loaded) == {"b", "c"}


async def test_another_catalog_with_the_same_entry_leaves_a_placed_model_alone(
    make_machine: Callable[..., Any],
) -> None:
    machine = await make_machine(alike(2), sizes={"a": 20 * GIB})
    await machine.use("a")
    machine.pool.replace_catalog(Catalog([replace(one, description="new") for one in machine.entries]))
    await machine.use("a")
    assert machine.started == [("a", "CUDA0")]
    outlook = await soon(machine.pool.outlook("a"))
    assert (outlook.way.device, outlook.victims) == ("gpu0", ())


async def test_without_admission_llama_cpp_decides(make_machine: Callable[..., Any]) -> None:
    machine = await make_machine(alike(2), sizes={"a": GIB}, memory={"admission": False})
    await machine.use("a")
    assert machine.started == [("a", None)]


# the process


@pytest.fixture
def make_engine(box: Box, short_folder: Path) -> Callable[..., LlamaEngine]:
    def make(one: ModelEntry, count: int, **llama: Any) -> LlamaEngine:
        return LlamaEngine(one, box.settings(count, llama=llama), RunFolder(short_folder / "run"))

    return make


@pytest.mark.parametrize(
    ("said", "device"),
    [
        ({"device": "CUDA1"}, "CUDA1"),
        ({"device": "none"}, "none"),
        ({"device": "cuda1, CUDA0", "tensor_split": [3, 1], "main_gpu": 1}, "cuda1,CUDA0"),
    ],
)
async def test_a_model_is_started_on_the_gpu_that_its_entry_names(
    said: dict[str, Any], device: str, make_engine: Callable[..., LlamaEngine], model: Path, tmp_path: Path
) -> None:
    binary = await asyncio.to_thread(write_binary, tmp_path, devices=["CUDA0", "CUDA1"])
    engine = await asyncio.to_thread(make_engine, entry(model, **said), 2, binary=binary)
    await soon(engine.start())
    argv = psutil.Process(engine.pid).cmdline()
    await soon(engine.stop())
    assert argv[argv.index("--device") + 1] == device
    assert "--split-mode" not in argv


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"device": "CUDA7"}, r"params\.device: there is no 'CUDA7'; llama-server can use CUDA0, CUDA1"),
        ({"device": "CUDA1,Vulkan0"}, r"params\.device: there is no 'Vulkan0'"),
        ({"tensor_split": [1, 1, 1]}, r"params\.tensor_split has 3 shares for 2 devices.*CUDA0, CUDA1"),
        ({"device": "CUDA1", "tensor_split": [1, 1]}, r"params\.tensor_split has 2 shares for 1 devices"),
        ({"tensor_split": [0, 0]}, r"params\.tensor_split gives no device a share"),
        ({"main_gpu": 2}, r"params\.main_gpu: there is no device 2, 0 is the first; .* CUDA0, CUDA1"),
    ],
)
async def test_devices_that_are_not_there_are_refused_by_name(
    said: dict[str, Any], message: str, make_engine: Callable[..., LlamaEngine], model: Path
) -> None:
    engine = await asyncio.to_thread(make_engine, entry(model, **said), 2)
    with pytest.raises(LoadFailed, match=message) as caught:
        await soon(engine.start())
    assert caught.value.should_retry is False
    await soon(engine.stop())


async def test_without_a_gpu_an_entry_that_names_one_is_told(
    make_engine: Callable[..., LlamaEngine], model: Path
) -> None:
    engine = await asyncio.to_thread(make_engine, entry(model, device="CUDA0"), 0)
    with pytest.raises(LoadFailed, match="there is no 'CUDA0'; this llama-server finds no GPU"):
        await soon(engine.start())
    await soon(engine.stop())
