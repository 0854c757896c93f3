"""Which files go with a model, and which stay because they are others' too. All of it blocks."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from manager.entry import ModelEntry
from manager.errors import HerdError
from manager.model_store.local import parts_of
from manager.model_store.manifest import FOLDER, manifest_file, manifests
from manager.model_store.verify import model_files
from manager.settings import Settings


@dataclass(frozen=True, slots=True)
class Removal:
    """`files` and `manifests` would be deleted, `size` bytes in all; `kept`: files that stay, each with the reason."""

    files: tuple[Path, ...]
    manifests: tuple[Path, ...]
    size: int
    kept: tuple[tuple[Path, str], ...]
    roots: tuple[Path, ...]  # below which empty folders go too


def plan_removal(entry: ModelEntry, settings: Settings, others: Iterable[ModelEntry]) -> Removal:
    """What removing this model's files would do. `others`: the rest of the catalog. Deletes nothing.

    Adapters and draft models stay. What lies outside of the folders of models stays, too.
    """
    storage = settings.storage
    roots = [root for root in (storage.models_folder, storage.gguf_models_dir, storage.hf_models_dir) if root]
    own = manifest_file(storage.models_folder, entry.path)
    known = manifests(storage.models_folder)
    users = _users(entry, others)
    for manifest in known:
        for file in manifest.files:
            if manifest.file != own:
                users.setdefault(_real(file.path), f"it belongs to another model from {manifest.source}, too")
    files, kept = [], []
    recorded = [file.path for manifest in known if manifest.file == own for file in manifest.files]
    for path in dict.fromkeys([*_of_entry(entry, roots), *recorded]):
        reason = users.get(_real(path)) or _outside(path, roots)
        if reason is None:
            files += _with_parts(path)
        elif os.path.lexists(path):
            kept.append((path, reason))
    goes = own is not None and own.is_file() and not any(path == entry.path for path, _ in kept)
    return Removal(
        files=tuple(files),
        manifests=(own,) if goes and own is not None else (),
        size=sum(_size(path) for path in files),
        kept=tuple(kept),
        roots=(*roots, storage.models_folder / FOLDER),
    )


def check_deletable(removal: Removal) -> None:
    """Raises HerdError where a folder of the files can't be written to: said while all is as it was."""
    for folder in dict.fromkeys(path.parent for path in (*removal.files, *removal.manifests)):
        if not os.access(folder, os.W_OK | os.X_OK):
            raise HerdError(f"nothing was removed: {folder} can't be written to")


def remove(removal: Removal) -> int:
    """Do it; the bytes that were freed. Raises HerdError where a file can't be deleted: the rest is, then, too."""
    freed, failures = 0, []
    for path in (*removal.files, *removal.manifests):
        size = _size(path) if path in removal.files else 0
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            failures.append(f"{path} can't be deleted: {error.strerror}")
        else:
            freed += size
            _drop_empty(path.parent, removal.roots)
    if failures:
        raise HerdError("\n".join(failures))
    return freed


def _of_entry(entry: ModelEntry, roots: Iterable[Path]) -> Iterator[Path]:
    """All files of a folder, unless it holds a whole folder of models; of a GGUF model its parts and its projector."""
    if entry.engine == "hf" and not any(root.resolve().is_relative_to(entry.path.resolve()) for root in roots):
        for folder, subfolders, names in os.walk(entry.path):
            links = [name for name in subfolders if (Path(folder) / name).is_symlink()]
            yield from (Path(folder) / name for name in sorted([*names, *links]))
    elif entry.engine == "llama":
        yield from parts_of(entry.path)
        if entry.mmproj is not None:
            yield entry.mmproj


def _users(entry: ModelEntry, others: Iterable[ModelEntry]) -> dict[Path, str]:
    """Why a file must stay, for the files of other entries."""
    return {
        _real(path): f"the model {other.name} uses it, too"
        for other in others
        if other.name != entry.name
        for path in model_files(other)
    }


def _outside(path: Path, roots: Iterable[Path]) -> str | None:
    """Why a file is not ours to delete; None where its real folder is below one of those of models."""
    folder = path.parent.resolve()
    if any(folder.is_relative_to(root.resolve()) for root in roots):
        return None
    return "it lies outside of the folders of models"


def _with_parts(path: Path) -> list[Path]:
    """The file, and what a download that broke off left of it."""
    beside = (path.with_name(path.name + suffix) for suffix in (".part", ".part.json"))
    return [one for one in (path, *beside) if os.path.lexists(one)]


def _real(path: Path) -> Path:
    """Without links in its folders; a link at its end is a file of its own."""
    return path.parent.resolve() / path.name


def _size(path: Path) -> int:
    """What deleting it frees: nothing where it is a link, or has another name."""
    try:
        seen = path.lstat()
    except OSError:
        return 0
    return seen.st_size if not path.is_symlink() and seen.st_nlink == 1 else 0


def _drop_empty(folder: Path, roots: tuple[Path, ...]) -> None:
    while folder not in roots and any(root in folder.parents for root in roots):
        try:
            folder.rmdir()
        except OSError:
            return
        folder = folder.parent
