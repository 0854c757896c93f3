"""What the kinds of engine say of an entry before it runs: its files, and what is wrong with it. All of it blocks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from manager.engines.kinds import FAULTS, kind_of
from manager.entry import ModelEntry
from manager.mistakes import shown

logger = logging.getLogger(__name__)

# Bytes that no device has; what is above can't be written as JSON everywhere.
MOST: Final = 2**53 - 1


def sizes_of(said: Mapping[str, int]) -> dict[str, int]:
    """What an engine says of memory, as whole bytes by device. Raises whatever comes of it where it makes no sense."""
    return {str(device): min(MOST, max(0, int(size))) for device, size in said.items()}


def files_of(entry: ModelEntry) -> list[Path]:
    """The files that make it what it is, in an order of their own; none where its engine knows none. Never raises."""
    files = kind_of(entry).files
    if files is None:
        return []
    try:
        return [Path(path) for path in files(entry)]
    except FAULTS:
        logger.exception("model=%s its engine can't tell its files", entry.name)
        return [entry.path]


def problem_of(entry: ModelEntry, short: Callable[[Path], str]) -> str | None:
    """Why it can't be loaded here, in words for clients; `short` is a path as they may see it. Never raises."""
    for path in files_of(entry):
        try:
            if not path.exists():
                return f"{short(path)} does not exist"
        except OSError as error:
            return f"{short(path)} can't be read: {error.strerror}"
    problem = kind_of(entry).problem
    if problem is None:
        return None
    try:
        said = problem(entry)
        if said is not None and not isinstance(said, str):
            raise TypeError(f"its problem gave no text but {shown(said)}")
        # Some file names have what is no character.
        return said.encode(errors="replace").decode() if said else None
    except FAULTS as error:
        logger.exception("model=%s its engine can't judge it", entry.name)
        return f"its engine failed to judge it ({type(error).__name__})"


def memory_of(entry: ModelEntry) -> Mapping[str, int] | None:
    """What its engine says that it will take, in bytes by device; None where it does not say. Never raises."""
    memory = kind_of(entry).memory
    if memory is None:
        return None
    try:
        return sizes_of(memory(entry))
    except FAULTS:
        logger.exception("model=%s its engine can't tell its memory", entry.name)
        return None
