"""Puts files of this machine into the folder of models: copied, linked or moved, all of a model or none."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final, Literal

from manager.downloads import Meter, Progress, check_room, disk_errors
from manager.errors import HerdError
from manager.model_store.choices import BadSource
from manager.model_store.manifest import ManifestFile, write_manifest
from manager.model_store.plan import Plan, PlannedFile
from manager.model_store.reading import BLOCK, Tell, digest, in_thread

# copy: a copy (without taking room, where the file system can do that); link: another name of the same file (hard
# link); symlink: a link to where it is; move: it goes from where it was.
Way = Literal["copy", "link", "symlink", "move"]
_FICLONE: Final = 0x40049409  # ioctl_ficlone(2)


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
    meter, done = Meter(progress), 0

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
        await asyncio.to_thread(_undo, plan, made)
        raise
    if way == "move":
        await asyncio.to_thread(_leave, plan)
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
    raise BadSource(f"{target} is there already and is another file; move it away first", param="source")


def _put(file: PlannedFile, way: Way, made: list[PlannedFile], tell: Tell) -> str:
    """Make the file in its place; its digest. What was made is noted in `made` at once."""
    real, target = _local(file).resolve(), file.target
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        if way == "symlink":
            target.symlink_to(real)
        elif way == "copy" or not _linked(real, target, way):
            found = _copied(real, target, tell)
            made.append(file)
            return found
        made.append(file)
        return digest(target, tell)


def _linked(real: Path, target: Path, way: Way) -> bool:
    try:
        os.link(real, target)
    except OSError as error:
        if way == "move":
            return False  # to another file system: a copy takes its place
        raise HerdError(f"{real} can't be linked to {target.parent} ({error.strerror}); copy it instead") from error
    return True


def _copied(real: Path, target: Path, tell: Tell) -> str:
    part = target.with_name(target.name + ".part")
    try:
        with real.open("rb") as source, part.open("wb") as copy:
            found = _cloned(source, copy, tell) or _streamed(source, copy, tell)
            copy.flush()
            os.fchmod(copy.fileno(), 0o644)
            os.fsync(copy.fileno())
        part.replace(target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return found


def _cloned(source: BinaryIO, copy: BinaryIO, tell: Tell) -> str | None:
    """A copy that shares its blocks, where the file system has that; None where it does not."""
    try:
        fcntl.ioctl(copy.fileno(), _FICLONE, source.fileno())
    except OSError:
        return None
    return digest(Path(source.name), tell)


def _streamed(source: BinaryIO, copy: BinaryIO, tell: Tell) -> str:
    found = hashlib.sha256()
    while block := source.read(BLOCK):
        found.update(block)
        copy.write(block)
        tell(len(block))
    return found.hexdigest()


def _undo(plan: Plan, made: list[PlannedFile]) -> None:
    for file in made:
        with contextlib.suppress(OSError):
            file.target.unlink()
    _drop_empty({file.target.parent for file in made}, plan.models_folder)


def _leave(plan: Plan) -> None:
    """Delete what has another place now. Raises HerdError where that can't be done."""
    moved = [_local(file) for file in plan.files if _local(file) != file.target and not file.target.is_symlink()]
    for path in moved:
        try:
            path.unlink()
        except OSError as error:
            raise HerdError(f"{plan.name} is imported, but {path} can't be deleted: {error.strerror}") from error
    if plan.engine == "hf":
        _drop_empty({path.parent for path in moved}, Path(plan.source).parent)


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
