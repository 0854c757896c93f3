"""What administrators ask of usage, and the answer to it: the same over HTTP and on the command line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, get_args

from manager.api_key import LAST_TIME
from manager.errors import InvalidRequest
from manager.key_record import iso_time
from manager.usage_store import NOTHING, By, Counts, Group, Query

SINCE: Final = "30d"
BY: Final = "key,model"
_OPTIONS: Final = ("since", "until", "by", "key", "model")
# More is nothing that people read.
ROWS_MOST: Final = 10_000
_ID: Final = re.compile(r"[0-9a-f]{8,32}|-")
_UNITS: Final = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def query_of(options: Mapping[str, str], names: Mapping[str, str], now: float) -> Query:
    """The query that `since`, `until`, `by`, `key` (id or name) and `model` make. `names`: of keys, by id.

    Raises InvalidRequest naming the option at fault.
    """
    for name in options:
        if name not in _OPTIONS:
            raise InvalidRequest(f"There is no {name!r} to ask for: {', '.join(_OPTIONS)}.", param=name)
    since = _moment("since", options.get("since", SINCE), now)
    until = _moment("until", options["until"], now) if "until" in options else now
    if since >= until:
        raise InvalidRequest("'since' must be before 'until'.", param="since")
    keys = _ids(options["key"], names) if "key" in options else None
    return Query(since, until, _groups(options.get("by", BY)), keys, options.get("model"))


def report(query: Query, rows: Mapping[Group, Counts], names: Mapping[str, str]) -> dict[str, Any]:
    """The answer. Raises InvalidRequest where it would have more than ROWS_MOST rows."""
    if len(rows) > ROWS_MOST:
        raise InvalidRequest(
            f"That are more than {ROWS_MOST} rows: ask for a shorter time, for one key or model, or by less.",
            param="by",
        )
    total = NOTHING
    for counts in rows.values():
        total += counts
    return {
        "since": iso_time(query.first_hour),
        "until": iso_time(query.until),
        "rows": [{**_described(query.by, group, names), **rows[group]._asdict()} for group in sorted(rows)],
        "total": total._asdict(),
    }


def _described(by: tuple[By, ...], group: Group, names: Mapping[str, str]) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    for what, value in zip(by, group, strict=True):
        if what == "key":
            shown |= {"key": value, "name": names.get(str(value))}
        else:
            shown[what] = value if what == "model" else iso_time(float(value))[: 10 if what == "day" else None]
    return shown


def _ids(key: str, names: Mapping[str, str]) -> frozenset[str]:
    ids = frozenset(id_ for id_, name in names.items() if key in (id_, name))
    if not ids and not _ID.fullmatch(key):
        raise InvalidRequest(f"No key has the id or the name {key!r}.", param="key")
    return ids or frozenset({key})  # of a key that was revoked: its usage stays


def _groups(text: str) -> tuple[By, ...]:
    known: dict[str, By] = {name: name for name in get_args(By)}
    words = dict.fromkeys(word.strip() for word in text.split(","))
    if not words.keys() <= known.keys():
        raise InvalidRequest(f"'by' must be a list of {', '.join(known)}, with commas between them.", param="by")
    return tuple(known[word] for word in words)


def _moment(name: str, text: str, now: float) -> float:
    """Seconds since the epoch of `7d`, `24h`, or an ISO date or time, which is UTC where it has no zone."""
    text = text.strip()
    try:
        if text.isascii() and text[:-1].isdecimal() and text[-1:] in _UNITS:
            moment = now - timedelta(**{_UNITS[text[-1]]: int(text[:-1])}).total_seconds()
        else:
            when = datetime.fromisoformat(text)
            moment = (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
        if not 0 <= moment <= LAST_TIME:
            raise ValueError(moment)
        return moment
    except (ValueError, OverflowError):
        raise InvalidRequest(
            f"'{name}' must be a time that has gone by (24h, 7d) or a date or time (2027-01-31, 2027-01-31T12:00Z).",
            param=name,
        ) from None
