"""How much memory is free now: the host's, or its control group's where that is less, and that of NVIDIA GPUs."""

from __future__ import annotations

import importlib
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import psutil

from manager.memory_cgroup import memory_limits
from manager.memory_smi import SMI, smi_rows

logger = logging.getLogger(__name__)

CGROUP_ROOT: Final = Path("/sys/fs/cgroup")
_OWN_GROUPS: Final = Path("/proc/self/cgroup")
_VISIBLE: Final = "CUDA_VISIBLE_DEVICES"
_MIB: Final = 1 << 20
# How old what nvidia-smi said may be for who only shows it, in seconds.
RECENT: Final = 180.0


@dataclass(frozen=True, slots=True)
class Free:
    """Bytes of one device. `limit` says what sets `total`: "host", "cgroup", or a GPU's name."""

    device: str
    total: int
    free: int
    limit: str


def host_free(root: Path = CGROUP_ROOT, groups: Path = _OWN_GROUPS) -> Free:
    """What a new process may take without swapping. Pages of files that nobody needs count as free."""
    memory = psutil.virtual_memory()
    lowest = Free("host", memory.total, memory.available, "host")
    for limit, used in memory_limits(root, groups, memory.total):
        free = max(0, limit - used)
        if free < lowest.free:
            lowest = Free("host", limit, free, "cgroup")
    return lowest


class Gpus:
    """NVIDIA GPUs by NVML, else by nvidia-smi. All methods block, and may be called in several threads.

    NVML is initialised once and kept. Where there is neither, that is remembered, and asking again costs nothing.
    `visible`, of each method, is the CUDA_VISIBLE_DEVICES of whoever uses the GPUs; None: that of our environment.
    GPUs are numbered in its order, as llama.cpp does, and where it is empty there are none.
    """

    def __init__(self, nvml: Callable[[], Any] = lambda: importlib.import_module("pynvml")) -> None:
        """`nvml` returns a module like pynvml, or raises ImportError."""
        self._import = nvml
        self._nvml: Any = None
        self._smi: str | None = None
        self._rows: tuple[float, list[list[str]]] = (0.0, [])  # of nvidia-smi, and when, by time.monotonic
        self._asked = False
        self._complained: set[str] = set()
        self._lock = threading.Lock()

    def free(self, visible: str | None = None, *, recent: bool = False) -> tuple[Free, ...]:
        """What is free on each; both numbers are 0 where a GPU does not tell, as one that uses the host's memory.

        `recent`: who asks every few seconds is content with what nvidia-smi, a process each time, said in the last
        RECENT seconds. NVML is asked anew.
        """
        self._ask()
        if self._nvml is not None:
            return tuple(self._free(number, handle) for number, handle in enumerate(self._visible(visible).values()))
        return () if self._smi is None else _by_smi(self._by_process(self._smi, recent), visible)

    def lost(self) -> dict[int, str]:
        """The GPUs that don't answer, which `free` leaves out: why, by NVML's number, which nvidia-smi shows too."""
        self._ask()
        return {} if self._nvml is None else self._sorted()[1]

    def places(self, visible: str | None = None) -> tuple[int, ...]:
        """Which GPUs of the machine those of `free` are, in its order, by the number that nvidia-smi shows."""
        self._ask()
        if self._nvml is None:
            return () if self._smi is None else tuple(_seen(smi_rows(self._smi), visible))
        return tuple(self._visible(visible))

    def used(self, pids: Collection[int], visible: str | None = None) -> dict[str, int]:
        """Bytes that these processes have together of each GPU; without those of which NVML does not know it.

        In a container NVML may know processes by other numbers: what it does not list is not known, and not 0.
        """
        self._ask()
        if self._nvml is None:
            return {}
        found = {}
        for number, handle in enumerate(self._visible(visible).values()):
            try:
                processes = self._nvml.nvmlDeviceGetComputeRunningProcesses(handle)
            except self._nvml.NVMLError as error:
                self._complain(f"processes of gpu{number}: {error}")
                continue
            # Not every driver tells how much each has.
            sizes = [process.usedGpuMemory for process in processes if process.pid in pids]
            if sizes and None not in sizes:
                found[f"gpu{number}"] = sum(sizes)
        return found

    def _ask(self) -> None:
        """Find out once what there is to ask."""
        with self._lock:
            if self._asked:
                return
            self._nvml = self._started()
            if self._nvml is None:
                self._smi = shutil.which(SMI)
                if self._smi is not None and not _by_smi(self._by_process(self._smi), None):
                    self._smi = None
            self._asked = True

    def _by_process(self, program: str, recent: bool = False) -> list[list[str]]:
        """The rows of nvidia-smi; none where it failed."""
        at, rows = self._rows
        if not recent or time.monotonic() > at + RECENT:
            rows = smi_rows(program)
            self._rows = time.monotonic(), rows
        return rows

    def _started(self) -> Any:
        try:
            nvml = self._import()
        except ImportError:
            return None
        try:
            nvml.nvmlInit()
            return nvml if nvml.nvmlDeviceGetCount() else None
        except nvml.NVMLError as error:
            logger.debug("nvml=unavailable: %s", error)
            return None

    def _sorted(self) -> tuple[dict[int, Any], dict[int, str]]:
        """Handles by NVML's number, and why a GPU has none, by its number. One that fails must not hide the others."""
        nvml, working, lost = self._nvml, dict[int, Any](), dict[int, str]()
        try:
            count = nvml.nvmlDeviceGetCount()
        except nvml.NVMLError as error:
            self._complain(str(error))
            count = 0
        for number in range(count):
            try:
                working[number] = nvml.nvmlDeviceGetHandleByIndex(number)
            except nvml.NVMLError as error:
                self._complain(f"GPU {number}: {error}")
                lost[number] = str(error)
        return working, lost

    def _visible(self, visible: str | None) -> dict[int, Any]:
        """Handles of the GPUs that work and are visible, in that order, by NVML's number. CUDA counts these alone."""
        working, _ = self._sorted()
        chosen = _chosen(visible)
        if chosen is None:
            return working
        names = chosen.split(",")
        by_number = all(name.strip().isdecimal() for name in names)
        found = [*working.items()]
        identities = [""] * len(found) if by_number else [self._identity(*one) for one in found]
        return dict(found[position] for position in _visible(names, identities))

    def _identity(self, number: int, handle: Any) -> str:
        """The UUID; empty, which begins with no name, where it is not told."""
        try:
            return _text(self._nvml.nvmlDeviceGetUUID(handle))
        except self._nvml.NVMLError as error:
            self._complain(f"UUID of GPU {number}: {error}")
            return ""

    def _free(self, number: int, handle: Any) -> Free:
        nvml, name, total, free = self._nvml, "NVIDIA GPU", 0, 0
        try:
            name = _text(nvml.nvmlDeviceGetName(handle))
            memory = nvml.nvmlDeviceGetMemoryInfo(handle)
            total, free = int(memory.total), int(memory.free)
        except nvml.NVMLError as error:
            self._complain(f"memory of gpu{number}: {error}")
        return Free(f"gpu{number}", total, free, name)

    def _complain(self, what: str) -> None:
        """Once: it is asked again and again."""
        if what not in self._complained:
            self._complained.add(what)
            logger.warning("nvml=failed: %s", what)


