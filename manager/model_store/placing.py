"""Puts files of this machine into the folder of models: copied, linked or moved, all of a model or none."""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from manager.downloads import Meter, Progress, check_room, disk_errors
from manager.downloads.part import Part
from manager.errors import HerdError
from manager.model_store.choices import BadSource
from manager.model_store.copying import NO_LINKS, copied
from manager.model_store.manifest import ManifestFile, write_manifest
from manager.model_store.plan import Plan, PlannedFile
from manager.model_store.reading import Tell, digest, in_thread

# copy: a copy (without taking room, where the file system can do that); link: another name of the same file (hard
# link); symlink: a link to where it is; move: it goes from where it was.
Way = Literal["copy", "link", "symlink", "move"]


@dataclass(frozen=True, slots=True)
class Pulled:
    """`came`: bytes that were fetched or placed now; the other files were there already, the same."""

    plan: Plan
    manifest: Path
    came: int


async def place(plan: Plan, way: Way, progress: Progress | None) -> Pulled:
    """Put a local plan's files into their places, and write the manifest.

    Raises BadSource, NoRoom or HerdError, and undoes what it did then. What is moved leaves its old place last.
    """
    parts = [Part(file.target) for file in plan.files if not await asyncio.to_thread(_stays, file)]
    try:
        # Their locks keep downloads and other imports away from these files.
        for part in parts:
            await asyncio.to_thread(part.open)
        pulled = await _placed(plan, way, Meter(progress))
        if way == "move":
            await asyncio.to_thread(_leave, plan)
        return pulled
    finally:
        await asyncio.to_thread(_close, parts, plan)


async def _placed(plan: Plan, way: Way, meter: Meter) -> Pulled:
    done = 0

    def told(count: int) -> None:
        nonlocal done
        done += count
        meter.tell(done, plan.size)

    files: list[ManifestFile] = []
    made: list[PlannedFile] = []
    try:
        if way == "copy":
            await asyncio.to_thread(_check_room, plan)
        for file in plan.files:
            found = await in_thread(partial(_there, file), told)
            if found is None:
                found = await in_thread(partial(_put, file, way, made), told)
            files.append(ManifestFile(file.target, file.size or 0, found))
        manifest = await asyncio.to_thread(write_manifest, plan, files)
    except BaseException:
        await asyncio.to_thread(_undo, made)
        raise
    meter.end(done)
    return Pulled(plan, manifest, sum(file.size or 0 for file in made))


def _check_room(plan: Plan) -> None:
    check_room(plan.model, sum(file.size or 0 for file in plan.files if not file.target.exists()))


def _there(file: PlannedFile, tell: Tell) -> str | None:
    """The digest of a file that is in its place already. Raises BadSource where that is another one."""
    target, local = file.target, _local(file)
    with disk_errors(target):
        if not os.path.lexists(target):
            return None
        if target.exists() and (target.samefile(local) or target.stat().st_size == file.size):
            found = digest(target, tell)
            if target.samefile(local) or found == digest(local, _silent):
                return found
    raise _taken(target)


def _taken(target: Path) -> BadSource:
    return BadSource(f"{target} is there already and is another file; move it away first", param="source")


def _put(file: PlannedFile, way: Way, made: list[PlannedFile], tell: Tell) -> str:
    """Make the file in its place; its digest. What was made is noted in `made` at once."""
    real, target = _local(file).resolve(), file.target
    with disk_errors(target):
        try:
            if way == "symlink":
                target.symlink_to(real)
            elif way == "copy" or not _linked(real, target, way):
                found = copied(real, target, tell)
                made.append(file)
                return found
        except FileExistsError:  # it came just now
            raise _taken(target) from None
        made.append(file)
        return digest(target, tell)


def _linked(real: Path, target: Path, way: Way) -> bool:
    try:
        os.link(real, target)
    except FileExistsError:
        raise
    except OSError as error:
        if way == "move" and error.errno in NO_LINKS:
            return False  # to another file system: a copy takes its place
        raise HerdError(f"{real} can't be linked to {target.parent} ({error.strerror}); copy it instead") from error
    return True


def _undo(made: list[PlannedFile]) -> None:
    for file in made:
        with contextlib.suppress(OSError):
            file.target.unlink()


def _close(parts: list[Part], plan: Plan) -> None:
    """Leave the locks, and the folders that were made for what did not come."""
    for part in parts:
        part.close()
    _drop_empty({part.target.parent for part in parts}, plan.models_folder)


def _leave(plan: Plan) -> None:
    """Delete what has another place now. Raises HerdError where that can't be done."""
    moved = [_local(file) for file in plan.files if not _stays(file) and not file.target.is_symlink()]
    for path in moved:
        try:
            path.unlink()
        except OSError as error:
            raise HerdError(f"{plan.name} is imported, but {path} can't be deleted: {error.strerror}") from error
    if plan.engine == "hf":
        _drop_empty({path.parent for path in moved}, Path(plan.source).parent)


def _stays(file: PlannedFile) -> bool:
    """Whether its old place is its new one, which links in the folders may hide."""
    local, target = _local(file), file.target
    if local.name != target.name or not target.parent.exists():
        return False
    return local.parent.samefile(target.parent)


def _drop_empty(folders: set[Path], root: Path) -> None:
    """Remove those folders below the root that hold nothing, from within."""
    for folder in sorted(folders, key=lambda folder: -len(folder.parts)):
        with contextlib.suppress(OSError):
            for one in (folder, *folder.parents):
                if not one.is_relative_to(root) or one == root:
                    break
                one.rmdir()


def _local(file: PlannedFile) -> Path:
    if file.local is None:
        raise ValueError(f"{file.target} is not of this machine")
    return file.local


def _silent(count: int) -> None:
    """Of bytes that nobody counts."""
