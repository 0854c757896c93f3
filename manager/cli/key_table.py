"""API keys as people read them: a table that fits a terminal of 80 columns, and a line about one."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from manager.auth import ApiKey


def table_of(keys: Collection[ApiKey], now: float) -> Table:
    """A row for each key; without the keys themselves, and without their digests. `now`: seconds since the epoch."""
    from rich.table import Table
    from rich.text import Text

    table = Table(show_lines=True)
    table.add_column("Id", no_wrap=True)
    table.add_column("Key", overflow="fold")
    table.add_column("Allows", overflow="fold")
    table.add_column("Times (UTC)", no_wrap=True)
    for key in keys:
        name = f"{key.name}\n{key.description}" if key.description else key.name
        table.add_row(*map(Text, (key.id, name, "\n".join(_rights(key)), "\n".join(_times(key, now)))))
    return table


def in_short(key: ApiKey) -> str:
    """The key in a line."""
    until = [] if key.expires is None else [f"until {to_the_minute(key.expires)} UTC"]
    return f"{key.name!r} (id {key.id}; {'; '.join(_rights(key) + until)})"


def to_the_minute(seconds: float) -> str:
    """Seconds since the epoch to the minute, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")


def _rights(key: ApiKey) -> list[str]:
    """What the key allows, and up to what, in a few words each."""
    said = [", ".join(sorted(key.scopes))]
    if key.models is not None:
        said.append(f"only {', '.join(sorted(key.models))}")
    if key.requests_per_minute is not None:
        said.append(f"{key.requests_per_minute:,} requests/min")
    if key.tokens_per_day is not None:
        said.append(f"{key.tokens_per_day:,} tokens/day")
    if key.at_once is not None:
        said.append(f"{key.at_once:,} at once")
    if key.priority:
        said.append(f"priority {key.priority}")
    return said


def _times(key: ApiKey, now: float) -> list[str]:
    rows = [
        ("made", to_the_minute(key.created)),
        ("used", "never" if key.last_used is None else to_the_minute(key.last_used)),
    ]
    if key.expires is not None:
        rows.append(("ended" if key.expired(now) else "ends", to_the_minute(key.expires)))
    if key.former_until is not None and key.former_valid(now):
        rows.append(("former", to_the_minute(key.former_until)))
    return [f"{what:<6} {time}" for what, time in rows]
