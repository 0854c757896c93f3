"""What tensors take and how they are given back: small modules made here, and a random model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch import nn

from manager.engines.hf.batch.packing import PackedLinear, pack
from manager.engines.hf.footprint import own, release, storage_bytes
from tests.hf_models import tiny_text

MIB = 1 << 20


class Pair(nn.Module):
    """Two layers whose weights may be one."""

    def __init__(self, *, tied: bool) -> None:
        super().__init__()
        self.table = nn.Embedding(100, 8)
        self.head = nn.Linear(8, 100, bias=False)
        if tied:
            self.head.weight = self.table.weight
        self.register_buffer("positions", torch.zeros(10, dtype=torch.int64))


@pytest.mark.parametrize(("tied", "tables"), [(True, 1), (False, 2)])
def test_each_storage_counts_once(tied: bool, tables: int) -> None:
    assert storage_bytes(Pair(tied=tied)) == {"host": tables * 100 * 8 * 4 + 10 * 8}


def test_a_part_of_a_storage_keeps_all_of_it() -> None:
    module = nn.Module()
    module.weight = nn.Parameter(torch.zeros(1000)[:10])
    module.other = torch.zeros(5)  # neither parameter nor buffer
    assert storage_bytes(module) == {"host": 4000 + 20}


def test_packed_weights_count_as_large_as_they_are() -> None:
    linear = nn.Linear(64, 32)
    packed = PackedLinear(linear)
    assert storage_bytes(packed) == storage_bytes(linear) == {"host": 4 * (64 * 32 + 32)}


def test_tensors_without_values_take_nothing() -> None:
    assert storage_bytes(nn.Linear(64, 32, device="meta")) == {"host": 0}


class Halves(torch.Tensor):
    """A tensor that is made of two others, as those of quantised weights are."""

    first: torch.Tensor
    second: torch.Tensor

    def __new__(cls, first: torch.Tensor, second: torch.Tensor) -> Halves:
        make: Any = torch.Tensor._make_wrapper_subclass
        made: Halves = make(cls, first.shape, dtype=first.dtype)
        made.first, made.second = first, second
        return made

    @classmethod
    def __torch_dispatch__(cls, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError  # nothing is computed with it

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["first", "second"], None


def test_tensors_made_of_others_take_what_these_take() -> None:
    module = nn.Module()
    module.both = Halves(torch.zeros(10), torch.zeros(10))
    assert storage_bytes(module) == {"host": 80}


# what lies in mapped files


@pytest.fixture
def mapped(tmp_path: Path) -> tuple[Path, Any]:
    """A file of a MiB and a tensor of its bytes that is mapped."""
    path = tmp_path / "weights"
    path.write_bytes(b"\1" * MIB)
    return path, torch.from_file(str(path), shared=False, size=MIB, dtype=torch.uint8)


@pytest.mark.skipif(not psutil.LINUX, reason="what is mapped is told on Linux only")
def test_mapped_weights_become_our_own_and_stay_the_same(mapped: tuple[Path, Any]) -> None:
    path, tensor = mapped
    module = nn.Module()
    module.first = nn.Parameter(tensor.view(torch.float16)[: MIB // 4].view(-1, 64), requires_grad=False)
    module.second = nn.Parameter(tensor.view(torch.float16)[MIB // 4 :], requires_grad=False)
    module.tied = module.first
    module.plain = nn.Parameter(torch.zeros(7))
    before = [one.clone() for one in module.parameters()]
    plain = module.plain.data_ptr()
    del tensor, mapped
    assert is_mapped(module.first)
    assert own(module) == MIB
    assert not is_mapped(module.first)
    assert module.plain.data_ptr() == plain
    assert module.tied is module.first
    assert module.first.untyped_storage().data_ptr() == module.second.untyped_storage().data_ptr()
    assert storage_bytes(module) == {"host": MIB + 28}
    assert all(torch.equal(old, new) for old, new in zip(before, module.parameters(), strict=True))
    assert own(module) == 0
    path.write_bytes(b"")  # somebody cuts it off, and nobody dies of it
    assert torch.equal(module.first, before[0])


def is_mapped(tensor: Any) -> bool:
    place = tensor.data_ptr()
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, _, end = line.split()[0].partition("-")
        if int(start, 16) <= place < int(end, 16):
            return line.split()[4] != "0"
    return False


# giving back


def test_a_released_model_holds_nothing_whoever_refers_to_it() -> None:
    inner, linear = Pair(tied=True), nn.Linear(64, 32)
    model = nn.Sequential(inner, linear)
    parameter, buffer = linear.weight, inner.get_buffer("positions")
    release(model)
    assert storage_bytes(model) == storage_bytes(inner) == {"host": 0}
    assert parameter.untyped_storage().nbytes() == buffer.untyped_storage().nbytes() == 0
    assert list(model.modules()) == [model]


def test_a_released_model_gives_packed_weights_and_hooks_back() -> None:
    model = nn.Sequential(PackedLinear(nn.Linear(64, 32)))
    packed = model[0]
    kept = torch.zeros(5)
    packed._hf_hook = type("Hook", (), {"weights": kept})()
    release(model)
    assert storage_bytes(packed) == {"host": 0}
    assert "_hf_hook" not in vars(packed)


def test_weights_of_inference_mode_are_given_back_too() -> None:
    with torch.inference_mode():
        model = nn.Linear(64, 32)
        weight = model.weight
    release(model)
    assert weight.untyped_storage().nbytes() == 0


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Threads of OpenMP wait for each other in a busy loop, which takes long where others want the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.usefixtures("one_thread")
@pytest.mark.skipif(not psutil.LINUX, reason="private memory is told on Linux only")
def test_ten_cycles_of_load_and_unload_leave_nothing_behind(tmp_path: Path) -> None:
    """What counts is memory of our own, as pages of libraries are shared with whoever else runs."""
    from transformers import AutoModelForCausalLM

    folder = tiny_text(tmp_path / "model", hidden=512, layers=8)
    held: list[Any] = []  # somebody still refers to them
    sizes: list[int] = []
    size = 0
    for _ in range(10):
        model = AutoModelForCausalLM.from_pretrained(folder)
        pack(model)
        own(model)
        size = storage_bytes(model)["host"]
        loaded = private()
        with torch.inference_mode():
            model(torch.arange(16)[None], logits_to_keep=1)
        release(model)
        held.append(model)
        sizes.append(private())
        assert loaded - sizes[-1] > 0.9 * size
    assert size > 40 * MIB
    assert max(sizes[1:]) - sizes[0] < 0.02 * size


def private() -> int:
    """Bytes of this process that lie in no file."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) << 10
    raise AssertionError("smaps_rollup names no anonymous memory")
