"""`llamaherd key usage`: who has used how much, whether or not the service runs."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from manager.cli.options import ConfigOption, DataFolderOption, JsonOption, settings_from

if TYPE_CHECKING:
    from rich.table import Table

_HEADINGS: Final = {"prompt_tokens": "Prompt", "cached_tokens": "Cached", "completion_tokens": "Answers"}
_MODEL_LEAST: Final = 8  # characters of the column


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


def table_of(told: dict[str, Any], width: int) -> Table:
    """A row for each group. Ids, times and numbers stay whole, names fold where there is little room."""
    from rich.box import SIMPLE
    from rich.table import Table
    from rich.text import Text

    counts = told["total"]
    groups = [column for column in told["rows"][0] if column not in counts and column != "name"]
    cells = {name: [_cell(name, row) for row in told["rows"]] for name in (*groups, *counts)}
    totals = {name: f"{total:,}" for name, total in counts.items()} | {groups[0]: "Total"}
    widths = {
        name: max(len(_heading(name)), len(totals.get(name, "")), *map(len, column)) for name, column in cells.items()
    }
    least = {"key": max(map(len, (row.get("key", "") for row in told["rows"]))), "model": _MODEL_LEAST}
    _fold(widths, least, width - len(widths) - 1)  # with what is between the columns
    table = Table(
        box=SIMPLE, padding=0, show_footer=True, title=f"{told['since']} to {told['until']}: requests, tokens"
    )
    for name, wide in widths.items():
        side: Literal["left", "right"] = "right" if name in counts else "left"
        table.add_column(
            _heading(name), totals.get(name, ""), justify=side, overflow="fold", min_width=wide, max_width=wide
        )
    for row in zip(*cells.values(), strict=True):
        table.add_row(*map(Text, row))
    return table


def _cell(name: str, row: dict[str, Any]) -> str:
    if name == "key":
        return f"{row['key']} {row['name'] or ''}".rstrip()
    return row[name] if isinstance(row[name], str) else f"{row[name]:,}"


def _fold(widths: dict[str, int], least: dict[str, int], room: int) -> None:
    """Make the widest columns narrower that may be, until all have room or none may be."""
    while sum(widths.values()) > room:
        foldable = [name for name in least if widths.get(name, 0) > least[name]]
        if not foldable:
            return
        widths[max(foldable, key=lambda name: widths[name])] -= 1


def _show(told: dict[str, Any]) -> None:
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 200)
    # Not cropped: numbers for which a terminal is too narrow go on in its next line.
    console.print(table_of(told, console.width), crop=False)


def _heading(name: str) -> str:
    return _HEADINGS.get(name, name.capitalize())
