"""models.json as a whole text: read with its version, and replaced where it still is the one that was read."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from manager.errors import ConfigError, HerdError
from manager.json_text import line_end
from manager.mistakes import Mistake
from manager.models_check import mistakes_of
from manager.models_edit import EMPTY, FileChanged, NotWritten, locked_file, replace_text
from manager.models_powers import Powers
from manager.settings import Settings
from manager.strict_json import sendable

_MISSING: Final = "missing"  # the version of a file that is not there
_BOM: Final = "\ufeff"


class Unreadable(ConfigError):
    """The file is there and can't be read."""

    status = 409
    code = "models_file_unreadable"


class TextRefused(HerdError):
    """The text can't be that of models.json. `more` has `mistakes`, each as `mistake_dict` makes it."""

    status = 400
    type = "invalid_request_error"
    code = "models_file_invalid"

    def __init__(self, mistakes: Sequence[Mistake]) -> None:
        told = [mistake_dict(mistake) for mistake in mistakes]
        super().__init__("\n".join(map(_worded, mistakes)), param="text")
        self.more = {"mistakes": told}


@dataclass(frozen=True, slots=True)
class ModelsText:
    """The file as an editor has it: lines end with \\n, and there is no byte order mark. What is not UTF-8 is U+FFFD.

    `version` is another one for every content of the file. `writable`: nothing is known that would keep us from
    replacing it.
    """

    path: Path
    text: str
    version: str
    writable: bool

    def as_dict(self) -> dict[str, Any]:
        path = sendable(str(self.path))
        return {"path": path, "text": self.text, "version": self.version, "writable": self.writable}


def read_models_text(models_file: Path) -> ModelsText:
    """The file as it is now; an empty object where there is none. Blocks. Raises Unreadable."""
    try:
        return _shown(models_file, _content(models_file))
    except OSError as error:
        raise Unreadable(f"{models_file}: can't be read: {error.strerror}") from None


def write_models_text(settings: Settings, text: str, version: str) -> ModelsText:
    """Replace the file, where it has this version, by the text. Its byte order mark and its line ends stay. Blocks.

    Gives what is in the file then. Raises TextRefused, FileChanged and NotWritten; then the file is as before.
    """
    text, models_file = _unmarked(text), settings.storage.models_file
    try:
        raw = _of_version(models_file, version)
    except OSError as error:
        raise NotWritten(f"{models_file}: can't be read: {error.strerror}") from None
    old = EMPTY if raw is None else raw.decode(errors="replace")
    mistakes = mistakes_of(settings, text, Powers(settings, _unmarked(old)))
    if mistakes:
        raise TextRefused(mistakes)
    # Lines of the old text may end in both ways; where nothing is new, they stay.
    new = old if raw is not None and _unmarked(old) == text else _like(old, text)
    if new.encode() != raw:
        with locked_file(models_file):
            _of_version(models_file, version)  # judging takes time, in which nobody is kept from the file
            replace_text(models_file, "" if raw is None else old, new, judged=True)
    return _shown(models_file, new.encode())


def check_models_text(settings: Settings, text: str) -> list[dict[str, Any]]:
    """What `write_models_text` would refuse the text for, as `mistake_dict` makes it. Blocks."""
    try:
        old = read_models_text(settings.storage.models_file).text
    except Unreadable:
        old = None
    return [mistake_dict(mistake) for mistake in mistakes_of(settings, _unmarked(text), Powers(settings, old))]


def mistake_dict(mistake: Mistake) -> dict[str, Any]:
    """A mistake for programs. `path` is its place in the text; what is elsewhere is told by the message."""
    inside = mistake.file is not None
    return {
        "message": sendable(mistake.message if inside else str(mistake)),
        "line": mistake.line,
        "column": mistake.column,
        "path": mistake.place if inside else None,
    }


def _worded(mistake: Mistake) -> str:
    """A mistake for people, who know which file it is about."""
    place = None if mistake.line is None else f"line {mistake.line}, column {mistake.column}"
    return ": ".join(part for part in (place, mistake.place, mistake.message) if part is not None)


def _shown(models_file: Path, raw: bytes | None) -> ModelsText:
    text = EMPTY if raw is None else _unmarked(raw.decode(errors="replace"))
    return ModelsText(models_file, text, _version(raw), _writable(models_file))


def _of_version(models_file: Path, version: str) -> bytes | None:
    """The content of the file. Raises FileChanged where that is of another version, and OSError."""
    raw = _content(models_file)
    if _version(raw) != version:
        raise FileChanged(f"{models_file}: it was changed since this version was read", param="version")
    return raw


def _content(models_file: Path) -> bytes | None:
    try:
        return models_file.read_bytes()
    except FileNotFoundError:
        return None


def _version(raw: bytes | None) -> str:
    return _MISSING if raw is None else hashlib.sha256(raw).hexdigest()


def _unmarked(text: str) -> str:
    return text.removeprefix(_BOM).replace("\r\n", "\n")


def _like(old: str, text: str) -> str:
    """The text with the byte order mark of the old one, and with the line ends that most of its lines have."""
    mark = _BOM if old.startswith(_BOM) else ""
    return mark + text.replace("\n", line_end(old))


def _writable(models_file: Path) -> bool:
    """A new file takes the place of the old one, in the folder that the links lead to; that is made where it is not."""
    real = Path(os.path.realpath(models_file))
    folder = next(folder for folder in real.parents if folder.exists())
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK) and not real.is_dir()
