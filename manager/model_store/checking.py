"""Whether a file is the one that a hub lists, or at least whole, where no SHA-256 tells. All of it blocks."""

from __future__ import annotations

from pathlib import Path

from manager.errors import LoadFailed
from manager.gguf_header import read_header
from manager.model_store.plan import PlannedFile
from manager.model_store.reading import git_blob


def is_listed(file: PlannedFile, size: int) -> bool:
    """Whether a file that is there may be the one that the hub lists, its SHA-256 aside."""
    if file.size != size or (file.sha256 is None and file.blob is None):
        return False
    return file.blob is None or git_blob(file.target) == file.blob


def wrong(file: PlannedFile, came: Path) -> str | None:
    """What is wrong with what came for a file, where the hub tells no digest of it."""
    name = file.target.name
    if file.blob is not None and git_blob(came) != file.blob:
        return f"{name} is not the file that the hub lists: its content has another name in git"
    if file.sha256 is None and file.blob is None and name.lower().endswith(".gguf"):
        return _gguf_problem(came, name)
    return None


def _gguf_problem(path: Path, name: str) -> str | None:
    """What is wrong with one file, be it a part of several of which others are still to come."""
    try:
        needed, size = read_header(path).needed, path.stat().st_size
    except LoadFailed as error:
        return error.message.replace(path.name, name, 1)
    return f"{name} is cut off: {size:,} bytes of at least {needed:,}" if needed > size else None
