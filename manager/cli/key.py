"""`llamaherd key`: make, list, change, replace and revoke API keys. A key is shown once, when it is made."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from manager.cli import key_change, key_usage
from manager.cli.key_options import (
    AT_ONCE_HELP,
    PRIORITY_HELP,
    REQUESTS_HELP,
    TOKENS_HELP,
    KeyArgument,
    Scope,
    print_json,
    shown,
    span,
    store_of,
    warn_of_unknown_models,
)
from manager.cli.key_table import in_short, table_of, to_the_minute
from manager.cli.options import ConfigOption, DataFolderOption, JsonOption, expiry, settings_from, show

if TYPE_CHECKING:
    from manager.auth import ApiKey

app = typer.Typer(help="Make, list, change, replace and revoke API keys.", no_args_is_help=True)


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="A name that no other valid key has.")],
    description: Annotated[str, typer.Option(help="What the key is for.")] = "",
    scope: Annotated[
        list[Scope] | None, typer.Option(help="What it allows; may be repeated. [default: inference]")
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A model that it may use; may be repeated. [default: all models]"),
    ] = None,
    requests_per_minute: Annotated[int | None, typer.Option(min=1, metavar="N", help=REQUESTS_HELP)] = None,
    tokens_per_day: Annotated[int | None, typer.Option(min=1, metavar="N", help=TOKENS_HELP)] = None,
    at_once: Annotated[int | None, typer.Option(min=1, metavar="N", help=AT_ONCE_HELP)] = None,
    expires: Annotated[str | None, typer.Option(help="30d, 12h, or a date such as 2027-01-31 (0:00 UTC).")] = None,
    priority: Annotated[int, typer.Option(min=-100, max=100, help=PRIORITY_HELP)] = 0,
    config: ConfigOption = None,
    data_folder: DataFolderOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key and print it, this once: the key on standard output, what is known of it on standard error."""
    until = None if expires is None else expiry(expires, datetime.now(UTC))
    settings = settings_from(config, {"storage": {"data_folder": data_folder}})
    token, made = store_of(settings).create(
        name,
        description,
        {str(item) for item in scope or [Scope.inference]},
        until,
        priority=priority,
        models=model or None,
        requests_per_minute=requests_per_minute,
        tokens_per_day=tokens_per_day,
        at_once=at_once,
    )
    if as_json:
        print_json(shown(made, token))
    else:
        typer.echo(token)
        typer.echo(f"Made the key {in_short(made)}. It can't be shown again.", err=True)
    warn_of_unknown_models(settings, made.models or ())


@app.command("list")
def list_keys(config: ConfigOption = None, data_folder: DataFolderOption = None, as_json: JsonOption = False) -> None:
    """List the keys, without the keys themselves: those are stored nowhere."""
    keys = store_of(settings_from(config, {"storage": {"data_folder": data_folder}})).list()
    if as_json:
        print_json([shown(key) for key in keys])
    elif keys:
        show(table_of(keys, time.time()))
    else:
        typer.echo("No key is stored.")


app.command()(key_change.change)
app.command()(key_usage.usage)


@app.command()
def rotate(
    key: KeyArgument,
    overlap: Annotated[
        str, typer.Option(help="How long the old key stays valid as well: 24h, 7d, or up to a time; 0: not at all.")
    ] = "24h",
    config: ConfigOption = None,
    data_folder: DataFolderOption = None,
    as_json: JsonOption = False,
) -> None:
    """Replace a key by a new one with the same name, scopes and limits, and print that, this once.

    A key that was replaced before ends at once, whatever its overlap was: two are valid at most.
    """
    seconds = span(overlap)
    store = store_of(settings_from(config, {"storage": {"data_folder": data_folder}}))
    old = store.find(key)
    token, new = store.rotate(old.id, seconds)
    now = time.time()
    if as_json:
        print_json(shown(new, token))
    else:
        typer.echo(token)
        said = f"Replaced the key {new.name!r} (id {new.id}). The new one can't be shown again; {_fate(new, now)}."
        typer.echo(said, err=True)
    if old.former_valid(now):
        typer.echo("The key before these two was still valid; that ended now.", err=True)


@app.command()
def revoke(
    key: KeyArgument,
    config: ConfigOption = None,
    data_folder: DataFolderOption = None,
) -> None:
    """Forget a key. A running service refuses it at once."""
    gone = store_of(settings_from(config, {"storage": {"data_folder": data_folder}})).revoke(key)
    typer.echo(f"Revoked the key {gone.name!r} (id {gone.id}).")


def _fate(key: ApiKey, now: float) -> str:
    """What becomes of the key that this one has replaced."""
    if key.former_until is None or not key.former_valid(now):
        return "the old one is valid no longer"
    end = key.former_until if key.expires is None else min(key.former_until, key.expires)
    return f"the old one is valid until {to_the_minute(end)} UTC"
