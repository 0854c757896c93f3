"""What a running process takes now: of the host's memory, and of each NVIDIA GPU's."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Final

import psutil

from manager.memory_free import Gpus, gpus

_KIB: Final = 1 << 10


def measure(pid: int, visible: str | None = None, *, nvidia: Gpus | None = None) -> dict[str, int]:
    """Bytes that the process and its children take by device: "host", "gpu0", … Empty where it is gone. Blocks.

    On the host it is the proportional size: a page that several processes have counts in parts; where the system
    does not know it, what is theirs alone. A GPU is left out where NVML does not tell; `visible`: see Gpus.
    """
    sizes: dict[int, int] = {}
    with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                memory = one.memory_full_info()
                sizes[one.pid] = getattr(memory, "pss", memory.uss)
    # A process that has ended and waits to be reaped has no memory.
    if not sizes.get(pid):
        return {}
    return {"host": sum(sizes.values()), **(nvidia or gpus()).used(sizes, visible)}


def anonymous(pid: int) -> int:
    """Bytes that become available when the process ends, 0 where it is gone. Blocks.

    Pages of mapped files are none of them: these are available already, unless they are locked.
    """
    with suppress(psutil.NoSuchProcess, psutil.AccessDenied, OSError, ValueError, KeyError):
        if psutil.LINUX:
            lines = (line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines())
            sizes = {line[0]: int(line[1]) * _KIB for line in lines if line[-1] == "kB"}
            return sizes["RssAnon:"] + sizes["RssShmem:"] + min(sizes["RssFile:"], sizes["VmLck:"])
        return int(psutil.Process(pid).memory_full_info().uss)
    return 0
