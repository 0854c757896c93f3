"""Pins and unpins models in models.json: a field of the entry changes, or an entry comes for a model without one."""

from __future__ import annotations

from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from manager.entry import ModelEntry
from manager.errors import HerdError
from manager.json_text import members, outermost, with_member, with_value
from manager.mistakes import Mistakes, shown
from manager.models_check import mistakes_of
from manager.models_edit import EMPTY, FileChanged, NotWritten, editing, replace_text
from manager.settings import Settings


class NoEntry(HerdError):
    """The model has no entry in models.json, and can't get one."""

    status = 409
    type = "invalid_request_error"
    code = "model_not_in_file"


def set_pinned(settings: Settings, entry: ModelEntry, *, pinned: bool) -> None:
    """Have models.json say it of the model, with every other byte as it was. Blocks.

    A model that was discovered gets an entry when it is pinned. Raises NoEntry for one of the settings; FileChanged
    where the file has no entry for it any more; NotWritten where the file is broken or can't be written.
    """
    if entry.source == "environment":
        raise NoEntry(
            f"The model {shown(entry.name)} is that of the settings (model.path): it has no entry in models.json, "
            "and needs one to be pinned.",
            param="id",
        )
    models_file = settings.storage.models_file
    try:
        with editing(models_file) as (text, entries):
            if entry.name in entries:
                new = _with_pinned(text, entry.name, pinned)
                if new != text:
                    replace_text(models_file, text, new)
            elif entry.source != "discovered":
                raise FileChanged(f"{models_file}: it has no entry {shown(entry.name)} any more", param="id")
            elif pinned:
                text_with = text or EMPTY
                added = _entry_for(entry, settings.storage.models_folder)
                _write(settings, text, with_member(text_with, outermost(text_with), entry.name, added))
    except Mistakes as error:
        raise NotWritten(error.message) from None


def _write(settings: Settings, old: str, new: str) -> None:
    """Raises Mistakes where the service would not take the file any more, as for a path that can't be in it."""
    mistakes = mistakes_of(settings, new.removeprefix("\ufeff"))
    if mistakes:
        raise Mistakes(mistakes)
    replace_text(settings.storage.models_file, old, new, judged=True)


def _with_pinned(text: str, name: str, pinned: bool) -> str:
    """The text with the field of the entry changed, or added where it is to be true."""
    at = next(member.value for member in members(text, outermost(text)) if member.name == name)
    field = next((member for member in members(text, at) if member.name == "pinned"), None)
    if field is None:
        return with_member(text, at, "pinned", True) if pinned else text
    return with_value(text, field, pinned)


def _entry_for(entry: ModelEntry, folder: Path) -> dict[str, Any]:
    """An entry, as models.json has it, by which the model runs as discovery made it run, and is pinned."""
    params = {"model": _named(entry.path, folder)}
    if entry.mmproj is not None:
        params["mmproj"] = _named(entry.mmproj, folder)
    engine = {} if entry.engine == "llama" else {"engine": entry.engine}
    return {**engine, "params": params, "pinned": True}


def _named(path: Path, folder: Path) -> str:
    """The path from the folder of models; absolute where it is elsewhere, or would be read as another one."""
    if not path.is_relative_to(folder):
        return str(path)
    inside = path.relative_to(folder).as_posix()
    parts = PurePosixPath(inside).parts
    plain = ".." not in parts and PureWindowsPath(inside).parts == parts
    return inside if plain else str(path)
