"""The memory limits of our control group and of those around it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path


def memory_limits(root: Path, groups: Path, total: int) -> Iterator[tuple[int, int]]:
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
