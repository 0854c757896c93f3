"""ModelPool: every instance, which is active, and the way to a lease. What may be evicted is not decided here."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import asdict, dataclass
from typing import Any, Final

from manager.catalog import Catalog
from manager.engines import Engine
from manager.entry import ModelEntry
from manager.errors import HerdError, ShuttingDown
from manager.events import EventBus
from manager.instance import ModelInstance, Timing
from manager.lease import Lease
from manager.settings import Settings
from manager.state import LEAVING, LOADED, ModelState, ModelStatus

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


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """The whole service in one word (idle, loading, ready, unloading, error), a sentence, and the loaded models."""

    status: str
    info: str
    models: tuple[str, ...]


class ModelPool:
    """Owns one instance per model that was ever asked for. `bus` carries a ServiceStatus for every change."""

    def __init__(self, catalog: Catalog, settings: Settings, make_engine: Callable[[ModelEntry], Engine]) -> None:
        self.bus: EventBus[ServiceStatus] = EventBus()
        self.errors: deque[ErrorRecord] = deque(maxlen=ERRORS_KEPT)
        self._catalog = catalog
        self._settings = settings
        self._make_engine = make_engine
        self._timing = Timing(
            load=settings.limits.load_timeout, drain=settings.server.drain_timeout, idle=settings.limits.idle_ttl
        )
        self._instances: dict[str, ModelInstance] = {}
        self._active: list[str] = []  # the last one that is still wanted is the active model
        self._tasks: set[asyncio.Task[None]] = set()
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

    def service_status(self) -> ServiceStatus:
        """The present state: what is under way counts before what has settled, and of that the newest."""
        statuses = sorted(self.statuses(), key=lambda status: status.since, reverse=True)
        for states in ({ModelState.STARTING}, LEAVING, {ModelState.FAILED, ModelState.READY}):
            for status in statuses:
                if status.state in states:
                    return self._describe(status)
        return ServiceStatus("idle", "No model is loaded.", self.loaded)

    # what is asked for

    def find(self, name: str) -> tuple[ModelEntry, str | None]:
        """The entry of a name, an alias or `model:personality`. Raises ModelNotFound."""
        return self._catalog.find(name)

    def try_lease(self, entry: ModelEntry) -> Lease | None:
        """A lease without waiting, where the model is READY."""
        instance = self._instances.get(entry.name)
        return instance.try_lease() if instance and not self._closing else None

    async def lease(self, entry: ModelEntry) -> Lease:
        """A lease, after loading where that is needed. Raises as ModelInstance.lease."""
        return await self._instance(entry).lease(self._settings.limits.wait_timeout)

    async def load(self, name: str, personality: str | None) -> ModelEntry:
        """Load a model, which becomes the active one; returns when it is ready.

        A caller who leaves changes nothing: when the model is ready, it is active under that personality.
        Raises ModelNotFound for the model or its personality, else as ModelInstance.lease.
        """
        entry, named = self._catalog.find(name)
        personality = personality or named
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
        name = self._catalog.find(name)[0].name if name is not None else self.active or self._newest_ready()
        if name is None:
            return None
        # Before the stop: while it drains it must not be what the next request without a name gets.
        self._deactivate(name)
        if name in self._instances:
            await self._instances[name].unload()
        return name

    def preload(self) -> None:
        """Begin to load what the catalog wants loaded at start. What fails is recorded, as any failed load is."""
        for entry in self._catalog:
            if entry.preload:
                self._own(self._preload(entry), f"preload {entry.name}")

    async def _preload(self, entry: ModelEntry) -> None:
        try:
            (await self.lease(entry)).release()
        except HerdError as error:
            logger.error("model=%s preload failed: %s", entry.name, error.message)

    def replace_catalog(self, catalog: Catalog) -> None:
        """Take a new catalog: changed entries count from their next load, removed ones drain and stop."""
        self._catalog = catalog
        for name, instance in self._instances.items():
            entry = catalog.get(name)
            if entry is not None and entry.name == name:  # not where it is another model's alias now
                instance.entry = entry
                self._drop_lost_personality(instance)
            else:
                self._deactivate(name)
                self._own(instance.unload(), f"unload removed {name}")

    def record_error(self, model: str, error: HerdError, log: tuple[str, ...] = ()) -> None:
        """Remember a failure for `GET /chat/errors`."""
        self.errors.append(ErrorRecord(time.time(), model, error.code, error.message, log))

    async def close(self) -> None:
        """Stop every instance at once and end the feed. Draining is the caller's, before."""
        self._closing = True
        self.bus.close()
        await asyncio.gather(*(instance.close() for instance in self._instances.values()))
        # Each of them ends with its instance. Cancelled, a load would end its caller too, who is to be told why.
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _instance(self, entry: ModelEntry) -> ModelInstance:
        if self._closing:
            raise ShuttingDown("The service is shutting down.", retry_after=5)
        instance = self._instances.get(entry.name)
        if instance is None:
            instance = ModelInstance(entry, self._make_engine, self._publish, self._timing)
            self._instances[entry.name] = instance
        return instance

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
        self._deactivate(name)
        self._active.append(name)

    def _deactivate(self, name: str) -> None:
        if name in self._active:
            self._active.remove(name)

    def _publish(self, status: ModelStatus) -> None:
        if status.state is ModelState.FAILED:
            self.errors.append(
                ErrorRecord(time.time(), status.model, status.error_code or "", status.error or "", status.log_tail)
            )
        self.bus.publish(self._describe(status))

    def _describe(self, status: ModelStatus) -> ServiceStatus:
        model, loaded = status.model, self.loaded
        match status.state:
            case ModelState.STARTING:
                seconds = int(time.time() - status.since)
                return ServiceStatus("loading", f"Loading {model}: {seconds} s so far.", loaded)
            case ModelState.READY:
                return ServiceStatus("ready", f"{model} is ready.", loaded)
            case ModelState.DRAINING | ModelState.STOPPING:
                return ServiceStatus("unloading", f"Unloading {model}.", loaded)
            case ModelState.FAILED:
                return ServiceStatus("error", status.error or f"{model} failed.", loaded)
            case ModelState.STOPPED:
                return ServiceStatus("ready" if loaded else "idle", f"{model} is unloaded.", loaded)

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
