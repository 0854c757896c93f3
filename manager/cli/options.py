"""What several verbs share: the options that name files, and how times and sizes are read and shown."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from manager.settings import Settings

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="YAML file with settings; else the one at CONFIG_PATH."),
]
DataFolderOption = Annotated[
    Path | None, typer.Option("--data-folder", metavar="FOLDER", help="Folder of models.json, keys.json and templates.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]

_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def settings_from(config: Path | None, sections: dict[str, dict[str, Any]]) -> Settings:
    """The settings with these options over them; None is an option that was not given."""
    from manager.settings import load_settings

    return load_settings({"config_path": config, **sections})


def base_url(settings: Settings) -> str:
    """The service's address as this machine may call it, for examples; the port is PORT where the system chooses it."""
    from manager.addresses import callable_at

    host = callable_at(settings.server.host)
    if settings.tls.wanted and settings.tls.host is not None:
        host = settings.tls.host  # the certificate's name, not an address
    if ":" in host:
        host = f"[{host}]"
    return f"{'https' if settings.tls.wanted else 'http'}://{host}:{settings.server.port or 'PORT'}"


def confirm(question: str) -> None:
    """Go on after a yes. Raises ConfigError where there is no terminal to ask at."""
    import sys

    from manager.errors import ConfigError

    if not sys.stdin.isatty():
        raise ConfigError("nothing was removed: there is nobody to ask. --yes says that it may be")
    typer.confirm(question, abort=True, err=True)


def expiry(text: str, now: datetime) -> float:
    """Seconds since the epoch of `30d`, `12h`, or an ISO date or time; without a zone it is UTC."""
    text = text.strip()
    if text[:-1].isdecimal() and text[-1:] in _UNITS:
        try:
            return (now + timedelta(**{_UNITS[text[-1]]: int(text[:-1])})).timestamp()
        except OverflowError:
            raise typer.BadParameter(f"{text!r} is too far away.") from None
    try:
        when = datetime.fromisoformat(text)
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise typer.BadParameter(f"{text!r} is no time: write 30d, 12h or 2027-01-31.") from None


def size(count: int | None) -> str:
    """Bytes for people to read."""
    if count is None:
        return "?"
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def show(table: Table) -> None:
    """Print a table: as wide as the terminal, or as wide as it wants where there is none."""
    import sys

    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 200).print(table)
