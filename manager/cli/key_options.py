"""What the verbs of `llamaherd key` share: options, how limits and spans are read, and where the keys are."""

from __future__ import annotations

import getpass
import json
import os
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Final

import typer

from manager.cli.options import expiry
from manager.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from manager.auth import ApiKey, KeyStore
    from manager.settings import Settings


class Scope(StrEnum):
    inference = "inference"
    admin = "admin"


KeyArgument = Annotated[str, typer.Argument(help="Id or name of the key.")]
REQUESTS_HELP: Final = "Most requests to models a minute."
TOKENS_HELP: Final = "Most tokens a day (UTC), of prompts and answers."
AT_ONCE_HELP: Final = "Most requests to models at the same time."
PRIORITY_HELP: Final = "Among requests that wait, a point counts as a second of having waited longer."


def limit(text: str) -> int | None:
    """A number, or None for `none`."""
    if text == "none":
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 20 and int(text) > 0):
        raise typer.BadParameter(f"{text!r} is no limit: write a number from 1, or none.")
    return int(text)


def span(text: str) -> float:
    """Seconds of `24h` or `7d`, or up to a time; 0 is none."""
    now = datetime.now(UTC)
    return 0.0 if text == "0" else expiry(text, now) - now.timestamp()


def store_of(settings: Settings) -> KeyStore:
    """The keys, read; what is done to them goes to the audit log. Raises ConfigError."""
    from manager.auth import KeyStore

    store = KeyStore(settings.storage.keys_file, on_change=lambda event, key: _audit(settings, event, key))
    store.load()
    return store


def _audit(settings: Settings, event: str, key: ApiKey) -> None:
    from manager.audit import Audit

    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user id that the system has no name for
        user = str(os.getuid())
    try:
        Audit(settings.storage.audit_file).write(
            {"actor": f"command line ({user})", "action": f"key {event}", "target": key.id, "name": key.name}
        )
    except ConfigError as error:  # the change is made: a new key that is not shown now is lost
        typer.echo(f"This is not in the audit log: {error.message}", err=True)


def shown(key: ApiKey, token: str | None = None) -> dict[str, object]:
    """All that is known of a key but for its digests, and the key itself where it is given."""
    from manager.key_record import as_shown

    return ({} if token is None else {"key": token}) | as_shown(key)


def print_json(value: object) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def warn_of_unknown_models(settings: Settings, names: Iterable[str]) -> None:
    """Say on standard error which of these models can't be served now. They may come later."""
    names = sorted(names)
    if not names:
        return
    from manager.catalog import load_catalog

    try:
        catalog = load_catalog(settings)
    except ConfigError:
        return  # that is for the service to tell
    for name in names:
        if name not in catalog:
            typer.echo(f"There is no model {name!r} at present; the key may use it once there is.", err=True)
