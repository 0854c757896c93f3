"""The models that would be served, why one can't be, and the disk that they lie on."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from manager.doctor.case import Case
from manager.doctor.finding import Finding, error, note, ok, warning
from manager.doctor.paths import Barred, nearest
from manager.entry import ModelEntry
from manager.errors import ConfigError
from manager.extras import missing_hf

GIB: Final = 1024**3
# Below this a disk is as good as full: a small model has as much.
SCARCE: Final = 2 * GIB
SHOWN: Final = 8
_SETTING: Final = "mend that setting, and look again: llamaherd config check"
_FIRST: Final = "fetch one: llamaherd model pull SOURCE, or the small one: llamaherd model fetch-starter"


def models_file(case: Case) -> Iterator[Finding]:
    path = case.settings.storage.models_file
    try:
        catalog = case.catalog
    except ConfigError as mistake:
        yield from _mistakes(path, mistake)
        return
    listed = sum(entry.source == "models.json" for entry in catalog)
    if os.access(path, os.F_OK):
        yield ok("models.json", f"{path}, models: {listed}")
    else:
        yield note("models.json", f"There is no {path}.")
    if not len(catalog):
        yield warning("models", "There is no model to serve.", _FIRST)


def _mistakes(path: Path, mistake: ConfigError) -> Iterator[Finding]:
    try:
        nearest(path)
    except Barred as barred:
        yield barred.told("storage.models_file")
        return
    for line in mistake.message.splitlines():
        yield error("models.json", line, _mend(path) if line.startswith(str(path)) else _SETTING)


def _mend(path: Path) -> str:
    if not path.exists():  # what is above it is no folder
        return "set storage.models_file, or storage.data_folder, to another place"
    if path.is_dir():
        return "remove that folder, or set storage.models_file to a file"
    if not os.access(path, os.R_OK):
        return f"give the service's user the right to read it: sudo chown USER: {path}"
    return f"mend {path}: an editor that knows JSON schema marks mistakes"


def entries(case: Case) -> Iterator[Finding]:
    try:
        catalog = case.catalog
    except ConfigError:
        return
    missing = missing_hf()
    usable = []
    for entry in catalog:
        if entry.unavailable is not None:
            yield _unavailable(entry, entry.name == catalog.default)
        elif entry.engine == "hf" and missing is not None:
            why, how = missing.split("; ", 1)
            yield warning(entry.name, f"It can't be loaded: {why}.", how)
        else:
            usable.append(entry.name)
    if usable:
        rest = f" and {len(usable) - SHOWN} more" if len(usable) > SHOWN else ""
        yield ok("models", f"can be loaded: {', '.join(usable[:SHOWN])}{rest}")


def _unavailable(entry: ModelEntry, default: bool) -> Finding:
    found = error if default else warning
    what = "The default model" if default else "It"
    return found(
        entry.name,
        f"{what} can't be loaded: {entry.unavailable} ({entry.path}).",
        "put the file there, mend its entry in models.json, or fetch it anew: llamaherd model pull",
    )


def names(case: Case) -> Iterator[Finding]:
    """Names in the settings that mean no model."""
    try:
        catalog = case.catalog
    except ConfigError:
        return
    wanted = case.settings.model.name
    if wanted is not None and wanted not in catalog:
        advice = "set model.name (MODEL_NAME) to one that 'llamaherd model list' shows"
        yield error("default model", f"{wanted} is to be the default (model.name) and does not exist.", advice)
    elif catalog.default is not None:
        yield ok("default model", catalog.default)
    scheduling = case.settings.scheduling
    grouped = [
        (f"scheduling.groups.{name}", model) for name, group in scheduling.groups.items() for model in group.models
    ]
    home = [] if scheduling.home is None else [("scheduling.home", scheduling.home)]
    for setting, model in [*home, *grouped]:
        if model not in catalog:
            yield warning(setting, f"It names {model}, which does not exist.", "'llamaherd model list' shows the names")


def templates(case: Case) -> Iterator[Finding]:
    try:
        files = {entry.template.file for entry in case.catalog if entry.template and entry.template.file}
    except ConfigError:
        return
    for file in sorted(files):
        try:
            file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as failure:
            yield error("template", f"{file} can't be read: {failure}.", "give the service's user the right to read it")


def disk(case: Case) -> Iterator[Finding]:
    storage = case.settings.storage
    folders = {"models_folder": storage.models_folder, "cache_folder": storage.cache_folder}
    for setting, folder in folders.items():
        try:
            free = shutil.disk_usage(nearest(folder)).free
        except Barred as barred:
            yield barred.told(f"storage.{setting}")
            continue
        text = f"{free / 1e9:.1f} GB free for {folder} (storage.{setting})"
        if free < SCARCE:
            yield warning("disk", f"Only {text}.", f"make room, or set storage.{setting} to a larger disk")
        else:
            yield ok("disk", text)
    yield from _slots(storage.slots_folder, storage.slots_budget)


def _slots(folder: Path, budget: int) -> Iterator[Finding]:
    if not budget:
        return
    try:
        free = shutil.disk_usage(nearest(folder)).free
    except Barred as barred:
        yield barred.told("storage.slots_folder")
        return
    used = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0
    if budget - used > free:
        yield warning(
            "slots",
            f"storage.slots_budget lets {folder} grow by {(budget - used) / 1e9:.1f} GB; {free / 1e9:.1f} GB are free.",
            f"set storage.slots_budget to {max(0, used + free // 2)} or less",
        )


CHECKS: Final = (models_file, entries, names, templates, disk)
