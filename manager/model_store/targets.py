"""Where a file goes in the folder of models. What a server or a name says never leads out of it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from manager.mistakes import shown
from manager.model_store.choices import BadSource

_FORBIDDEN: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\\]")
# Names that downloads use for themselves.
_RESERVED: Final = (".part", ".part.json", ".part.json.new")
_LONGEST: Final = 240  # bytes; what is put behind a name while it is fetched must fit, too


def target_in(folder: Path, path: str) -> Path:
    """The place of a relative path below the folder. Raises BadSource for one that can't be meant."""
    parts = path.split("/")
    for part in parts:
        reason = _problem(part)
        if reason is not None:
            raise BadSource(f"the file {shown(path)} {reason}, so it is not put into {folder}", param="source")
    return folder.joinpath(*parts)


def _problem(name: str) -> str | None:
    if not name or name != name.strip():
        return "has a name that is empty, or begins or ends with a space"
    if name.startswith("."):  # the folder above, and hidden files
        return "has a name that begins with a dot"
    if _FORBIDDEN.search(name):
        return "has control characters or backslashes in its name"
    if name.endswith(_RESERVED):
        return "has a name that downloads use for themselves"
    return "has too long a name" if len(name.encode()) > _LONGEST else None


def relative(path: Path, folder: Path) -> str | None:
    """The path as it is written relative to the folder; None where it is not in it. Reads no disk."""
    absolute, root = os.path.abspath(path), os.path.abspath(folder)  # noqa: PTH100  links keep their names
    inside = os.path.relpath(absolute, root)
    return None if inside == "." or inside == ".." or inside.startswith("../") else inside
