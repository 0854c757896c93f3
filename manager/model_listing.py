"""What becomes of a model that has come: an entry of models.json, under a name that is free."""

from __future__ import annotations

import os
from pathlib import Path

from manager.catalog import Catalog
from manager.mistakes import shown
from manager.model_store import BadSource, Plan, suggested_entry
from manager.models_edit import NameTaken, add_entry, owner_of
from manager.models_file import FileEntry, name_problem, read_models_file
from manager.settings import Settings


def check_free(plan: Plan, catalog: Catalog, asked: str | None) -> None:
    """Raise BadSource where the plan's name can't be one, and NameTaken where it is taken: said before gigabytes come.

    `asked`: as for enlist, which makes no new entry where there is one of the same file.
    """
    listed = {entry.name: entry for entry in catalog if entry.source != "discovered"}
    if any(entry.path == plan.model and asked in (None, entry.name) for entry in listed.values()):
        return
    problem = name_problem(plan.name)
    if problem is not None:
        raise BadSource(f"{shown(plan.name)}: a model name {problem}; say another", param="name")
    owner = owner_of(plan.name, listed)
    if owner is not None:
        raise NameTaken(f"The name {shown(plan.name)} is taken by {owner}; choose another", param="name")


def enlist(plan: Plan, settings: Settings, asked: str | None) -> tuple[str, bool]:
    """Write the entry of the files, which are there; its name, and whether it was not there before. Blocks.

    `asked` is the name that somebody wants, None where any will do: then an entry of the same file is as good as new.
    Raises ConfigError as add_entry does.
    """
    for known, entry in read_models_file(settings.storage.models_file).items():
        if asked in (None, known) and _model_of(entry, settings.storage.models_folder) == plan.model:
            return known, False
    name, suggested = suggested_entry(plan)
    add_entry(settings.storage.models_file, name, suggested)
    return name, True


def _model_of(entry: FileEntry, folder: Path) -> Path:
    return Path(os.path.normpath(folder / entry.params.model))
