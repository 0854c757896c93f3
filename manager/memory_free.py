"""How much memory is free now: the host's, or its control group's where that is less, and that of NVIDIA GPUs."""

from __future__ import annotations

import importlib
import logging
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil

logger = logging.getLogger(__name__)

CGROUP_ROOT: Final = Path("/sys/fs/cgroup")
_OWN_GROUPS: Final = Path("/proc/self/cgroup")
_SMI: Final = "nvidia-smi"
_SMI_TIMEOUT: Final = 10.0
_SMI_COLUMNS: Final = ("index", "memory.total", "memory.free", "name")
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
    for limit, used in _limits(root, groups):
        free = max(0, limit - used)
        if limit < lowest.total and free < lowest.free:
            lowest = Free("host", limit, free, "cgroup")
    return lowest


def gpus_free() -> tuple[Free, ...]:
    """NVIDIA GPUs by NVML where its Python package is installed, else by nvidia-smi; none where neither is. Blocks."""
    with suppress(ImportError):
        return _nvml(importlib.import_module("pynvml"))
    program = shutil.which(_SMI)
    return () if program is None else _smi(program)


def _limits(root: Path, groups: Path) -> Iterator[tuple[int, int]]:
    """Limit and use of our control group and of those around it (version 2, and the memory tree of version 1)."""
    try:
        lines = groups.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            yield from _group_limits(root, path, "memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            yield from _group_limits(
                root / "memory", path, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
            )


def _group_limits(root: Path, path: str, limit: str, used: str, idle: str) -> Iterator[tuple[int, int]]:
    folder = root / path.lstrip("/")
    # In a container the path may be the host's, and only its own root is there.
    for group in (folder, *(parent for parent in folder.parents if parent.is_relative_to(root))):
        with suppress(OSError, ValueError):  # no limit is the word "max"
            most, now = int((group / limit).read_text()), int((group / used).read_text())
            yield most, max(0, now - _stat(group / "memory.stat", idle))


def _stat(file: Path, key: str) -> int:
    with suppress(OSError, ValueError):
        return next((int(value) for name, value in map(str.split, file.read_text().splitlines()) if name == key), 0)
    return 0


def _nvml(nvml: Any) -> tuple[Free, ...]:
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        logger.debug("nvml=unavailable: %s", error)
        return ()
    try:
        found = []
        for number in range(nvml.nvmlDeviceGetCount()):
            handle = nvml.nvmlDeviceGetHandleByIndex(number)
            memory, name = nvml.nvmlDeviceGetMemoryInfo(handle), nvml.nvmlDeviceGetName(handle)
            text = name.decode() if isinstance(name, bytes) else str(name)
            found.append(Free(f"gpu{number}", int(memory.total), int(memory.free), text))
        return tuple(found)
    except nvml.NVMLError as error:
        logger.warning("nvml=failed: %s", error)
        return ()
    finally:
        nvml.nvmlShutdown()


def _smi(program: str) -> tuple[Free, ...]:
    query = [f"--query-gpu={','.join(_SMI_COLUMNS)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(  # noqa: S603  the program that PATH names
            [program, *query], stdin=subprocess.DEVNULL, capture_output=True, timeout=_SMI_TIMEOUT, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        logger.debug("%s=failed: %s", _SMI, error)
        return ()
    return tuple(_smi_line(line) for line in done.stdout.decode("utf-8", "replace").splitlines() if line.count(",") > 2)


def _smi_line(line: str) -> Free:
    index, total, free, name = (cell.strip() for cell in line.split(",", 3))
    # Some devices share the host's memory and say "[N/A]".
    sizes = [int(cell) * _MIB if cell.isdecimal() else 0 for cell in (total, free)]
    return Free(f"gpu{index}", sizes[0], sizes[1], name)
