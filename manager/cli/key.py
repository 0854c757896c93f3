"""`llamaherd key`: make, list and revoke API keys. A key is shown once, when it is made."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from manager.cli.options import ConfigOption, DataFolderOption, JsonOption, expiry, settings_from, show

if TYPE_CHECKING:
    from pathlib import Path

    from manager.auth import ApiKey, KeyStore

app = typer.Typer(help="Make, list and revoke API keys.", no_args_is_help=True)


class Scope(StrEnum):
    inference = "inference"
    admin = "admin"


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="A name that no other valid key has.")],
    description: Annotated[str, typer.Option(help="What the key is for.")] = "",
    scope: Annotated[
        list[Scope] | None, typer.Option(help="What it allows; may be repeated. [default: inference]")
    ] = None,
    expires: Annotated[str | None, typer.Option(help="30d, 12h, or a date such as 2027-01-31 (0:00 UTC).")] = None,
    priority: Annotated[
        int,
        typer.Option(
            min=-100, max=100, help="Among requests that wait, a point counts as a second of having waited longer."
        ),
    ] = 0,
    config: ConfigOption = None,
    data_folder: DataFolderOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key and print it, this once: the key on standard output, what is known of it on standard error."""
    until = None if expires is None else expiry(expires, datetime.now(UTC))
    store = _store(config, data_folder)
    scopes = {str(item) for item in scope or [Scope.inference]}
    token, made = store.create(name, description, scopes, until, priority=priority)
    if as_json:
        typer.echo(json.dumps({"key": token, **_as_json(made)}, indent=2, ensure_ascii=False))
        return
    typer.echo(token)
    known = ", ".join(sorted(made.scopes))
    if made.priority:
        known += f", priority {made.priority}"
    if made.expires is not None:
        known += f", until {_time(made.expires)}"
    typer.echo(f"Made the key {made.name!r} (id {made.id}; {known}). It can't be shown again.", err=True)


@app.command("list")
def list_keys(config: ConfigOption = None, data_folder: DataFolderOption = None, as_json: JsonOption = False) -> None:
    """List the keys, without the keys themselves: those are stored nowhere."""
    keys = _store(config, data_folder).list()
    if as_json:
        typer.echo(json.dumps([_as_json(key) for key in keys], indent=2, ensure_ascii=False))
        return
    if not keys:
        typer.echo("No key is stored.")
        return
    from rich.table import Table
    from rich.text import Text

    now = datetime.now(UTC).timestamp()
    table = Table("Id", "Name", "Scopes", "Priority", "Created", "Expires", "Last used", "Description")
    for key in keys:
        ends = "never" if key.expires is None else _time(key.expires) + (" (expired)" if key.expired(now) else "")
        used = "never" if key.last_used is None else _time(key.last_used)
        scopes, made = ", ".join(sorted(key.scopes)), _time(key.created)
        cells = (key.id, key.name, scopes, str(key.priority), made, ends, used, key.description)
        table.add_row(*map(Text, cells))
    show(table)


@app.command()
def revoke(
    key: Annotated[str, typer.Argument(help="Id or name of the key.")],
    config: ConfigOption = None,
    data_folder: DataFolderOption = None,
) -> None:
    """Forget a key. A running service refuses it at once."""
    gone = _store(config, data_folder).revoke(key)
    typer.echo(f"Revoked the key {gone.name!r} (id {gone.id}).")


def _store(config: Path | None, data_folder: Path | None) -> KeyStore:
    from manager.auth import KeyStore

    settings = settings_from(config, {"storage": {"data_folder": data_folder}})
    store = KeyStore(settings.storage.keys_file)
    store.load()
    return store


def _as_json(key: ApiKey) -> dict[str, Any]:
    """As in the file of keys, but for the digest."""
    from manager.key_file import as_json

    return {name: value for name, value in as_json(key).items() if name != "digest"}


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
