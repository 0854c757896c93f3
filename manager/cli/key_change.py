"""`llamaherd key change`: other limits, scopes and models for a key that stays the same."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from manager.cli.key_options import (
    AT_ONCE_HELP,
    PRIORITY_HELP,
    REQUESTS_HELP,
    TOKENS_HELP,
    KeyArgument,
    Scope,
    limit,
    print_json,
    shown,
    store_of,
    warn_of_unknown_models,
)
from manager.cli.key_table import in_short
from manager.cli.options import ConfigOption, DataFolderOption, JsonOption, expiry, settings_from

if TYPE_CHECKING:
    from manager.key_rules import Changes


def change(
    key: KeyArgument,
    description: Annotated[str | None, typer.Option(help="What the key is for.")] = None,
    scope: Annotated[
        list[Scope] | None, typer.Option(help="What it allows, in place of what it did; may be repeated.")
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A model that it may use, in place of those before; may be repeated."),
    ] = None,
    all_models: Annotated[bool, typer.Option("--all-models", help="It may use all models.")] = False,
    requests_per_minute: Annotated[str | None, typer.Option(metavar="N|none", help=REQUESTS_HELP)] = None,
    tokens_per_day: Annotated[str | None, typer.Option(metavar="N|none", help=TOKENS_HELP)] = None,
    at_once: Annotated[str | None, typer.Option(metavar="N|none", help=AT_ONCE_HELP)] = None,
    expires: Annotated[str | None, typer.Option(help="30d, 12h, a date such as 2027-01-31, or never.")] = None,
    priority: Annotated[int | None, typer.Option(min=-100, max=100, help=PRIORITY_HELP)] = None,
    config: ConfigOption = None,
    data_folder: DataFolderOption = None,
    as_json: JsonOption = False,
) -> None:
    """Change what a key allows. What no option names stays, and so does the key itself."""
    changes: Changes = {}
    if description is not None:
        changes["description"] = description
    if scope:
        changes["scopes"] = {str(item) for item in scope}
    if model and all_models:
        raise typer.BadParameter("--model and --all-models exclude each other.")
    if model or all_models:
        changes["models"] = model or None
    if requests_per_minute is not None:
        changes["requests_per_minute"] = limit(requests_per_minute)
    if tokens_per_day is not None:
        changes["tokens_per_day"] = limit(tokens_per_day)
    if at_once is not None:
        changes["at_once"] = limit(at_once)
    if expires is not None:
        changes["expires"] = None if expires == "never" else expiry(expires, datetime.now(UTC))
    if priority is not None:
        changes["priority"] = priority
    if not changes:
        raise typer.BadParameter("Nothing to change: give an option, such as --at-once 4.")
    settings = settings_from(config, {"storage": {"data_folder": data_folder}})
    new = store_of(settings).change(key, **changes)
    if as_json:
        print_json(shown(new))
    else:
        typer.echo(f"Changed the key {in_short(new)}.")
    warn_of_unknown_models(settings, changes.get("models") or ())
