"""Pulls: the models that the service fetches for administrators far away, a few at a time, for all to watch."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Final

from manager.catalog import Catalog
from manager.errors import ConfigError, HerdError, InvalidRequest, QueueFull, RequestCancelled, ShuttingDown
from manager.feed import Feed
from manager.mistakes import shown
from manager.model_listing import check_free, enlist
from manager.model_store import BadSource, Plan, parse_source, pull, resolve
from manager.models_edit import NameTaken
from manager.models_file import name_problem
from manager.pull_state import ENDED, Pull, PullState, Wanted
from manager.settings import Settings

__all__ = ["ENDED", "Pull", "PullNotFound", "PullState", "Pulls", "Wanted"]

logger = logging.getLogger(__name__)

AT_ONCE: Final = 2
MOST: Final = 64  # that wait or run
KEPT: Final = 50  # that have ended
SAY_EVERY: Final = 0.25  # seconds between two events of a pull's progress


class PullNotFound(HerdError):
    status = 404
    type = "not_found_error"
    code = "pull_not_found"


class Pulls:
    """At most AT_ONCE run, the others wait in their order. `reload` reads models.json again, as Reloader.reload."""

    def __init__(
        self,
        settings: Settings,
        feed: Feed,
        catalog: Callable[[], Catalog],
        reload: Callable[[], Awaitable[None]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._feed = feed
        self._catalog = catalog
        self._reload = reload
        self._clock = clock
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._pulls: dict[str, Pull] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._writing: dict[str, frozenset[Path]] = {}  # the files of those that fetch
        self._listing: set[str] = set()  # those that have all their files: it is too late to cancel them
        self._closed = False

    def start(self, wanted: Wanted) -> Pull:
        """Begin it, or find the same one that waits or runs already. Raises BadSource, QueueFull and ShuttingDown."""
        if self._closed:
            raise ShuttingDown("The service is shutting down.", retry_after=5)
        self._check(wanted)
        under_way = [self._pulls[name] for name in self._tasks]
        for known in under_way:
            if known.wanted == wanted:
                return known
        if len(under_way) >= MOST:
            raise QueueFull(f"{MOST} pulls wait or run already; one of them has to end first.", retry_after=60)
        one = Pull(wanted)
        self._pulls[one.id] = one
        task = self._tasks[one.id] = asyncio.create_task(self._carry_out(one))
        task.add_done_callback(partial(self._end, one))
        self._publish(one)
        return one

    def list(self) -> tuple[Pull, ...]:
        """Those that wait or run, and the last that have ended; oldest first."""
        return tuple(sorted(self._pulls.values(), key=lambda one: one.created))

    def get(self, name: str) -> Pull:
        """The pull of that id. Raises PullNotFound."""
        known = self._pulls.get(name)
        if known is None:
            raise PullNotFound(f"There is no pull with the id {shown(name)}.", param="id")
        return known

    async def cancel(self, name: str) -> Pull:
        """End it; what has come stays for a next one. One that has ended stays as it is. Raises PullNotFound."""
        known = self.get(name)
        if name in self._tasks and name not in self._listing:
            self._tasks[name].cancel()
        await known.over.wait()
        return known

    async def done(self, known: Pull) -> None:
        """Until it has ended. Raises what it failed with, or RequestCancelled."""
        await known.over.wait()
        if known.failure is not None:
            raise known.failure
        if known.state is PullState.CANCELLED:
            raise RequestCancelled("The pull was cancelled. What has come stays, and the same pull goes on from it.")

    async def close(self) -> None:
        """Cancel all of them and refuse new ones."""
        self._closed = True
        await asyncio.gather(*(self.cancel(name) for name in tuple(self._tasks)))

    def _check(self, wanted: Wanted) -> None:
        """Raise BadSource for what can be told to come to nothing before anybody is asked."""
        parse_source(wanted.source, self._settings.hub, public_only=True)
        reason = None if wanted.name is None else name_problem(wanted.name)
        if reason is not None:
            raise BadSource(f"'name' {reason}.", param="name")

    async def _carry_out(self, one: Pull) -> None:
        async with self._turns:
            self._move(one, PullState.RESOLVING)
            plan = await self._resolved(one)
            one.files, one.total = plan.files, plan.size
            await self._wait_for_files(one, plan)
            self._move(one, PullState.FETCHING)
            progress, note = partial(self._advance, one), partial(self._hold, one)
            await pull(plan, self._settings, progress, public_only=True, note=note)
            self._listing.add(one.id)
            await self._serve(one, plan)

    async def _resolved(self, one: Pull) -> Plan:
        wanted = one.wanted
        plan = await resolve(
            wanted.source,
            self._settings,
            quant=wanted.quant,
            revision=wanted.revision,
            name=wanted.name,
            mmproj=wanted.mmproj,
            public_only=True,
            note=partial(self._hold, one),
        )
        check_free(plan, self._catalog(), wanted.name)
        return plan

    async def _wait_for_files(self, one: Pull, plan: Plan) -> None:
        """Until no other pull writes to one of its files: two quantisations may share a projector."""
        files = frozenset(file.target for file in plan.files)
        while others := [name for name, writes in self._writing.items() if not writes.isdisjoint(files)]:
            await self._pulls[others[0]].over.wait()
        self._writing[one.id] = files

    async def _serve(self, one: Pull, plan: Plan) -> None:
        try:
            name, _ = await asyncio.to_thread(enlist, plan, self._settings, one.wanted.name)
            # Not left to the watcher: it may be off, and whoever waits for the end wants to use the model then.
            await self._reload()
        except NameTaken:
            raise
        except ConfigError as error:
            raise InvalidRequest(f"The model has come, but it can't be served: {error.message}") from error
        one.model = name

    def _advance(self, one: Pull, came: int, total: int | None) -> None:
        now = self._clock()
        one.advance(came, total, now)
        if now - one.said >= SAY_EVERY and self._feed.heard():
            one.said = now
            self._publish(one)

    def _hold(self, one: Pull, note: str) -> None:
        one.note = note
        self._publish(one)

    def _move(self, one: Pull, state: PullState) -> None:
        one.state, one.note = state, None
        self._publish(one)

    def _end(self, one: Pull, task: asyncio.Task[None]) -> None:
        state = PullState.CANCELLED
        if not task.cancelled():
            error = task.exception()
            state = PullState.FAILED if error else PullState.DONE
            one.failure = _told(one, error)
        one.ended = time.time()
        del self._tasks[one.id]
        self._writing.pop(one.id, None)
        self._listing.discard(one.id)
        self._pulls[one.id] = self._pulls.pop(one.id)  # behind those that ended before
        logger.info("pull=%s source=%s event=%s bytes=%d", one.id, shown(one.source), state.value, one.came)
        self._move(one, state)
        one.over.set()
        ended = [name for name, known in self._pulls.items() if known.state in ENDED]
        for name in ended[:-KEPT]:
            del self._pulls[name]

    def _publish(self, one: Pull) -> None:
        self._feed.publish("pull", one.as_dict())


def _told(one: Pull, error: BaseException | None) -> HerdError | None:
    """The failure as others may see it."""
    if error is None or isinstance(error, HerdError):
        return error
    logger.error("pull=%s failed", one.id, exc_info=error)
    return HerdError("The service made a mistake; its log has more.")
