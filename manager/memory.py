"""What a GGUF model will take before it is loaded, by part and by device. docs/memory.md explains the formulas."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
    window_of,
    work_bytes,
)

HOST: Final = "host"
UNLIMITED: Final = -1
# A context of CUDA or ROCm on a GPU. An assumption: not measured.
_GPU_CONTEXT: Final = 400 * MIB


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
    entry: ModelEntry, launcher: Launcher, gpus: Sequence[float] = (), *, facts: ModelFacts | None = None
) -> Estimate:
    """What the entry will take; of the model's own file nothing is read where its `facts` are given. Blocks.

    `gpus`: a number for each GPU that llama.cpp will use, by which it shares the layers out where the entry has no
    tensor_split (llama.cpp takes what is free on each). Raises LoadFailed or OSError where a header can't be read.
    """
    facts = read_model(entry.path) if facts is None else facts
    plan = _Plan(facts, entry.params, launcher, gpus)
    parts = [*plan.parts(), *_extras(entry)]
    merged = {(part.name, part.device): 0 for part in parts if part.size}
    for part in parts:
        if part.size:
            merged[part.name, part.device] += part.size
    return Estimate(
        parts=tuple(Part(name, device, size) for (name, device), size in merged.items()),
        reclaimable=plan.reclaimable,
        later=tuple(part for part in plan.later() if part.size),
    )


def _extras(entry: ModelEntry) -> Iterator[Part]:
    for adapter in entry.params.lora:
        yield Part("lora", HOST, tensor_bytes(Path(adapter.path)))
    if entry.mmproj is not None:
        weights, buffers = read_projector(entry.mmproj)
        yield Part("mmproj", HOST, weights)
        yield Part("compute", HOST, buffers)


class _Plan:
    """Where everything goes: the last layers to the GPUs, as llama_model_base::load_tensors does it."""

    def __init__(self, facts: ModelFacts, params: LlamaParams, launcher: Launcher, gpus: Sequence[float]) -> None:
        self._facts = facts
        self._params = params
        self._launcher = launcher
        self._window = window_of(facts, params)
        self._shares = _shares(params, gpus)
        wanted = params.gpu_layers
        # Left out, it is as many as fit; what fits is what the estimate is for.
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
        yield Part("process", HOST, process_bytes(facts, self._launcher))

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
            yield Part("process", gpu, _GPU_CONTEXT)
        # With all layers on GPUs the host still holds the inputs; with fewer, a graph of its own.
        yield Part("compute", HOST, size + work_bytes(self._facts, self._params, self._window))

    def _device(self, number: int) -> str:
        position = number - (len(self._facts.layers) + 1 - self._offloaded)
        if position < 0:
            return HOST
        total = sum(self._shares)
        bounds = [share / total for share in accumulate(self._shares)]
        return f"gpu{min(bisect_right(bounds, position / self._offloaded), len(bounds) - 1)}"


def _shares(params: LlamaParams, gpus: Sequence[float]) -> list[float]:
    """The part of each GPU; one that is passed over has 0."""
    if not gpus or params.gpu_layers == 0:
        return []
    if params.split_mode == "none":
        main = min(params.main_gpu or 0, len(gpus) - 1)
        return [float(number == main) for number in range(len(gpus))]
    split = [*(params.tensor_split or ())][: len(gpus)]
    shares = [*split, *[0.0] * (len(gpus) - len(split))]
    return shares if sum(shares) > 0 else [float(free) for free in gpus]
