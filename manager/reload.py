"""Reloader: reads models, certificate and keys again while the service runs. When to, is for others to say."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from manager.auth import KeyStore
from manager.catalog import Catalog, load_catalog
from manager.engines.llama.slots import forget_others
from manager.errors import ConfigError, HerdError, ShuttingDown
from manager.memory_devices import refuse_two_names
from manager.settings import Settings
from manager.tls import ServerTls

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


class NotTaken(HerdError):
    """A file was changed as somebody wished, but what is read with it has a mistake: what was in force stays so."""

    status = 409
    code = "reload_refused"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the files, as they were read last, do not count, and when that was; both None where they do.

    `at` is in seconds since the epoch.
    """

    error: str | None = None
    at: float | None = None


class Publishes(Protocol):
    def publish(self, kind: str, data: dict[str, Any], /) -> object: ...


class Models(Protocol):
    """What is told of a new catalog; ModelPool is one."""

    @property
    def catalog(self) -> Catalog: ...

    @property
    def feed(self) -> Publishes: ...

    def replace_catalog(self, catalog: Catalog, /) -> Collection[asyncio.Task[None]]: ...


class Reloader:
    """One reading at a time. `keys_read` is called after each in which the keys may have changed."""

    def __init__(
        self,
        settings: Settings,
        keys: KeyStore,
        models: Models,
        keys_read: Callable[[], None],
        certificate: ServerTls | None = None,
    ) -> None:
        self._settings = settings
        self._keys = keys
        self._models = models
        self._keys_read = keys_read
        self._certificate = certificate
        self._turn = asyncio.Lock()
        self._alone = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._next: asyncio.Task[None] | None = None  # has not begun to read: whoever comes shares it
        self._refusal = Refusal()  # of the last reading
        self._closed = False

    @property
    def refusal(self) -> Refusal:
        """Of the last reading."""
        return self._refusal

    async def reload(self) -> None:
        """Read again; what does not validate is refused whole, and the old stays.

        Returns when a reading that began after the call has counted. A caller that is cancelled ends none.
        Raises ConfigError with file and place of every mistake, ShuttingDown after `close`.
        """
        if self._closed:
            raise _shutting_down()
        if self._next is None:
            self._next = self._start(self._in_turn())
        task = self._next
        await asyncio.wait({task})
        if task.cancelled():
            raise _shutting_down()
        task.result()

    async def reload_after(self, change: Callable[[], Result]) -> Result:
        """Have `change` done to the files, as by `alone`, and read them again; what it gave.

        A caller that is cancelled ends neither once the change has begun. Raises what `change` raises, NotTaken where
        the reading then is refused, and ShuttingDown.
        """
        begun = await self._begin_alone(change)
        return await _result(self._start(self._after(begun)))

    async def alone(self, work: Callable[[], Result]) -> Result:
        """Have `work`, which looks at the files, done in a thread while no other such work is.

        So that any number of callers, of whom some may have gone, keep no more than one thread busy. A caller that is
        cancelled while it waits has nothing done. Raises what `work` raises, and ShuttingDown.
        """
        return await _result(await self._begin_alone(work))

    async def _begin_alone(self, work: Callable[[], Result]) -> asyncio.Task[Result]:
        await self._alone.acquire()
        if self._closed:
            self._alone.release()
            raise _shutting_down()
        task = self._start(asyncio.to_thread(work))
        task.add_done_callback(lambda _: self._alone.release())
        return task

    async def _after(self, change: asyncio.Task[Result]) -> Result:
        result = await change
        try:
            await self.reload()
        except ConfigError as error:
            raise NotTaken(f"It is written, but the reload was refused: {error.message}") from error
        return result

    async def try_reload(self) -> None:
        """As `reload`, for those who have nobody to tell: what goes wrong is in the log and in the feed."""
        try:
            await self.reload()
        except HerdError:
            pass  # said where it was found
        except Exception:
            logger.exception("the reload failed, what was there stays")

    async def close(self) -> None:
        """Refuse what comes, and give up a reading that goes on: nothing changes any more."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _in_turn(self) -> None:
        async with self._turn:
            self._next = None
            try:
                catalog, keys_changed = await asyncio.to_thread(self._read)
            except ConfigError as error:
                self._refuse(error.message)
                raise
            await self._take(catalog, keys_changed)

    def _read(self) -> tuple[Catalog, bool]:
        # The models first: where they are refused, certificate and keys are left as they were too.
        catalog = load_catalog(self._settings, self._models.catalog.warnings)
        refuse_two_names(self._settings, catalog)
        if self._certificate is not None:
            self._certificate.reload()
        return catalog, self._keys.reload_if_changed()

    async def _take(self, catalog: Catalog, keys_changed: bool) -> None:
        self._keys_read()
        changed = not _same(catalog, self._models.catalog)
        # After a refusal it is said in any case: whoever heard of that waits to hear that all is well again.
        said = changed or keys_changed or self._refusal.error is not None
        if changed:
            removals = self._models.replace_catalog(catalog)
            await self._forget_slots()
            if removals:  # a model that still runs saves its slots when it stops
                self._start(self._forget_slots_after(removals))
        if said:
            self._refusal = Refusal()
            logger.info("reloaded models=%d keys=%d", len(catalog), len(self._keys))
            self._models.feed.publish("reloaded", {"models": len(catalog)})

    async def _forget_slots(self) -> None:
        names = self._models.catalog.names
        await asyncio.to_thread(forget_others, self._settings.storage.slots_folder, names)

    async def _forget_slots_after(self, removals: Collection[asyncio.Task[None]]) -> None:
        await asyncio.wait(removals)
        await self._forget_slots()

    def _start(self, work: Coroutine[Any, Any, Result]) -> asyncio.Task[Result]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _refuse(self, message: str) -> None:
        if message != self._refusal.error:
            logger.error("reload refused, what was there stays: %s", message)
        self._refusal = refusal = Refusal(message, time.time())
        self._models.feed.publish("reload_failed", {"message": message, "at": refusal.at})

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # looked at, or asyncio would complain where every caller has gone


async def _result(task: asyncio.Task[Result]) -> Result:
    """What the task gives; who waits for it and is cancelled does not end it."""
    await asyncio.wait({task})
    if task.cancelled():
        raise _shutting_down()
    return task.result()


def _same(one: Catalog, other: Catalog) -> bool:
    return one.default == other.default and tuple(one) == tuple(other)


def _shutting_down() -> ShuttingDown:
    return ShuttingDown("The service is shutting down.", retry_after=5)
