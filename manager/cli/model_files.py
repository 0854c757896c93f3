"""`llamaherd model remove` and `verify`: what lies on the disk of a model."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from manager.cli.options import ConfigOption, DataFolderOption, JsonOption, confirm, settings_from, show, size
from manager.cli.transfer import run_interruptible, shown_progress

if TYPE_CHECKING:
    from manager.entry import ModelEntry
    from manager.model_store import FileCheck, Removal
    from manager.settings import Settings

Checks = list[tuple["ModelEntry", "FileCheck"]]


def remove_model(
    name: Annotated[str, typer.Argument(help="A model's name or alias.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    keep_files: Annotated[bool, typer.Option("--keep-files", help="Only take it out of models.json.")] = False,
    config: ConfigOption = None,
    data_folder: DataFolderOption = None,
) -> None:
    """Take a model out of models.json and delete its files, but for those that others need."""
    from manager.model_store import check_deletable, remove

    settings = settings_from(config, {"storage": {"data_folder": data_folder}})
    entry, removal = _planned(name, settings, keep_files)
    _say_removal(entry, settings, removal)
    if not yes:
        confirm("Remove it?")
        _check_unchanged(name, settings, entry, removal)
    if removal is not None:
        check_deletable(removal)
    if entry.source == "models.json":
        _take_out(entry, settings)
    if removal is not None:
        typer.echo(f"{size(remove(removal))} are free again.", err=True)


def _planned(name: str, settings: Settings, keep_files: bool) -> tuple[ModelEntry, Removal | None]:
    from manager.catalog import load_catalog
    from manager.errors import ConfigError, ModelNotFound
    from manager.model_store import plan_removal

    catalog = load_catalog(settings)
    try:
        entry = catalog.find(name).entry
    except ModelNotFound as error:
        raise ConfigError(error.message, param=error.param) from None
    _check_removable(entry, keep_files)
    others = [other for other in catalog if other is not entry]
    return entry, None if keep_files else plan_removal(entry, settings, others)


def _check_unchanged(name: str, settings: Settings, entry: ModelEntry, removal: Removal | None) -> None:
    """Somebody took time to answer, and what is about to go must be what was shown."""
    from manager.errors import ConfigError

    now, planned = _planned(name, settings, removal is None)
    if (now.name, now.source, now.path, planned) != (entry.name, entry.source, entry.path, removal):
        raise ConfigError(f"nothing was removed: '{entry.name}' was changed meanwhile. Try again")


def _take_out(entry: ModelEntry, settings: Settings) -> None:
    from manager.errors import ConfigError
    from manager.models_edit import remove_entry

    if not remove_entry(settings.storage.models_file, entry.name):
        raise ConfigError(
            f"nothing was removed: '{entry.name}' is not in {settings.storage.models_file} any more. Try again"
        )
    typer.echo(f"'{entry.name}' is out of {settings.storage.models_file}.", err=True)


def _check_removable(entry: ModelEntry, keep_files: bool) -> None:
    from manager.errors import ConfigError

    if entry.source == "environment":
        raise ConfigError(
            f"'{entry.name}' is the model of the settings model.path or model.name (MODEL_PATH, MODEL_NAME): take it "
            "out of them first"
        )
    if entry.source == "discovered" and keep_files:
        raise ConfigError(f"'{entry.name}' is in no models.json: it is served because its files are there")


def _say_removal(entry: ModelEntry, settings: Settings, removal: Removal | None) -> None:
    if entry.source == "models.json":
        typer.echo(f"Out of {settings.storage.models_file}: '{entry.name}'", err=True)
    if removal is None:
        return
    for file in removal.files:
        typer.echo(f"Deleted: {file}", err=True)
    for file, reason in removal.kept:
        typer.echo(f"Kept:    {file} ({reason})", err=True)
    typer.echo(f"{size(removal.size)} in all.", err=True)


def verify_models(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Names of models; else all.")] = None,
    config: ConfigOption = None,
    data_folder: DataFolderOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read models' files again and compare them with what came. Exit 1 where one is not what it was."""
    from manager.catalog import load_catalog

    settings = settings_from(config, {"storage": {"data_folder": data_folder}})
    catalog = load_catalog(settings)
    entries = (
        [catalog.find(name).entry for name in names] if names else [entry for entry in catalog if _has_files(entry)]
    )
    checks = run_interruptible(_verified(entries, settings), "The rest was not looked at.")
    if as_json:
        typer.echo(json.dumps([_as_json(*check) for check in checks], indent=2, ensure_ascii=False))
    elif checks:
        _show_checks(checks)
    else:
        typer.echo("There is no model.")
    if any(check.bad for _, check in checks):
        raise typer.Exit(1)


def _has_files(entry: ModelEntry) -> bool:
    from manager.engines.kinds import kind_of

    return kind_of(entry).files is not None


async def _verified(entries: list[ModelEntry], settings: Settings) -> Checks:
    from manager.model_store import verify

    checks: Checks = []
    for entry in entries:
        with shown_progress(entry.name) as progress:
            checks += [(entry, check) for check in await verify(entry, settings, progress)]
    return checks


def _show_checks(checks: Checks) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("Model", "File", "Size", "State", "")
    for entry, check in checks:
        state = Text(check.state, style="bold red" if check.bad else "")
        table.add_row(Text(entry.name), Text(check.path.name), size(check.size), state, Text(check.says))
    show(table)


def _as_json(entry: ModelEntry, check: FileCheck) -> dict[str, object]:
    return {
        "model": entry.name,
        "path": str(check.path),
        "bytes": check.size,
        "state": check.state,
        "says": check.says,
    }