@cache
def gpus() -> Gpus:
    """Those of this machine."""
    return Gpus()


def gpus_free(visible: str | None = None) -> tuple[Free, ...]:
    """See Gpus.free. Blocks."""
    return gpus().free(visible)


def _chosen(visible: str | None) -> str | None:
    return os.environ.get(_VISIBLE) if visible is None else visible


def _visible(names: Sequence[str], identities: Sequence[str]) -> list[int]:
    """Positions of the GPUs that CUDA_VISIBLE_DEVICES names, by number or beginning of the UUID.

    As CUDA reads it: what follows a name that means nothing does not count, and where one is named twice, nothing does.
    """
    positions: list[int] = []
    for name in map(str.strip, names):
        if name.isdecimal():
            found = [int(name)] if int(name) < len(identities) else []
        else:
            found = [position for position, identity in enumerate(identities) if name and identity.startswith(name)]
        if len(found) != 1:
            break
        if found[0] in positions:
            return []
        positions += found
    return positions


def _by_smi(rows: Sequence[Sequence[str]], visible: str | None) -> tuple[Free, ...]:
    return tuple(_smi_row(number, rows[position]) for number, position in enumerate(_seen(rows, visible)))


def _seen(rows: Sequence[Sequence[str]], visible: str | None) -> Sequence[int]:
    """Positions of the visible ones."""
    chosen = _chosen(visible)
    return range(len(rows)) if chosen is None else _visible(chosen.split(","), [row[1] for row in rows])


def _smi_row(number: int, row: Sequence[str]) -> Free:
    _, _, total, free, name = row
    # Some devices share the host's memory and say "[N/A]".
    sizes = [int(cell) * _MIB if cell.isdecimal() else 0 for cell in (total, free)]
    return Free(f"gpu{number}", sizes[0], sizes[1], name)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
