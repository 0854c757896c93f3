"""What the kinds of engine say of an entry before it runs: its files, and what is wrong with it. All of it blocks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from manager.engines.kinds import kind_of
from manager.entry import ModelEntry

logger = logging.getLogger(__name__)


def files_of(entry: ModelEntry) -> list[Path]:
    """The files that make it what it is, in an order of their own; none where its engine knows none. Never raises."""
    files = kind_of(entry).files
    if files is None:
        return []
    try:
        return list(files(entry))
    except Exception:  # the code of another package
        logger.exception("model=%s its engine can't tell its files", entry.name)
        return [entry.path]


def problem_of(entry: ModelEntry, short: Callable[[Path], str]) -> str | None:
    """Why it can't be loaded here, in words for clients; `short` is a path as they may see it. Never raises."""
    for path in files_of(entry):
        if not path.exists():
            return f"{short(path)} does not exist"
    problem = kind_of(entry).problem
    if problem is None:
        return None
    try:
        return problem(entry)
    except Exception as error:  # the code of another package
        logger.exception("model=%s its engine can't judge it", entry.name)
        return f"its engine failed to judge it ({type(error).__name__})"


def memory_of(entry: ModelEntry) -> Mapping[str, int] | None:
    """What its engine says that it will take, in bytes by device; None where it does not say. Never raises."""
    memory = kind_of(entry).memory
    if memory is None:
        return None
    try:
        return {str(device): max(0, int(size)) for device, size in memory(entry).items()}
    except Exception:  # the code of another package
        logger.exception("model=%s its engine can't tell its memory", entry.name)
        return None
