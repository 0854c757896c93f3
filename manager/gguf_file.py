"""What is wrong with a GGUF file, as far as its header tells, and what the name of a split one means."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Final

from manager.errors import LoadFailed
from manager.gguf_header import read_header

# Of a split model. A name that says more means nothing: it costs nobody a look at as many files.
MOST_PARTS: Final = 1000
_TOLD: Final = 8  # missing parts that a message names
_SPLIT = re.compile(r"(?P<stem>.+)-(?P<part>\d{5})-of-(?P<total>\d{5})(?P<suffix>\.gguf)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class SplitName:
    """A file name of the form stem-00002-of-00003.gguf."""

    stem: str
    part: int
    total: int
    suffix: str

    def sibling(self, part: int) -> str:
        return f"{self.stem}-{part:05}-of-{self.total:05}{self.suffix}"


def split_name(name: str) -> SplitName | None:
    """The pieces of a split file's name; None for any other name, and for one that says more than MOST_PARTS."""
    found = _SPLIT.fullmatch(name)
    if found is None or int(found["total"]) > MOST_PARTS:
        return None
    return SplitName(found["stem"], int(found["part"]), int(found["total"]), found["suffix"])


def check_gguf(path: Path) -> None:
    """Raise LoadFailed with the reason where the file (or a part of a split one) is missing, foreign or cut off.

    Reads headers only, and remembers them while size and time of the file stay as they are. Blocks.
    """
    reason = gguf_problem(path)
    if reason is not None:
        raise LoadFailed(reason, should_retry=False)


def gguf_problem(path: Path, label: str | None = None) -> str | None:
    """Why this GGUF can't be loaded, as far as its headers tell; None where nothing is wrong. Never raises.

    `label` names a file that does not exist; else its name alone does.
    """
    split = split_name(path.name)
    try:
        if split is None or split.total < 2:
            return _file_problem(path)
        return _split_problem(path, split)
    except FileNotFoundError:
        return f"{label or path.name} does not exist"
    except (OSError, ValueError) as error:
        return f"{path.name} can't be read: {getattr(error, 'strerror', None) or error}"


def _split_problem(path: Path, split: SplitName) -> str | None:
    if split.part != 1:
        return f"{path.name} is part {split.part} of a split model; name its first part, {split.sibling(1)}"
    # As few as it takes: the parts that a name says need not be there.
    numbers = (number for number in range(1, split.total + 1) if not path.with_name(split.sibling(number)).is_file())
    missing = list(islice(numbers, _TOLD + 1))
    if missing:
        few = ", ".join(map(str, missing[:_TOLD])) + (", …" if len(missing) > _TOLD else "")
        return f"{split.stem}: of its {split.total} parts these are missing: {few}"
    parts = (path.with_name(split.sibling(number)) for number in range(1, split.total + 1))
    return next((reason for reason in map(_file_problem, parts) if reason is not None), None)


def _file_problem(path: Path) -> str | None:
    stat = path.stat()
    if not path.is_file():  # opening a pipe would wait for who writes to it
        return f"{path.name} is not a file"
    return _remembered_problem(str(path), stat.st_size, stat.st_mtime_ns, stat.st_ino)


@lru_cache(maxsize=4096)
def _remembered_problem(path: str, size: int, mtime_ns: int, inode: int) -> str | None:
    # The key holds all that changes when the file does; errors of reading are raised and so not remembered.
    try:
        header = read_header(Path(path))
    except LoadFailed as error:
        return error.message
    if header.needed > size:
        return f"{Path(path).name} is cut off: {size:,} bytes of at least {header.needed:,}"
    return None
