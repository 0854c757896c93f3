"""How much memory is free now: the host's, or its control group's where that is less, and that of NVIDIA GPUs."""

from __future__ import annotations

import importlib
import logging
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import psutil

logger = logging.getLogger(__name__)

CGROUP_ROOT: Final = Path("/sys/fs/cgroup")
_OWN_GROUPS: Final = Path("/proc/self/cgroup")
_VISIBLE: Final = "CUDA_VISIBLE_DEVICES"
_SMI: Final = "nvidia-smi"
_SMI_TIMEOUT: Final = 10.0
_SMI_COLUMNS: Final = ("index", "uuid", "memory.total", "memory.free", "name")
_MIB: Final = 1 << 20


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
    for limit, used in _limits(root, groups, memory.total):
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
        self._asked = False
        self._complained: set[str] = set()
        self._lock = threading.Lock()

    def free(self, visible: str | None = None) -> tuple[Free, ...]:
        """What is free on each; both numbers are 0 where a GPU does not tell, as one that uses the host's memory."""
        self._ask()
        if self._nvml is not None:
            return tuple(self._free(number, handle) for number, handle in enumerate(self._handles(visible)))
        return () if self._smi is None else _by_smi(self._smi, visible)

    def used(self, pids: Collection[int], visible: str | None = None) -> dict[str, int]:
        """Bytes that these processes have together of each GPU; without those of which NVML does not know it.

        In a container NVML may know processes by other numbers: what it does not list is not known, and not 0.
        """
        self._ask()
        if self._nvml is None:
            return {}
        found = {}
        for number, handle in enumerate(self._handles(visible)):
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
                self._smi = shutil.which(_SMI)
                if self._smi is not None and not _by_smi(self._smi, None):
                    self._smi = None
            self._asked = True

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

    def _handles(self, visible: str | None) -> list[Any]:
        nvml = self._nvml
        try:
            handles = [nvml.nvmlDeviceGetHandleByIndex(number) for number in range(nvml.nvmlDeviceGetCount())]
            chosen = os.environ.get(_VISIBLE) if visible is None else visible
            if chosen is None:
                return handles
            identities = [_text(nvml.nvmlDeviceGetUUID(handle)) for handle in handles]
            return [handles[position] for position in _visible(chosen, identities)]
        except nvml.NVMLError as error:
            self._complain(str(error))
            return []

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


def _limits(root: Path, groups: Path, total: int) -> Iterator[tuple[int, int]]:
    """Limit, below `total`, and use of our control group and of those around it.

    These are in version 2 the one tree, in version 1 that of memory.
    """
    try:
        lines = groups.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            yield from _group_limits(root, path, total, "memory.max", "memory.current", "")
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
            yield from _group_limits(root / "memory", path, total, *names)


def _group_limits(root: Path, path: str, total: int, limit: str, used: str, prefix: str) -> Iterator[tuple[int, int]]:
    folder = root / path.lstrip("/")
    # Pages of files can be taken back, those of a mapped model that is in use as well: the kernel calls both available.
    files = {f"{prefix}inactive_file", f"{prefix}active_file"}
    # In a container the path may be the host's, and only its own root is there.
    for group in (folder, *(parent for parent in folder.parents if parent.is_relative_to(root))):
        with suppress(OSError, ValueError):  # no limit is the word "max"
            most = int((group / limit).read_text())
            if most < total:
                now = int((group / used).read_text())
                yield most, max(0, now - _stat(group / "memory.stat", files))


def _stat(file: Path, keys: Collection[str]) -> int:
    with suppress(OSError, ValueError):
        return sum(int(value) for name, value in map(str.split, file.read_text().splitlines()) if name in keys)
    return 0


def _visible(chosen: str, identities: Sequence[str]) -> list[int]:
    """Positions of the GPUs that CUDA_VISIBLE_DEVICES names, by number or beginning of the UUID.

    As CUDA reads it: what follows a name that means nothing does not count.
    """
    positions: list[int] = []
    for name in (part.strip() for part in chosen.split(",")):
        if name.isdecimal():
            found = [int(name)] if int(name) < len(identities) else []
        else:
            found = [position for position, identity in enumerate(identities) if name and identity.startswith(name)]
        if len(found) != 1:
            break
        positions += found
    return positions


def _by_smi(program: str, visible: str | None) -> tuple[Free, ...]:
    query = [f"--query-gpu={','.join(_SMI_COLUMNS)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(  # noqa: S603  the program that PATH names
            [program, *query], stdin=subprocess.DEVNULL, capture_output=True, timeout=_SMI_TIMEOUT, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        logger.debug("%s=failed: %s", _SMI, error)
        return ()
    lines = [line for line in done.stdout.decode("utf-8", "replace").splitlines() if line.count(",") > 3]
    rows = [[cell.strip() for cell in line.split(",", 4)] for line in lines]
    chosen = os.environ.get(_VISIBLE) if visible is None else visible
    positions = range(len(rows)) if chosen is None else _visible(chosen, [row[1] for row in rows])
    return tuple(_smi_row(number, rows[position]) for number, position in enumerate(positions))


def _smi_row(number: int, row: Sequence[str]) -> Free:
    _, _, total, free, name = row
    # Some devices share the host's memory and say "[N/A]".
    sizes = [int(cell) * _MIB if cell.isdecimal() else 0 for cell in (total, free)]
    return Free(f"gpu{number}", sizes[0], sizes[1], name)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
