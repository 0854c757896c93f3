"""Takes a build off the disk, and what only it needed."""

from __future__ import annotations

from pathlib import Path

import psutil

from manager.builds.kept import CHOSEN, SHARED, builds, discard, find, picked_name
from manager.builds.workshop import locked
from manager.errors import HerdError


def remove(folder: Path, name: str) -> None:
    """Delete a build, and libraries that only it needed. Where it was chosen, none is then. Blocks.

    Raises ConfigError where there is none of that name, HerdError where a process still runs it, it can't be deleted,
    or a build is being made, which may be about to be linked with those libraries.
    """
    find(folder, name)
    with locked(folder, f"{name} can't be removed"):
        build = find(folder, name)
        if pids := _users(build.folder):
            raise HerdError(f"{name} is in use by process {', '.join(map(str, pids))}: unload its models first.")
        if picked_name(folder) == name:
            (folder / CHOSEN).unlink()
        discard(build.folder)
        needed = {shared for other in builds(folder) for shared in other.shared}
        for path in folder.glob(f"{SHARED}*"):
            if path.name not in needed:
                discard(path)


def _users(folder: Path) -> list[int]:
    """Processes that run a program of the folder, as far as this user may see them."""
    folder = folder.resolve()  # as the system names programs
    running = []
    for process in psutil.process_iter(["exe"]):
        exe = process.info["exe"]
        if exe and Path(exe).is_relative_to(folder):
            running.append(process.pid)
    return running
