"""Usage: what is counted, what is in the file, and when."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

import aiosqlite
import pytest
import typer
from typer.testing import CliRunner

from manager import usage as module
from manager.auth import KeyStore
from manager.cli import key_usage
from manager.errors import ConfigError, InvalidRequest
from manager.inflight import Tokens
from manager.usage import Usage
from manager.usage_report import ROWS_MOST, query_of, report
from manager.usage_store import DAY, HOUR, VERSION, By, Counts, Group, Query, make, read
from tests.conftest import MakeSettings
from tests.manager.bench import Clock, soon, until

NOW = 20_778 * DAY + 18 * HOUR + 1200.0  # 2026-11-21 18:20 UTC
TOKENS = Tokens(prompt=10, cached=4, generated=3)
ALWAYS = Query(0, NOW + DAY)
ONE = Counts(1, 0, 10, 4, 3)


@pytest.fixture
def clock() -> Clock:
    return Clock(NOW)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "usage.sqlite"


@pytest.fixture
def usage(path: Path, clock: Clock) -> Usage:
    """It writes at once."""
    return Usage(path, 400, clock=clock, write_every=0)


@pytest.fixture
def lazy(path: Path, clock: Clock) -> Usage:
    """It writes at the end."""
    return Usage(path, 400, clock=clock, write_every=1000)


def written(path: Path) -> dict[tuple[str, str], Counts]:
    """What the file has, by key and model, as another program sees it."""
    sums = ", ".join(f"sum({name})" for name in Counts._fields)
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute(f"SELECT key, model, {sums} FROM usage GROUP BY 1, 2")  # noqa: S608
        return {(key, model): Counts(*counts) for key, model, *counts in rows}


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


# counting


async def test_requests_errors_and_tokens_are_counted_by_key_and_model(usage: Usage) -> None:
    usage.add("k1", "alpha", TOKENS, ok=True)
    usage.add("k1", "alpha", None, ok=False)
    usage.add("k1", "beta", Tokens(1, 0, 0), ok=False)
    usage.add(None, "alpha", TOKENS, ok=True)
    async with usage.kept():
        assert await usage.rows(ALWAYS) == {
            ("k1", "alpha"): Counts(2, 1, 10, 4, 3),
            ("k1", "beta"): Counts(1, 1, 1, 0, 0),
            ("-", "alpha"): ONE,
        }


@pytest.mark.parametrize("lives", [1, 2, 3])
async def test_what_is_in_the_file_is_what_was_counted_in_every_life(path: Path, clock: Clock, lives: int) -> None:
    for _ in range(lives):
        usage = Usage(path, 400, clock=clock)
        async with usage.kept():
            usage.add("k1", "alpha", TOKENS, ok=True)
    assert written(path) == {("k1", "alpha"): Counts(lives, 0, 10 * lives, 4 * lives, 3 * lives)}


QUERIES = [
    ALWAYS,
    *(Query(0, NOW, by=(by,)) for by in ("key", "model", "day", "hour")),
    Query(0, NOW, by=("hour", "model", "key")),
    Query(NOW - 2 * HOUR, NOW - HOUR, by=("day",)),
    Query(NOW - HOUR, NOW - HOUR + 1),
    Query(NOW - 2 * HOUR - 1199, NOW, by=("hour",)),
    Query(NOW - 2 * HOUR - 1201, NOW, by=("hour",)),
    Query(0, NOW, keys=frozenset({"k1", "-"})),
    Query(0, NOW, keys=frozenset({"nobody"})),
    Query(0, NOW, by=("key",), model="beta"),
]


@pytest.mark.parametrize("query", QUERIES)
async def test_answer_is_the_same_whether_written_or_not(path: Path, lazy: Usage, clock: Clock, query: Query) -> None:
    made = [
        (hours, key, model) for hours in (30, 3, 2, 1, 0) for key in ("k1", "k2", None) for model in ("alpha", "beta")
    ]
    expected: dict[Any, Counts] = {}
    for number, (hours, key, model) in enumerate(made):
        hour = int(NOW - hours * HOUR) // HOUR * HOUR
        counts = Counts(1, 0, number, 0, 1)
        values: dict[By, Any] = {"key": key or "-", "model": model, "day": hour // DAY * DAY, "hour": hour}
        if (
            int(query.since) // HOUR * HOUR <= hour < query.until
            and query.model in (None, model)
            and (query.keys is None or values["key"] in query.keys)
        ):
            group = tuple(values[by] for by in query.by)
            expected[group] = expected.get(group, Counts(0, 0, 0, 0, 0)) + counts

    def add(some: list[tuple[int, str | None, str]]) -> None:
        for hours, key, model in some:
            clock.now = NOW - hours * HOUR
            lazy.add(key, model, Tokens(made.index((hours, key, model)), 0, 1), ok=True)

    add(made[::2])
    async with lazy.kept():
        await lazy._write()
        add(made[1::2])
        assert await lazy.rows(query) == expected
    assert await asyncio.to_thread(read, path, query) == expected


async def test_no_count_is_missing_or_told_twice_while_it_is_written(usage: Usage) -> None:
    async with usage.kept():
        for number in range(1, 201):
            usage.add("k1", "alpha", None, ok=True)
            (counts,) = (await usage.rows(ALWAYS)).values()
            assert counts.requests == number
            if number % 10 == 0:
                await asyncio.sleep(0.001)  # the writer's turn
    assert usage._pending == {}


async def test_asker_that_leaves_spoils_nothing(usage: Usage, path: Path) -> None:
    async with usage.kept():
        for _ in range(50):
            usage.add("k1", "alpha", None, ok=True)
            asking = asyncio.create_task(usage.rows(ALWAYS))
            await asyncio.sleep(0)
            asking.cancel()
            await asyncio.wait({asking})
    assert written(path) == {("k1", "alpha"): Counts(50, 0, 0, 0, 0)}


async def test_tokens_since_are_those_of_prompts_and_answers_by_key(lazy: Usage, clock: Clock) -> None:
    midnight = NOW // DAY * DAY
    for clock.now in (midnight - 1, midnight, NOW):
        lazy.add("k1", "alpha", TOKENS, ok=True)
        lazy.add(None, "beta", TOKENS, ok=False)
    async with lazy.kept():
        await lazy._write()
        lazy.add("k1", "beta", TOKENS, ok=True)
        assert await lazy.tokens_since(midnight) == {"k1": 39, "-": 26}


async def test_tokens_of_a_clock_that_was_ahead_are_not_those_of_today(path: Path, clock: Clock) -> None:
    midnight = NOW // DAY * DAY
    for clock.now in (NOW + 30 * DAY, midnight + DAY, midnight + DAY - 1):
        usage = Usage(path, 400, clock=clock)
        async with usage.kept():
            usage.add("k1", "alpha", TOKENS, ok=True)
    usage = Usage(path, 400, clock=clock)
    async with usage.kept():
        assert await usage.tokens_since(midnight) == {"k1": 13}
        assert await usage.tokens_since(midnight + DAY) == {"k1": 13}


# the file


async def test_what_is_new_is_written_soon_without_anybody_waiting(path: Path, clock: Clock) -> None:
    usage = Usage(path, 400, clock=clock, write_every=0.01)
    async with usage.kept():
        usage.add("k1", "alpha", TOKENS, ok=True)
        assert written(path) == {}
        await until(lambda: written(path) == {("k1", "alpha"): ONE})
        usage.add("k1", "alpha", TOKENS, ok=True)
        await until(lambda: written(path)["k1", "alpha"].requests == 2)


async def test_many_requests_are_one_write(usage: Usage, monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[int] = []
    write = usage._write_batch

    async def noted(batch: Any) -> None:
        batches.append(len(batch))
        await write(batch)

    monkeypatch.setattr(usage, "_write_batch", noted)
    async with usage.kept():
        for number in range(100):
            usage.add(f"k{number % 2}", "alpha", None, ok=True)
        await until(lambda: batches)
        await asyncio.sleep(0.01)
        assert batches == [2]  # and none where there is nothing new


async def test_rows_older_than_the_days_are_forgotten(path: Path, clock: Clock) -> None:
    usage = Usage(path, 3, clock=clock, write_every=0)
    hours = Query(0, NOW + 10 * DAY, by=("hour",))
    today = int(NOW // DAY)
    async with usage.kept():
        for day in range(6):
            clock.now = NOW + day * DAY
            usage.add("k1", "alpha", None, ok=True)
            await until(lambda: not usage._pending)
            days = {int(hour) // DAY - today for (hour,) in await usage.rows(hours)}
            assert days == set(range(max(0, day - 3), day + 1))


async def test_clock_that_is_ahead_for_a_while_makes_nothing_forgotten(path: Path, clock: Clock) -> None:
    every_hour = Query(0, NOW + 1000 * DAY, by=("hour",))
    for days in (0, 500, 500, 0, 1):  # of the clock, in each life
        clock.now = NOW + days * DAY
        usage = Usage(path, 3, clock=clock)
        async with usage.kept():
            usage.add("k1", "alpha", None, ok=True)
    hours = await asyncio.to_thread(read, path, every_hour)
    assert sorted((int(hour) - int(NOW)) // DAY + 1 for (hour,) in hours) == [0, 1, 500]


async def test_files_are_for_their_owner_alone_whatever_the_umask(usage: Usage, path: Path) -> None:
    before = os.umask(0)
    try:
        async with usage.kept():
            usage.add("k1", "alpha", None, ok=True)
            await until(lambda: not usage._pending)
            modes = {file.name: mode(file) for file in path.parent.iterdir()}
    finally:
        os.umask(before)
    assert modes == dict.fromkeys(("usage.sqlite", "usage.sqlite-wal", "usage.sqlite-shm"), 0o600)


async def test_file_that_others_could_open_is_taken_from_them(
    usage: Usage, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await asyncio.to_thread(make, path)
    await asyncio.to_thread(path.chmod, 0o664)
    async with usage.kept():
        pass
    assert mode(path) == 0o600
    assert "event=too_open" in caplog.text


def not_a_database(path: Path) -> None:
    path.write_bytes(b"Something else, and long enough to be looked at. " * 100)


def a_newer_one(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {VERSION + 1}")


def that_of_another_program(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE usage (bread INTEGER)")


def a_folder(path: Path) -> None:
    path.mkdir()


def content(path: Path) -> bytes:
    return b"" if path.is_dir() else path.read_bytes()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (not_a_database, "file is not a database"),
        (a_newer_one, "a newer llamaherd has written it"),
        (that_of_another_program, "another program's database"),
        (a_folder, "Is a directory"),
    ],
)
async def test_file_that_can_not_be_used_is_a_mistake_in_the_settings(
    usage: Usage, path: Path, spoil: Callable[[Path], None], reason: str
) -> None:
    path.parent.mkdir()
    spoil(path)
    before = content(path)
    with pytest.raises(ConfigError) as caught:
        async with usage.kept():
            pass
    assert f"{path} (setting storage.usage_file): " in caught.value.message
    assert reason in caught.value.message
    assert content(path) == before


async def test_folder_that_can_not_be_made_is_a_mistake_in_the_settings(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"Not a directory"):
        async with Usage(tmp_path / "file" / "usage.sqlite", 400).kept():
            pass


# failures


async def test_full_disk_is_logged_once_and_nothing_is_lost(
    usage: Usage, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with usage.kept():
        usage.add("k1", "alpha", TOKENS, ok=True)
        await until(lambda: written(path))
        connection = usage._connection
        assert isinstance(connection, aiosqlite.Connection)
        await connection.execute_fetchall("PRAGMA max_page_count = 2")
        for number in range(500):  # more than the page takes
            usage.add("k1", f"model-{number}", None, ok=True)
        await until(lambda: usage._failing)
        usage.add("k1", "alpha", TOKENS, ok=True)
        await asyncio.sleep(0.01)  # it is tried again and again
        rows = await usage.rows(ALWAYS)
        assert (len(rows), rows["k1", "alpha"].requests) == (501, 2)
        assert len(written(path)) == 1
        await connection.execute_fetchall("PRAGMA max_page_count = 10000")
        await until(lambda: not usage._failing)
        assert len(written(path)) == 501
        assert written(path)["k1", "alpha"].requests == 2
    assert [record.getMessage() for record in caplog.records if record.name == "manager.usage"] == [
        "usage is kept in memory until it can be written: "
        f"{path} (setting storage.usage_file): can't be used: database or disk is full.",
        "usage is written again",
    ]


async def test_file_that_somebody_holds_is_written_when_it_is_let_go(
    usage: Usage, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0)
    async with usage.kept():
        with closing(sqlite3.connect(path)) as other:
            other.execute("BEGIN IMMEDIATE")
            usage.add("k1", "alpha", TOKENS, ok=True)
            await until(lambda: usage._failing)
            usage.add("k1", "alpha", TOKENS, ok=True)
            assert (await usage.rows(ALWAYS))["k1", "alpha"].requests == 2
        await until(lambda: written(path).get(("k1", "alpha")) == Counts(2, 0, 20, 8, 6))


async def test_batch_is_written_whole_or_not_at_all(usage: Usage, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FORGET", "DELETE FROM nowhere WHERE hour < ?")  # it comes after the counts
    async with usage.kept():
        usage.add("k1", "alpha", TOKENS, ok=True)
        await until(lambda: usage._failing)
        monkeypatch.undo()
        await until(lambda: not usage._failing)
    assert written(path) == {("k1", "alpha"): ONE}


async def test_end_does_not_wait_for_a_file_that_is_held(
    usage: Usage, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0)

    async def use() -> None:
        async with usage.kept():
            other.execute("BEGIN IMMEDIATE")
            usage.add("k1", "alpha", TOKENS, ok=True)

    await asyncio.to_thread(make, path)
    with closing(sqlite3.connect(path)) as other:
        await soon(use())


async def test_what_is_left_at_the_end_is_tried_again(
    usage: Usage, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failures = iter([sqlite3.OperationalError("disk I/O error")])
    write = usage._write_batch

    async def flaky(batch: Any) -> None:
        for failure in failures:
            raise failure
        await write(batch)

    monkeypatch.setattr(usage, "_write_batch", flaky)
    async with usage.kept():
        usage.add("k1", "alpha", TOKENS, ok=True)
    assert written(path) == {("k1", "alpha"): ONE}
    assert "lost" not in caplog.text


async def test_what_can_not_be_written_at_the_end_is_told(
    usage: Usage, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tries = 0

    async def broken(_: Any) -> None:
        nonlocal tries
        tries += 1
        raise sqlite3.OperationalError("disk I/O error")

    async with usage.kept():
        monkeypatch.setattr(usage, "_write_batch", broken)
        for number in range(5):
            usage.add("k1", f"model-{number % 2}", TOKENS, ok=True)
    assert tries == 2
    assert caplog.messages[-1] == "usage of 5 requests is lost: it could not be written at the end"
    assert written(path) == {}


@pytest.mark.parametrize("bad", [("m\udcff", TOKENS), ("alpha", Tokens(2**63, 0, 1))])
async def test_count_that_sqlite_does_not_take_is_told_and_dropped_alone(
    usage: Usage, path: Path, caplog: pytest.LogCaptureFixture, bad: tuple[str, Tokens]
) -> None:
    async with usage.kept():
        usage.add("k1", *bad, ok=True)
        usage.add("k1", "beta", TOKENS, ok=True)
        await until(lambda: written(path) == {("k1", "beta"): ONE})
        usage.add("k1", "beta", TOKENS, ok=True)
        await until(lambda: written(path)["k1", "beta"].requests == 2)
    (message,) = caplog.messages
    assert message == f"usage of 1 requests is lost: key=k1 model={bad[0]!r}"


KILLED = """
import asyncio, sys
from pathlib import Path
from manager.inflight import Tokens
from manager.usage import Usage

