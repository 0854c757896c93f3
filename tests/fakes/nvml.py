"""Stands in for the module pynvml: GPUs, the processes on them, and errors, as a test wants them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


class NVMLError(Exception):
    pass


@dataclass
class Memory:
    total: int
    free: int


@dataclass
class Process:
    """`usedGpuMemory` as pynvml has it: None where the driver does not tell."""

    pid: int
    usedGpuMemory: int | None


@dataclass
class Gpu:
    """`used`: bytes by pid. `broken`: names of the functions that fail for it."""

    total: int = 24 << 30
    free: int = 20 << 30
    uuid: str = "GPU-0000"
    name: str = "NVIDIA A10"
    used: Mapping[int, int | None] = field(default_factory=dict)
    broken: Sequence[str] = ()


class FakeNvml:
    """What manager.memory_free uses of pynvml. `starts`: how often it was initialised."""

    NVMLError = NVMLError

    def __init__(self, *gpus: Gpu, fails: bool = False) -> None:
        self.gpus = gpus
        self.fails = fails
        self.starts = 0

    def __call__(self) -> FakeNvml:
        """As an import: returns the module."""
        return self

    def nvmlInit(self) -> None:
        self.starts += 1
        if self.fails:
            raise NVMLError("Driver Not Loaded")

    def nvmlDeviceGetCount(self) -> int:
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Gpu:
        return self._working(self.gpus[index], "handle")

    def nvmlDeviceGetUUID(self, gpu: Gpu) -> str:
        return self._working(gpu, "uuid").uuid

    def nvmlDeviceGetName(self, gpu: Gpu) -> bytes:
        return self._working(gpu, "name").name.encode()

    def nvmlDeviceGetMemoryInfo(self, gpu: Gpu) -> Memory:
        self._working(gpu, "memory")
        return Memory(gpu.total, gpu.free)

    def nvmlDeviceGetComputeRunningProcesses(self, gpu: Gpu) -> list[Process]:
        self._working(gpu, "processes")
        return [Process(pid, size) for pid, size in gpu.used.items()]

    def _working(self, gpu: Gpu, what: str) -> Gpu:
        if what in gpu.broken:
            raise NVMLError("Not Supported")
        return gpu
