"""What a GGUF model will take before it is loaded, by part and by device. docs/memory.md explains the formulas."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Final

from manager.engines.llama.arguments import CACHE_RAM_MIB
from manager.engines.llama.native import Launcher
from manager.entry import LlamaParams, ModelEntry
from manager.memory_model import ModelFacts, read_model, read_projector, tensor_bytes
from manager.memory_sizes import (
    MIB,
    cache_bytes,
    checkpoint_bytes,
    compute_bytes,
    output_bytes,
    process_bytes,
    state_bytes,
    vocabulary_bytes,
    window_of,
    work_bytes,
)

HOST: Final = "host"
UNLIMITED: Final = -1
# A context of CUDA or ROCm on a GPU. An assumption: not measured.
_GPU_CONTEXT: Final = 400 * MIB
# What llama.cpp leaves free of each GPU where it decides on gpu_layers itself (fit_params_target in common/common.h).
FIT_MARGIN: Final = 1024 * MIB
_SHARED_WITH_DRAFT: Final = (
    *("batch_size", "device", "flash_attn", "kv_unified", "main_gpu", "mmap", "parallel", "split_mode", "tensor_split"),
    "ubatch_size",
)


@dataclass(frozen=True, slots=True)
class Part:
    """`name` says what takes `size` bytes on `device`: "host", "gpu0", "gpu1", …"""

    name: str
    device: str
    size: int


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a model takes once it has been used to the full, in bytes.

    `reclaimable` of the host's share is pages of the file that the kernel can take back at no cost, because what they
    hold was copied. `later` is not part of `total`: it grows with use, up to these sizes; UNLIMITED is -1.
    """

    parts: tuple[Part, ...]
    reclaimable: int
    later: tuple[Part, ...]

    @property
    def total(self) -> int:
        return sum(part.size for part in self.parts)

    @property
    def devices(self) -> dict[str, int]:
        """Bytes by device, the host first."""
        names = dict.fromkeys([HOST, *(part.device for part in self.parts)])
        return {name: sum(part.size for part in self.parts if part.device == name) for name in names}

    def of(self, name: str) -> int:
        """Bytes of one part on all devices."""
        return sum(part.size for part in self.parts if part.name == name)

    def needed(self, device: str) -> int:
        """What has to be free there before the load."""
        return self.devices.get(device, 0) - (self.reclaimable if device == HOST else 0)


def estimate(
    entry: ModelEntry, launcher: Launcher, gpus: Sequence[float] = (), *, room: Sequence[int] = ()
) -> Estimate:
    """What the entry will take. Reads headers, and remembers the last ones. Blocks.

    `gpus`: a number for each GPU that llama.cpp will use, by which it shares the layers out where the entry has no
    tensor_split (llama.cpp takes what is free on each). `room`: the bytes that the model may have on each; where
    the entry leaves gpu_layers open, as many layers go to the GPUs as they have room for.
    Raises LoadFailed or OSError where a header can't be read.
    """
    facts, params = read_model(entry.path), entry.llama
    extras = [*_extras(entry, named_gpus(params.device, len(gpus)))]
    drafting = None
    if params.draft_model is not None:
        drafting = _DraftPlan(read_model(Path(params.draft_model)), _draft_params(facts, params), launcher, gpus)

    def with_layers(count: int | None) -> Estimate:
        return _assembled(_Plan(facts, params, launcher, gpus, count), drafting, extras)

    whole = with_layers(None)
    if params.gpu_layers is not None or not room or _fits(whole, room):
        return whole
    # The least count that does not fit, and one less.
    most = bisect_left(range(len(facts.layers) + 1), True, key=lambda count: not _fits(with_layers(count), room))
    return with_layers(max(0, most - 1))


def _fits(found: Estimate, room: Sequence[int]) -> bool:
    needed = [found.needed(f"gpu{number}") for number in range(len(room))]
    return all(size == 0 or size + FIT_MARGIN <= most for size, most in zip(needed, room, strict=True))


def _assembled(plan: _Plan, drafting: _DraftPlan | None, extras: Sequence[Part]) -> Estimate:
    parts = [*plan.parts(), *extras]
    if drafting is not None:
        parts += (replace(part, name="draft") for part in drafting.parts())
    contexts = {part.device for part in parts if part.name == "process"}
    parts += (
        Part("process", gpu, _GPU_CONTEXT) for gpu in sorted({part.device for part in parts if part.size} - contexts)
    )
    merged = {(part.name, part.device): 0 for part in parts if part.size}
    for part in parts:
        if part.size:
            merged[part.name, part.device] += part.size
    return Estimate(
        parts=tuple(Part(name, device, size) for (name, device), size in merged.items()),
        reclaimable=plan.reclaimable + (0 if drafting is None else drafting.reclaimable),
        later=tuple(part for part in plan.later() if part.size),
    )


def _draft_params(facts: ModelFacts, params: LlamaParams) -> LlamaParams:
    """Those of the model that drafts for this one: of all the others it has its own (common/speculative.cpp)."""
    return LlamaParams(
        model=params.draft_model or "",
        ctx_size=window_of(facts, params).cells,
        gpu_layers=params.draft_gpu_layers,
        **{name: getattr(params, name) for name in _SHARED_WITH_DRAFT},
    )


def _extras(entry: ModelEntry, gpus: Sequence[int]) -> Iterator[Part]:
    """`gpus`: those that the entry may use."""
    for adapter in entry.llama.lora:
        yield Part("lora", HOST, tensor_bytes(Path(adapter.path)))
    if entry.mmproj is not None:
        # The first device has it, whatever gpu_layers says (mmproj_device in common/arg.cpp, clip_ctx in mtmd).
        device = f"gpu{gpus[0]}" if gpus else HOST
        weights, buffers = read_projector(entry.mmproj)
        yield Part("mmproj", device, weights)
        yield Part("compute", device, buffers)


