"""Usage: requests and tokens by hour, key and model. Counted in memory, written in batches off the requests' way."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

import aiosqlite

from manager.inflight import Tokens
from manager.usage_store import (
    ADD,
    ALL,
    DAY,
    FORGET,
    HOUR,
    NO_KEY,
    NOTHING,
    PATIENCE,
    Cell,
    Counts,
    Group,
    Query,
    make,
    unusable,
)

logger = logging.getLogger(__name__)

WRITE_EVERY: Final = 0.5
# Attempts to write what is left at the end; each may wait PATIENCE for the file.
LAST_TRIES: Final = 2

Batch = dict[Cell, list[int]]  # lists in the order of Counts


class Usage:
    """What was used; `add` counts from the first moment, the file is open within `kept`.

    Rows older than `days` are forgotten, once a day. What can't be written stays in memory until it can.
    """

    def __init__(
        self, path: Path, days: int, *, clock: Callable[[], float] = time.time, write_every: float = WRITE_EVERY
    ) -> None:
        self._path = path
        self._days = days
        self._clock = clock
        self._write_every = write_every
        self._pending: Batch = {}  # not in the file yet
        self._news = asyncio.Event()
        self._closing = asyncio.Event()
        # Who holds it finds each count either in the file or in _pending.
        self._whole = asyncio.Lock()
        self._connection: aiosqlite.Connection | None = None
        self._failing = False
        self._forgot_on = 0  # the day

    def add(self, key_id: str | None, model: str, tokens: Tokens | None, ok: bool) -> None:
        """Count a request that has ended; None is one without a key, or without a report of tokens."""
        cell = Cell(int(self._clock()) // HOUR * HOUR, key_id or NO_KEY, model)
        counts = self._pending.get(cell)
        if counts is None:
            counts = self._pending[cell] = [0] * len(NOTHING)
        counts[0] += 1
        if not ok:
            counts[1] += 1
        if tokens is not None:
            counts[2] += tokens.prompt
            counts[3] += tokens.cached
            counts[4] += tokens.generated
        self._news.set()

    @contextlib.asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """The file is written, and what is left at the end too. Raises ConfigError where the file can't be used."""
        await asyncio.to_thread(make, self._path)
        async with aiosqlite.connect(self._path, timeout=PATIENCE) as connection:
            # A crash of the machine may lose the last batches, but spoils nothing; one of the process loses none.
            await connection.execute_fetchall("PRAGMA synchronous = NORMAL")
            self._connection = connection
            writer = asyncio.create_task(self._write_until_closed())
            try:
                yield
            finally:
                # Not cancelled: nobody could tell then whether a batch under way is in the file.
                self._closing.set()
                self._news.set()
                await writer
                self._connection = None
                if lost := _requests(self._pending):
                    logger.error("usage of %d requests is lost: it could not be written at the end", lost)

    async def rows(self, query: Query, most: int = ALL) -> dict[Group, Counts]:
        """What the query asks for, what is not written yet included. `most`: a limit to the rows of the file."""
        async with self._whole:
            rows = query.groups(await self._open.execute_fetchall(*query.select(most)))
            for cell, counts in self._pending.items():
                if (group := query.group_of(cell)) is not None:
                    rows[group] = rows.get(group, NOTHING) + Counts(*counts)
            return rows

    async def tokens_since(self, epoch: float) -> dict[str, int]:
        """By key, the tokens of prompts and answers from the hour of that time to the end of its day (UTC).

        Later ones there are where the clock was ahead for a while.
        """
        rows = await self.rows(Query(epoch, (epoch // DAY + 1) * DAY, by=("key",)))
        return {str(key): counts.prompt_tokens + counts.completion_tokens for (key,), counts in rows.items()}

    @property
    def _open(self) -> aiosqlite.Connection:
        assert self._connection is not None, "outside of kept()"  # noqa: S101
        return self._connection

    async def _write_until_closed(self) -> None:
        closed = False
        while not closed:
            await self._news.wait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._write_every):
                    await self._closing.wait()
            closed = self._closing.is_set()
            self._news.clear()
            await self._write()
        for _ in range(LAST_TRIES - 1):
            if not self._pending:
                return
            await asyncio.sleep(min(self._write_every, WRITE_EVERY))
            await self._write()

    async def _write(self) -> None:
        async with self._whole:
            batch, self._pending = self._pending, {}
            try:
                await self._write_batch(batch)
            except sqlite3.Error as error:  # a full disk, or somebody who holds the file; requests go on
                self._keep(batch, error)
                return
            except Exception:  # something in the batch that SQLite does not take
                await self._write_singly(batch)
                return
        if self._failing:
            logger.info("usage is written again")
        self._failing = False

    async def _write_batch(self, batch: Batch) -> None:
        try:
            await self._open.executemany(ADD, [(*cell, *counts) for cell, counts in batch.items()])
            today = int(self._clock()) // DAY
            if today != self._forgot_on:
                await self._open.execute(FORGET, {"today": today * DAY, "days": self._days, "day": DAY})
            await self._open.commit()
            self._forgot_on = today
        except Exception:
            with contextlib.suppress(sqlite3.Error, ValueError):  # of a connection that is closed
                await self._open.rollback()
            raise

    async def _write_singly(self, batch: Batch) -> None:
        """Lose only what is at fault."""
        for cell, counts in batch.items():
            try:
                await self._write_batch({cell: counts})
            except sqlite3.Error as error:
                self._keep({cell: counts}, error)
            except Exception:
                logger.exception("usage of %d requests is lost: key=%s model=%r", counts[0], cell.key, cell.model)

    def _keep(self, batch: Batch, error: sqlite3.Error) -> None:
        self._take_back(batch)
        self._news.set()
        if not self._failing:
            logger.error("usage is kept in memory until it can be written: %s", unusable(self._path, error))
        self._failing = True

    def _take_back(self, batch: Batch) -> None:
        for cell, counts in self._pending.items():
            batch[cell] = [before + more for before, more in zip(batch.get(cell, NOTHING), counts, strict=True)]
        self._pending = batch


def _requests(batch: Batch) -> int:
    return sum(counts[0] for counts in batch.values())
