"""Whether a model's files are what they were when they came."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from manager.downloads import Meter, Progress
from manager.engines.judging import files_of
from manager.entry import ModelEntry
from manager.gguf_file import gguf_problem
from manager.model_store.choices import BadSource
from manager.model_store.local import folder_files, parts_of
from manager.model_store.manifest import ManifestFile, known_files
from manager.model_store.quants import is_gguf
from manager.model_store.reading import Tell, digest, in_thread
from manager.settings import Settings

# ok: its digest is the known one. unknown: none is known, and the file looks whole. The others are bad.
State = Literal["ok", "unknown", "changed", "missing", "broken"]


@dataclass(frozen=True, slots=True)
class FileCheck:
    """What was found of one file; `says` is a sentence for people. `size` in bytes, None where it is missing."""

    path: Path
    state: State
    says: str
    size: int | None = None

    @property
    def bad(self) -> bool:
        return self.state not in ("ok", "unknown")


async def verify(model: ModelEntry | Path, settings: Settings, progress: Progress | None = None) -> list[FileCheck]:
    """Read every file of a model again and compare it with its manifest. It hashes in a thread; cancelling ends that.

    A file without a manifest is only looked at: a GGUF file for being whole. `progress`: bytes read, and to be read.
    Raises BadSource where a path is no model.
    """
    known = await asyncio.to_thread(known_files, settings.storage.models_folder)
    files = await asyncio.to_thread(_files, model, known)
    sizes = await asyncio.to_thread(_sizes, files)
    total = sum(size for path, size in sizes.items() if path in known and size == known[path].size)
    meter, done = Meter(progress), 0

    def told(count: int) -> None:
        nonlocal done
        done += count
        meter.tell(done, total)

    checks = []
    for path in files:
        checks.append(await in_thread(partial(_checked, path, sizes.get(path), known.get(path)), told))
    meter.end(total)
    return checks


def model_files(entry: ModelEntry) -> list[Path]:
    """All files that an entry names, each part of split ones. Blocks."""
    if entry.engine == "hf":
        return folder_files(entry.path)
    return [part for path in files_of(entry) for part in parts_of(path)]


def _files(model: ModelEntry | Path, known: dict[Path, ManifestFile]) -> list[Path]:
    if isinstance(model, ModelEntry):
        path, files = model.path, model_files(model)
    else:
        path = Path(model).expanduser().absolute()
        if path.is_dir():
            files = folder_files(path)
        elif is_gguf(path.name):
            files = parts_of(path)
        else:
            raise BadSource(f"{path} is neither a .gguf file nor a folder with a model", param="model")
    # What should be in a folder and is not.
    files += [file for file in known if file.is_relative_to(path) and file not in files]
    if not files:
        raise BadSource(f"{path} holds no files of a model", param="model")
    return list(dict.fromkeys(files))


def _sizes(files: list[Path]) -> dict[Path, int]:
    return {path: path.stat().st_size for path in files if path.is_file()}


def _checked(path: Path, size: int | None, known: ManifestFile | None, tell: Tell) -> FileCheck:
    if size is None:
        return FileCheck(path, "missing", "does not exist; fetch the model again")
    try:
        if known is None:
            return _looked_at(path, size)
        if size != known.size:
            return FileCheck(path, "changed", f"has {size:,} bytes and had {known.size:,}; fetch it again", size)
        found = digest(path, tell)
    except OSError as error:
        return FileCheck(path, "broken", f"can't be read: {error.strerror}", size)
    if found != known.sha256:
        says = f"has the SHA-256 {found} and had {known.sha256}; delete it and fetch it again"
        return FileCheck(path, "changed", says, size)
    return FileCheck(path, "ok", "is what it was", size)


def _looked_at(path: Path, size: int) -> FileCheck:
    parts = parts_of(path)
    if is_gguf(path.name) and path == parts[0]:
        problem = gguf_problem(path)
        if problem is not None:
            return FileCheck(path, "broken", problem, size)
        return FileCheck(path, "unknown", "looks whole, but no checksum of it is known", size)
    return FileCheck(path, "unknown", "no checksum of it is known", size)
