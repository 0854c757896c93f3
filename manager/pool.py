"""ModelPool: every instance, which is active, and the way to a lease. What may run is for the scheduler to decide."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any, Final

from manager.catalog import Catalog, Found
from manager.engines import Engine
from manager.engines.kinds import kind_of
from manager.entry import ModelEntry
from manager.errors import HerdError, ModelNotFound, ShuttingDown
from manager.events import EventBus
from manager.feed import Feed, status_dict
from manager.instance import ModelInstance
from manager.lease import Lease
from manager.life import Life, Timing
from manager.logbuf import LogBuffer
from manager.memory_figures import Room
from manager.metrics import Metrics
from manager.placement import Placement
from manager.scheduler import Ledger, Outlook, Scheduler
from manager.settings import Settings
from manager.state import LOADED, SETTLED, ModelState, ModelStatus
from manager.summary import ServiceStatus, describe, summary

logger = logging.getLogger(__name__)

ERRORS_KEPT: Final = 200


@dataclass(frozen=True, slots=True)
class ErrorRecord:
    """One recorded failure of a model; `time` is seconds since the epoch."""

    time: float
    model: str
    code: str
    message: str
    log: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


# Of an entry all but these is what its process was started with; these count at once.
_SEEN_AT_ONCE: Final = (
    *("aliases", "concurrency", "description", "personalities", "pinned", "preload", "profiles", "queue", "request"),
    *("source", "ttl", "unavailable"),
)
CALM: Final = SETTLED | {ModelState.READY}


def _runs_alike(one: ModelEntry, other: ModelEntry) -> bool:
    """Whether both mean the same process."""
    names = (field.name for field in fields(ModelEntry) if field.name not in (*_SEEN_AT_ONCE, "params"))
    return all(getattr(one, name) == getattr(other, name) for name in names) and _shape(one) == _shape(other)


def _shape(entry: ModelEntry) -> dict[str, Any]:
    """Its params, but for the paths there as they are written: `path` and `mmproj` of the entry are what they mean."""
    if entry.engine == "llama":
        return entry.params.model_dump(exclude={"model", "mmproj"})
    return entry.params.model_dump(exclude=None if kind_of(entry).files is None else {"model"})


class ModelPool:
    """Owns one instance per model that was ever asked for, and is their keeper.

    `bus` carries a ServiceStatus for every change, `feed` everything that happens.
    """

    def __init__(
        self,
        catalog: Catalog,
        settings: Settings,
        make_engine: Callable[[ModelEntry], Engine],
        ledger: Ledger,
        metrics: Metrics,
    ) -> None:
        self.bus: EventBus[ServiceStatus] = EventBus()
        self.feed = Feed()
        self.ledger = ledger
        self.errors: deque[ErrorRecord] = deque(maxlen=ERRORS_KEPT)
        self.engine_lines_to: Callable[[str, list[str]], None] | None = None  # the model's name, and what was written
        self._catalog = catalog
        self._settings = settings
        self._make_engine = make_engine
        self._metrics = metrics
        self._timing = Timing(
            load=settings.limits.load_timeout,
            drain=settings.server.drain_timeout,
            idle=settings.limits.idle_ttl,
            hang=settings.limits.hang_timeout,
            queue=settings.limits.queue,
        )
        self._instances: dict[str, ModelInstance] = {}
        self._scheduler = Scheduler(self._instances, settings, self.ledger, self._note_eviction)
        self._active: list[str] = []  # the last one that is still wanted is the active model
        self._tasks: set[asyncio.Task[None]] = set()
        self._revivals: dict[str, asyncio.TimerHandle] = {}
        self._started = time.time()
        self._closing = False

    # what there is

    @property
    def catalog(self) -> Catalog:
        return self._catalog

    @property
    def active(self) -> str | None:
        """The model that somebody loaded last with `load` and nobody has unloaded since, loaded now or not."""
        return self._active[-1] if self._active else None

    @property
    def default(self) -> str | None:
        """The model of a request that names none: the active one, else the configured one, else the first."""
        return self.active or self._catalog.default

    @property
    def loaded(self) -> tuple[str, ...]:
        return tuple(name for name, instance in self._instances.items() if instance.state in LOADED)

    def state(self, name: str) -> ModelState:
        instance = self._instances.get(name)
        return instance.state if instance else ModelState.STOPPED

    def statuses(self) -> Iterable[ModelStatus]:
        """Of every instance that was ever begun."""
        return [instance.status() for instance in self._instances.values()]

    def status(self, name: str) -> ModelStatus:
        """Of one model, by its name; STOPPED where it was never begun."""
        instance = self._instances.get(name)
        return instance.status() if instance else ModelStatus(name, ModelState.STOPPED, self._started)

    def engines(self) -> dict[str, Engine]:
        """Of the models that are loaded."""
        lives = {name: instance.life for name, instance in self._instances.items() if instance.state in LOADED}
        return {name: life.engine for name, life in lives.items() if life is not None}

    def log(self, name: str) -> LogBuffer | None:
        """What the engine of this model wrote in the life that runs, or ran last."""
        instance = self._instances.get(name)
        return instance.log if instance else None

    def quiet_since(self) -> float | None:
        """When the last request ended or the last model moved, in seconds since the epoch; None while one is in use."""
        statuses = self.statuses()
        if any(status.in_flight or status.waiting or status.state not in CALM for status in statuses):
            return None
        return max([self._started, *(max(status.since, status.idle_since or 0.0) for status in statuses)])

    async def room(self) -> Mapping[str, int]:
        """What all models may hold together: bytes by device, and places where their number is limited."""
        return await self._scheduler.room()

    async def look_around(self) -> Room:
        """The same with the devices, for who only shows it, as of Gpus.free. Without admission these are left out."""
        return await self._scheduler.look_around(recent=True)

    async def outlook(self, name: str) -> Outlook:
        """Where a model would be, were it loaded now, and who would go for it. Raises ModelNotFound."""
        entry = self._catalog.find(name).entry
        instance = self._instances.get(entry.name)
        life = instance.life if instance and instance.state in {ModelState.STARTING, *LOADED} else None
        if life is None:
            return await self._scheduler.outlook(entry)
        return Outlook(Placement(life.placed, await self.ledger.expected(life.placed), life.device), ())

    def service_status(self) -> ServiceStatus:
        """The present state of the whole service."""
        return summary(self.statuses())

    # what is asked for

    def find(self, name: str) -> Found:
        """What a name, an alias, `model:personality` or `model:profile` means. Raises ModelNotFound."""
        return self._catalog.find(name)

    def try_lease(self, entry: ModelEntry) -> Lease | None:
        """A lease without waiting, where the model is READY."""
        instance = self._instances.get(entry.name)
        return instance.try_lease() if instance and not self._closing else None

    async def lease(self, entry: ModelEntry, priority: int = 0) -> Lease:
        """A lease, after loading where that is needed. Raises as ModelInstance.lease."""
        return await self._instance(entry).lease(self._settings.limits.wait_timeout, priority)

    async def load(self, name: str, personality: str | None) -> ModelEntry:
        """Load a model, which becomes the active one; returns when it is ready.

        A caller who leaves changes nothing: when the model is ready, it is active under that personality.
        Raises ModelNotFound for the model or its personality, else as ModelInstance.lease.
        """
        found = self._catalog.find(name)
        entry, personality = found.entry, personality or found.personality
        if personality is not None:
            entry.personality(personality)
        await asyncio.shield(self._own(self._load(entry, personality), f"load {entry.name}"))
        return entry

    async def _load(self, entry: ModelEntry, personality: str | None) -> None:
        instance = self._instance(entry)
        await instance.load(self._settings.limits.wait_timeout, personality)
        self._activate(entry.name)
        self._drop_lost_personality(instance)  # the catalog may have changed since it was asked for

    async def unload(self, name: str | None) -> str | None:
        """Drain and stop a model; returns its name, None where there was none.

        By default the active one, and where none is, the one of those that requests have loaded that was ready last.
        """
        name = self._catalog.find(name).entry.name if name is not None else self.active or self._newest_ready()
        if name is None:
            return None
        # Before the stop: while it drains it must not be what the next request without a name gets.
        self._deactivate(name)
        self._forget_revival(name)
        if name in self._instances:
            await self._instances[name].unload()
        return name

    def preload(self) -> None:
        """Begin to load what the catalog wants loaded at start. What fails is recorded, as any failed load is."""
        for entry in self._catalog:
            if entry.preload:
                self._own(self.warm(entry, evicts=False), f"preload {entry.name}")

    async def warm(self, entry: ModelEntry, *, evicts: bool) -> None:
        """Load it without anybody's request; with `evicts` others may go for it. What fails is logged."""
        try:
            lease = await self._instance(entry).lease(self._settings.limits.wait_timeout, evicts=evicts)
            lease.release()
        except HerdError as error:
            logger.error("model=%s not loaded beforehand: %s", entry.name, error.message)

    def replace_catalog(self, catalog: Catalog) -> list[asyncio.Task[None]]:
        """Take a new catalog. What runs with a changed entry ends when it is idle, removed models drain and stop.

        Returns what is done for those that were removed.
        """
        self._catalog = catalog
        removals = []
        for name, instance in self._instances.items():
            entry = catalog.get(name)
            if entry is not None and entry.name == name:  # not where it is another model's alias now
                before = instance.life.entry if instance.life else instance.entry
                instance.renew(entry, restart=not _runs_alike(before, entry))
                self._drop_lost_personality(instance)
            else:
                self._deactivate(name)
                instance.retire(ModelNotFound(f"The model '{name}' was removed.", param="model"))
                removals.append(self._own(self._remove(instance), f"unload removed {name}"))
        self.feed.publish("catalog", {"models": list(catalog.names), "default": self.default})
        return removals

    async def _remove(self, instance: ModelInstance) -> None:
        name = instance.entry.name
        await instance.unload()
        entry = self._catalog.get(name)
        gone = (entry is None or entry.name != name) and instance.life is None
        if gone and not self._closing and self._instances.pop(name, None) is not None:
            self.feed.publish("removed", {"model": name})

    def record_error(self, model: str, error: HerdError, log: tuple[str, ...] = ()) -> None:
        """Remember a failure for `GET /chat/errors`."""
        self.errors.append(ErrorRecord(time.time(), model, error.code, error.message, log))
        self.feed.publish("error", self.errors[-1].as_dict())

    def end_feeds(self) -> None:
        """Who listens hears the end."""
        self.bus.close()
        self.feed.close()

    async def close(self) -> None:
        """Stop every instance at once and end the feed. Draining is the caller's, before."""
        self._closing = True
        for name in [*self._revivals]:
            self._forget_revival(name)
        self.end_feeds()
        await self._scheduler.close()
        await asyncio.gather(*(instance.close() for instance in self._instances.values()))
        # Each of them ends with its instance. Cancelled, a load would end its caller too, who is to be told why.
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.ledger.flush()

    def _instance(self, entry: ModelEntry) -> ModelInstance:
        if self._closing:
            raise ShuttingDown("The service is shutting down.", retry_after=5)
        if entry.name not in self._catalog:  # removed since the request was read
            raise ModelNotFound(f"The model '{entry.name}' was removed.", param="model")
        instance = self._instances.get(entry.name)
        if instance is None:
            instance = ModelInstance(entry, self._engine_for, self, self._timing)
            self._instances[entry.name] = instance
        return instance

    def _engine_for(self, entry: ModelEntry) -> Engine:
        engine = self._make_engine(entry)
        if self.engine_lines_to is not None:
            engine.log.tee(partial(self.engine_lines_to, entry.name))
        return engine

    def _newest_ready(self) -> str | None:
        ready = [status for status in self.statuses() if status.state is ModelState.READY]
        return max(ready, key=lambda status: status.since).model if ready else None

    def _drop_lost_personality(self, instance: ModelInstance) -> None:
        """Forget the personality of the load where its entry has it no more: it would fail every request."""
        lost = instance.personality
        if lost is not None and lost not in instance.entry.personalities:
            logger.warning("model=%s its personality %s is no more and is dropped", instance.entry.name, ascii(lost))
            instance.personality = None

    def _activate(self, name: str) -> None:
        if name in self._active:
            self._active.remove(name)
        self._active.append(name)
        self.feed.publish("active", {"active": self.active, "default": self.default})

    def _deactivate(self, name: str) -> None:
        if name in self._active:
            self._active.remove(name)
            self.feed.publish("active", {"active": self.active, "default": self.default})

    # what instances tell (manager.instance.Keeper)

    def publish(self, status: ModelStatus) -> None:
        if status.state is ModelState.FAILED:
            self.errors.append(
                ErrorRecord(time.time(), status.model, status.error_code or "", status.error or "", status.log_tail)
            )
            self._metrics.failed(status.model, status.error_code or "")
            self.feed.publish("error", self.errors[-1].as_dict())
            self._revive_later(status)
        self.bus.publish(describe(status, self.loaded))
        self.feed.publish("model", status_dict(status))
        self._scheduler.changed()

    def ready(self, instance: ModelInstance) -> None:
        status = instance.status()
        self._metrics.loaded(status.model, status.load_seconds or 0.0)
        if status.failures:
            self._metrics.restarted(status.model)

    def admit(self, instance: ModelInstance) -> None:
        self._scheduler.want()

    def idle(self, instance: ModelInstance) -> None:
        self._scheduler.changed()

    def ended(self, life: Life) -> None:
        self._scheduler.stopped(life)
        if life.measured:
            self.ledger.learn(life.placed, life.measured, served=bool(life.uses))
            self._own(self.ledger.flush(), "write what was learnt")

    def _revive_later(self, status: ModelStatus) -> None:
        """A pinned model that broke is started again when its back-off is over, unless somebody unloads it."""
        self._forget_revival(status.model)
        entry = self._catalog.get(status.model)
        if entry is not None and entry.pinned and status.retry_at is not None and not self._closing:
            delay = max(0.0, status.retry_at - time.time())
            self._revivals[status.model] = asyncio.get_running_loop().call_later(delay, self._revive, status.model)

    def _revive(self, name: str) -> None:
        self._revivals.pop(name, None)
        entry = self._catalog.get(name)
        if entry is not None and entry.name == name and entry.pinned and self.state(name) in SETTLED:
            self._own(self.warm(entry, evicts=True), f"revive {name}")

    def _forget_revival(self, name: str) -> None:
        revival = self._revivals.pop(name, None)
        if revival is not None:
            revival.cancel()

    def _note_eviction(self, victim: str, wanted: str) -> None:
        self._metrics.evicted(victim)
        self.feed.publish("evicted", {"model": victim, "for": wanted})

    def _own(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._disown)
        return task

    def _disown(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        # A load that failed is recorded by its instance; whoever still waits for the task gets the error too.
        if error is not None and not isinstance(error, HerdError):
            logger.error("task=%r broke", task.get_name(), exc_info=error)
