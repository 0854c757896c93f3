"""`llamaherd key usage`: who has used how much, whether or not the service runs."""

from __future__ import annotations

import json
import time
from typing import Annotated, Any

import typer

from manager.cli.options import ConfigOption, DataFolderOption, JsonOption, settings_from, show


def usage(
    key: Annotated[str | None, typer.Argument(help="Id or name of a key; else all are told of.")] = None,
    since: Annotated[str | None, typer.Option(help="7d, 24h, or a date or time (UTC). [default: 30d]")] = None,
    until: Annotated[str | None, typer.Option(help="The same. [default: now]")] = None,
    by: Annotated[str | None, typer.Option(help="Any of key, model, day, hour. [default: key,model]")] = None,
    model: Annotated[str | None, typer.Option(help="Name of a model; else all are told of.")] = None,
    config: ConfigOption = None,
    data_folder: DataFolderOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell how many requests and tokens keys have used. What is not half a second old may be missing."""
    from manager.auth import KeyStore
    from manager.usage_report import ROWS_MOST, query_of, report
    from manager.usage_store import read

    settings = settings_from(config, {"storage": {"data_folder": data_folder}})
    store = KeyStore(settings.storage.keys_file)
    store.load()
    names = {key.id: key.name for key in store.list()}
    given = {"key": key, "since": since, "until": until, "by": by, "model": model}
    query = query_of({name: value for name, value in given.items() if value is not None}, names, time.time())
    told = report(query, read(settings.storage.usage_file, query, ROWS_MOST + 1), names)
    if as_json:
        typer.echo(json.dumps(told, indent=2, ensure_ascii=False))
    elif not told["rows"]:
        typer.echo(f"Nothing was used from {told['since']} to {told['until']}.")
    else:
        _show(told)


def _show(told: dict[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    counts = told["total"]
    groups = [column for column in told["rows"][0] if column not in counts]
    table = Table(show_footer=True, title=f"{told['since']} to {told['until']}")
    for place, name in enumerate(groups):
        table.add_column(_heading(name), "Total" if place == 0 else "")
    for name, total in counts.items():
        table.add_column(_heading(name), f"{total:,}", justify="right")
    for row in told["rows"]:
        words = [Text(row[name] or "") for name in groups]
        table.add_row(*words, *(f"{row[name]:,}" for name in counts))
    show(table)


def _heading(name: str) -> str:
    return name.replace("_", " ").capitalize()