class _Plan:
    """Where everything goes: the last layers to the GPUs, as llama_model_base::load_tensors does it."""

    def __init__(
        self,
        facts: ModelFacts,
        params: LlamaParams,
        launcher: Launcher,
        gpus: Sequence[float],
        layers: int | None = None,
    ) -> None:
        """`layers`: how many go to the GPUs where `params` leaves it open; None: all."""
        self._facts = facts
        self._params = params
        self._launcher = launcher
        self._window = window_of(facts, params)
        self._shares = _shares(params, gpus)
        wanted = layers if params.gpu_layers is None else params.gpu_layers
        everything = len(facts.layers) + 1
        self._offloaded = (
            0 if not self._shares else everything if wanted in (None, -1) else min(wanted or 0, everything)
        )
        self._mapped = params.mmap is not False
        # Weights are copied for the CPU only where there is no GPU (make_cpu_buft_list in src/llama-model.cpp).
        self._copied = 0 if self._shares else sum(layer.copied for layer in facts.layers) + facts.output_copied
        # Of embeddings that are also the output the original is needed beside the copy.
        self._beside = facts.output_copied if facts.tied and not self._shares else 0
        self.reclaimable = self._copied - self._beside if self._mapped else 0

    def parts(self) -> Iterator[Part]:
        facts, params, window = self._facts, self._params, self._window
        yield Part("weights", HOST, facts.input)
        for number, layer in enumerate(facts.layers):
            device = self._device(number)
            yield Part("weights", device, layer.weights)
            yield Part("cache", device, cache_bytes(layer, facts, params, window))
            yield Part("state", device, state_bytes(layer, params))
        last = self._device(len(facts.layers))
        # Embeddings that are also the output are there twice, unless both are in one place.
        yield Part("weights", last, facts.output + (facts.tied if last != HOST else 0))
        # Without a map a copy takes the place of what it was made of.
        yield Part("copies", HOST, self._copied if self._mapped else self._beside)
        yield from self._buffers()
        yield Part("output", HOST, output_bytes(facts, params, window))
        yield Part("process", HOST, self._process())

    def later(self) -> Iterator[Part]:
        """What grows after the load: copies of earlier prompts, and points to go back to."""
        mib = CACHE_RAM_MIB if self._params.cache_ram_mib is None else self._params.cache_ram_mib
        yield Part("prompt cache", HOST, UNLIMITED if mib < 0 else mib * MIB)
        yield Part("checkpoints", HOST, checkpoint_bytes(self._facts, self._params, self._window))

    def _buffers(self) -> Iterator[Part]:
        size = compute_bytes(self._facts, self._params, self._window)
        gpus = {self._device(number) for number in range(len(self._facts.layers) + 1)} - {HOST}
        for gpu in sorted(gpus):
            yield Part("compute", gpu, size)
            yield Part("process", gpu, self._gpu_context())
        # With all layers on GPUs the host still holds the inputs; with fewer, a graph of its own.
        yield Part("compute", HOST, size + work_bytes(self._facts, self._params, self._window))

    def _process(self) -> int:
        return process_bytes(self._facts, self._launcher)

    def _gpu_context(self) -> int:
        return _GPU_CONTEXT

    def _device(self, number: int) -> str:
        position = number - (len(self._facts.layers) + 1 - self._offloaded)
        if position < 0:
            return HOST
        total = sum(share for _, share in self._shares)
        bounds = [most / total for most in accumulate(share for _, share in self._shares)]
        chosen = min(bisect_right(bounds, position / self._offloaded), len(bounds) - 1)
        return f"gpu{self._shares[chosen][0]}"


class _DraftPlan(_Plan):
    """A second model in the same process."""

    def _process(self) -> int:
        return vocabulary_bytes(self._facts, self._launcher)

    def _gpu_context(self) -> int:
        return 0


def _shares(params: LlamaParams, gpus: Sequence[float]) -> list[tuple[int, float]]:
    """The numbers of the GPUs that are used, in llama.cpp's order, and the part of each; it may be 0."""
    numbers = named_gpus(params.device, len(gpus))
    if not numbers or params.gpu_layers == 0:
        return []
    if params.split_mode == "none":
        return [(numbers[min(params.main_gpu or 0, len(numbers) - 1)], 1.0)]
    split = [*(params.tensor_split or ())][: len(numbers)]
    shares = [*split, *[0.0] * (len(numbers) - len(split))]
    return list(zip(numbers, shares if sum(shares) > 0 else [gpus[number] for number in numbers], strict=True))


def named_gpus(chosen: str | None, count: int) -> list[int]:
    """The GPUs that params.device names; a name that is none of CUDA's counts as all of them, as no name does."""
    if chosen is not None and chosen.strip().lower() == "none":
        return []
    numbers = cuda_numbers(chosen)
    return numbers if numbers and max(numbers) < count else list(range(count))


def cuda_numbers(chosen: str | None) -> list[int]:
    """The numbers in params.device, in its order; none where one of its names is none of CUDA's."""
    names = [] if chosen is None else [name.strip().lower() for name in chosen.split(",")]
    numbers = [name.removeprefix("cuda") for name in names]
    known = all(name.startswith("cuda") and number.isdecimal() for name, number in zip(names, numbers, strict=True))
    return list(dict.fromkeys(map(int, numbers))) if known else []