async def main():
    usage = Usage(Path(sys.argv[1]), 400)
    async with usage.kept():
        while True:
            for _ in range(100):
                usage.add("k1", "alpha", Tokens(2, 0, 1), ok=True)
            print("added", flush=True)
            await asyncio.to_thread(sys.stdin.readline)

asyncio.run(main())
"""


def test_process_that_is_killed_loses_the_last_moment_only(path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "added\n"
            wait_for(lambda: written(path))
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.readline() == "added\n"
        finally:
            process.kill()
    before = written(path)["k1", "alpha"]
    assert before.requests in (100, 200)
    assert before == Counts(before.requests, 0, 2 * before.requests, 0, before.requests)

    usage = Usage(path, 400)
    usage.add("k1", "alpha", None, ok=True)
    keep(usage)
    assert written(path)["k1", "alpha"].requests == before.requests + 1


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def keep(usage: Usage) -> None:
    """Begin and end, as a service does."""

    async def life() -> None:
        async with usage.kept():
            pass

    asyncio.run(life())


# reading without the service


def test_reader_finds_nothing_in_a_file_that_is_not_there(path: Path) -> None:
    assert read(path, ALWAYS) == {}
    assert not path.exists()
    path.parent.mkdir()
    path.touch()
    assert read(path, ALWAYS) == {}


@pytest.mark.parametrize("spoil", [not_a_database, a_newer_one])
def test_reader_names_the_file_that_it_can_not_read(path: Path, spoil: Callable[[Path], None]) -> None:
    path.parent.mkdir()
    spoil(path)
    with pytest.raises(ConfigError, match=re.escape(str(path))):
        read(path, ALWAYS)


def test_reader_changes_nothing_in_the_file(usage: Usage, path: Path) -> None:
    usage.add("k1", "alpha", TOKENS, ok=True)
    keep(usage)
    before = path.read_bytes()
    assert read(path, ALWAYS) == {("k1", "alpha"): ONE}
    assert path.read_bytes() == before


# questions and answers

NAMES = {"0a1b2c3d": "web", "11111111": "batch", "22222222": "batch"}


@pytest.mark.parametrize(
    ("options", "query"),
    [
        ({}, Query(NOW - 30 * DAY, NOW)),
        ({"since": "7d", "until": "90m"}, Query(NOW - 7 * DAY, NOW - 5400)),
        ({"since": "2026-11-01"}, Query(NOW - 20 * DAY - 18 * HOUR - 1200, NOW)),
        ({"since": "2026-11-21T12:20:00+02:00"}, Query(NOW - 8 * HOUR, NOW)),
        ({"by": "day, key"}, Query(NOW - 30 * DAY, NOW, ("day", "key"))),
        ({"by": "hour,hour"}, Query(NOW - 30 * DAY, NOW, ("hour",))),
        ({"key": "web"}, Query(NOW - 30 * DAY, NOW, keys=frozenset({"0a1b2c3d"}))),
        ({"key": "batch"}, Query(NOW - 30 * DAY, NOW, keys=frozenset({"11111111", "22222222"}))),
        ({"key": "33333333"}, Query(NOW - 30 * DAY, NOW, keys=frozenset({"33333333"}))),
        ({"key": "-", "model": "alpha"}, Query(NOW - 30 * DAY, NOW, keys=frozenset({"-"}), model="alpha")),
    ],
)
def test_options_make_a_query(options: dict[str, str], query: Query) -> None:
    assert query_of(options, NAMES, NOW) == query


@pytest.mark.parametrize(
    ("options", "param"),
    [
        *(
            ({"since": text}, "since")
            for text in ("", "soon", "-3d", "7", "²d", "99999999999999d", "2026-13-01", "0001-01-01")
        ),
        ({"since": "1h", "until": "2h"}, "since"),
        ({"until": "yesterday"}, "until"),
        ({"until": "9999-12-31T23:59-14:00"}, "until"),
        *(({"by": text}, "by") for text in ("", "week", "key,", "key;model", "Key")),
        ({"key": "wbe"}, "key"),
        ({"modle": "alpha"}, "modle"),
    ],
)
def test_option_that_makes_no_sense_is_named(options: dict[str, str], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        query_of(options, NAMES, NOW)
    assert caught.value.param == param
    assert param in caught.value.message


def test_report_has_the_names_of_keys_and_a_total() -> None:
    query = Query(NOW - HOUR, NOW)
    other = Counts(2, 2, 1, 0, 0)
    assert report(query, {("11111111", "beta"): other, ("0a1b2c3d", "alpha"): ONE, ("33333333", "a"): ONE}, NAMES) == {
        "since": "2026-11-21T17:00:00Z",
        "until": "2026-11-21T18:20:00Z",
        "rows": [
            {"key": "0a1b2c3d", "name": "web", "model": "alpha", **ONE._asdict()},
            {"key": "11111111", "name": "batch", "model": "beta", **other._asdict()},
            {"key": "33333333", "name": None, "model": "a", **ONE._asdict()},
        ],
        "total": Counts(4, 2, 21, 8, 6)._asdict(),
    }


def test_days_and_hours_are_told_as_dates_and_times() -> None:
    query = Query(NOW - HOUR, NOW, ("day", "hour"))
    hour = int(NOW) // HOUR * HOUR
    (row,) = report(query, {(hour // DAY * DAY, hour): ONE}, {})["rows"]
    assert (row["day"], row["hour"]) == ("2026-11-21", "2026-11-21T18:00:00Z")


def test_report_of_nothing_has_a_total() -> None:
    told = report(Query(NOW - HOUR, NOW), {}, {})
    assert (told["rows"], told["total"]["requests"]) == ([], 0)


def test_report_that_nobody_could_read_is_refused() -> None:
    rows: dict[Group, Counts] = {(hour,): ONE for hour in range(ROWS_MOST + 1)}
    with pytest.raises(InvalidRequest, match=str(ROWS_MOST)) as caught:
        report(Query(0, NOW, ("hour",)), rows, {})
    assert caught.value.param == "by"


# the command line


@pytest.fixture
def used(make_settings: MakeSettings) -> str:
    """A folder with a key named "web" that was used; the id of the key."""
    store = KeyStore(Path("data/keys.json"))
    _, key = store.create("web", "", {"inference"})
    usage = Usage(Path("data/usage.sqlite"), 400)
    usage.add(key.id, "alpha", Tokens(12_345, 0, 6), ok=True)
    usage.add(None, "alpha", None, ok=False)
    keep(usage)
    return key.id


def run(*arguments: str) -> tuple[int, str, BaseException | None]:
    app = typer.Typer()
    app.command()(key_usage.usage)
    done = CliRunner().invoke(app, arguments)
    return done.exit_code, done.output, done.exception


def test_command_line_shows_a_table(used: str) -> None:
    code, out, _ = run()
    assert code == 0
    for word in (used, "web", "alpha", "12,345", "Total", "Prompt"):
        assert word in out


MANY = Counts(812_345, 30, 1_234_567_890, 310_004_001, 96_011_000)
NUMBERS = [f"{count:,}" for count in MANY]
MODEL = "Qwen3-30B-A3B-Instruct-2507-Q4_K_M"
NAMED = {"key": "0a1b2c3dthe-web-app", "model": MODEL, "day": "2026-11-21"}


class Printed(Protocol):
    """The lines of a table with one row, on a terminal of that width."""

    def __call__(self, by: tuple[By, ...], width: int) -> list[str]: ...


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Printed:
    def show(by: tuple[By, ...], width: int) -> list[str]:
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setenv("TTY_COMPATIBLE", "0")  # no colours
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        key_usage._show(told_by(by))
        return capsys.readouterr().out.splitlines()

    return show


def told_by(by: tuple[By, ...]) -> dict[str, Any]:
    values: dict[By, str | int] = {
        "key": "0a1b2c3d",
        "model": MODEL,
        "day": int(NOW) // DAY * DAY,
        "hour": int(NOW) // HOUR * HOUR,
    }
    return report(Query(NOW - DAY, NOW, by), {tuple(values[one] for one in by): MANY}, {"0a1b2c3d": "the-web-app"})


@pytest.mark.parametrize("by", [("key", "model"), ("model",), ("day", "key")])
def test_table_fits_a_terminal_of_80_columns_and_names_fold(printed: Printed, by: tuple[By, ...]) -> None:
    lines = printed(by, 80)
    assert max(map(len, lines)) <= 80
    ends = [line.split()[-5:] for line in lines]
    assert ends.count(NUMBERS) == 2  # and the total
    assert ["Requests", "Errors", "Prompt", "Cached", "Answers"] in ends
    first = next(place for place, line in enumerate(ends) if line == NUMBERS)
    last = next(place for place, line in enumerate(lines) if line.startswith(" Total"))
    folded = [line[: lines[first].index(NUMBERS[0])] for line in lines[first : last - 1]]
    assert sorted("".join(folded).replace(" ", "")) == sorted("".join(NAMED[one] for one in by))


@pytest.mark.parametrize("width", [20, 60])
def test_table_cuts_no_number_id_or_time_however_narrow_the_terminal_is(printed: Printed, width: int) -> None:
    lines = [line.split() for line in printed(("key", "model", "day", "hour"), width)]
    assert ["0a1b2c3d", MODEL[:8], "2026-11-21", "2026-11-21T18:00:00Z", *NUMBERS] in lines
    assert ["Total", *NUMBERS] in lines


def test_command_line_prints_json(used: str) -> None:
    code, out, _ = run("web", "--since", "1h", "--by", "key,day", "--model", "alpha", "--json")
    assert code == 0
    told = json.loads(out)
    (row,) = told["rows"]
    assert (row["key"], row["name"], row["prompt_tokens"]) == (used, "web", 12_345)
    assert told["total"]["requests"] == 1


@pytest.mark.usefixtures("used")
def test_command_line_says_where_nothing_was_used() -> None:
    code, out, _ = run("--model", "beta", "--until", "2100-01-01")
    assert code == 0
    assert re.fullmatch(r"Nothing was used from \S+Z to 2100-01-01T00:00:00Z\.\n", out)


@pytest.mark.usefixtures("used")
def test_command_line_refuses_what_the_route_refuses() -> None:
    error = run("nobody")[2]
    assert isinstance(error, InvalidRequest)
    assert error.param == "key"
