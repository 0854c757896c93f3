"""The SQLite file of usage: its table, what it can be asked, and who may open it."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from manager.errors import ConfigError
from manager.private_file import open_private, tighten

logger = logging.getLogger(__name__)

HOUR: Final = 3600
DAY: Final = 86_400
VERSION: Final = 1  # of the table, in PRAGMA user_version; 0 is a file that was just made
NO_KEY: Final = "-"
ALL: Final = -1  # rows, in a LIMIT
# Seconds that another process may hold the file, a backup say.
PATIENCE: Final = 5.0

By = Literal["key", "model", "day", "hour"]

_TABLE: Final = """
CREATE TABLE IF NOT EXISTS usage (
    hour INTEGER NOT NULL,
    key TEXT NOT NULL,
    model TEXT NOT NULL,
    requests INTEGER NOT NULL,
    errors INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    cached_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    PRIMARY KEY (hour, key, model)
) WITHOUT ROWID"""
ADD: Final = """
INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (hour, key, model) DO UPDATE SET
    requests = requests + excluded.requests,
    errors = errors + excluded.errors,
    prompt_tokens = prompt_tokens + excluded.prompt_tokens,
    cached_tokens = cached_tokens + excluded.cached_tokens,
    completion_tokens = completion_tokens + excluded.completion_tokens"""
# Reckoned from the last day before today that was used: a clock that is ahead for a while must not empty the table.
FORGET: Final = """
DELETE FROM usage
WHERE hour < (SELECT max(hour) / :day * :day + :day FROM usage WHERE hour < :today) - :days * :day"""
_COLUMNS: Final[dict[By, str]] = {"key": "key", "model": "model", "day": f"hour / {DAY} * {DAY}", "hour": "hour"}


class Counts(NamedTuple):
    """Requests that ended, how many of them with an error, and tokens. `prompt` includes what was `cached`."""

    requests: int
    errors: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int

    def __add__(self, other: Counts) -> Counts:  # type: ignore[override]  # a sum, not a longer tuple
        return Counts(*map(sum, zip(self, other, strict=True)))


NOTHING: Final = Counts(0, 0, 0, 0, 0)


class Cell(NamedTuple):
    """What is counted together. `hour`: its first second, since the epoch."""

    hour: int
    key: str
    model: str


# Of a group: its key, its model, and the first second of its day or hour, as far as it was asked for, in that order.
Group = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Query:
    """Usage from `since` up to `until`, seconds since the epoch, by hours: the one that `since` is in counts whole.

    `keys` are ids, None: of all; so is `model`.
    """

    since: float
    until: float
    by: tuple[By, ...] = ("key", "model")
    keys: frozenset[str] | None = None
    model: str | None = None

    @property
    def first_hour(self) -> int:
        return int(self.since // HOUR) * HOUR

    def select(self, most: int = ALL) -> tuple[str, list[Any]]:
        """The SQL that gives a group and its counts per row, `most` rows at most, and its parameters."""
        sums = ", ".join(f"sum({name})" for name in Counts._fields)
        groups = ", ".join(_COLUMNS[one] for one in self.by)
        where = "hour >= ? AND hour < ?"
        parameters: list[Any] = [self.first_hour, self.until]
        if self.keys is not None:
            where += f" AND key IN ({', '.join('?' * len(self.keys))})"
            parameters += sorted(self.keys)
        if self.model is not None:
            where += " AND model = ?"
            parameters.append(self.model)
        places = ", ".join(str(place + 1) for place in range(len(self.by)))
        # Nothing of it is a client's: these are names of columns out of the tables above.
        sql = f"SELECT {groups}, {sums} FROM usage WHERE {where} GROUP BY {places} LIMIT {most}"  # noqa: S608
        return sql, parameters

    def group_of(self, cell: Cell) -> Group | None:
        """The group that a cell is counted in; None where it was not asked for."""
        asked = self.first_hour <= cell.hour < self.until
        asked = asked and (self.keys is None or cell.key in self.keys)
        if not asked or (self.model is not None and cell.model != self.model):
            return None
        values: dict[By, str | int] = {
            "key": cell.key,
            "model": cell.model,
            "day": cell.hour // DAY * DAY,
            "hour": cell.hour,
        }
        return tuple(values[one] for one in self.by)

    def groups(self, rows: Iterable[Iterable[Any]]) -> dict[Group, Counts]:
        """What rows of `select` say."""
        width = len(self.by)
        return {tuple(row[:width]): Counts(*row[width:]) for row in map(tuple, rows)}


def make(path: Path) -> None:
    """Make the file and its table where they are missing. Blocks. Raises ConfigError where it can't be used."""
    try:
        os.close(open_private(path, os.O_RDWR))
        with closing(sqlite3.connect(path, timeout=PATIENCE)) as connection:
            if not _version(path, connection) and connection.execute("SELECT * FROM sqlite_master").fetchone():
                raise ConfigError(f"{path} (setting storage.usage_file): another program's database is in it.")
            _keep_private(path)
            connection.execute("PRAGMA journal_mode = WAL")  # readers and the writer don't wait for each other
            with connection:
                connection.execute(_TABLE)
                connection.execute(f"PRAGMA user_version = {VERSION}")
    except (OSError, sqlite3.Error) as error:
        raise unusable(path, error) from None


def read(path: Path, query: Query, most: int = ALL) -> dict[Group, Counts]:
    """What the file tells, whether or not a service writes it; nothing where it is missing. Blocks.

    Raises ConfigError where it can't be read.
    """
    if not path.exists():
        return {}
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=PATIENCE)) as connection:
            if not _version(path, connection):
                return {}  # just made
            return query.groups(connection.execute(*query.select(most)))
    except sqlite3.Error as error:
        raise unusable(path, error) from None


def unusable(path: Path, error: Exception) -> ConfigError:
    reason = error.strerror if isinstance(error, OSError) else None
    return ConfigError(f"{path} (setting storage.usage_file): can't be used: {reason or error}.")


def _keep_private(path: Path) -> None:
    """SQLite gives the files beside this one the same mode; those of an earlier time keep theirs."""
    real = Path(os.path.realpath(path))  # as SQLite has it
    for file in (real, *(real.with_name(real.name + end) for end in ("-wal", "-shm"))):
        if not file.exists():
            continue
        handle = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if tighten(handle, file) is not None:
                logger.warning("usage_file=%s event=too_open others could open it; taken from them", file)
        finally:
            os.close(handle)


def _version(path: Path, connection: sqlite3.Connection) -> int:
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > VERSION:
        raise ConfigError(
            f"{path} (setting storage.usage_file): a newer llamaherd has written it (version {version}, this one "
            f"knows {VERSION})."
        )
    return version
