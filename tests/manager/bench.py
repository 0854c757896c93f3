"""What tests of lives lean on: an engine with knobs, a bench around one instance, and signs that a process ended."""

from __future__ import annotations

import asyncio
import os
import select
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import psutil

from manager.catalog import Catalog
from manager.engines import Activity, Engine, EngineExit, UpstreamRequest, UpstreamResponse
from manager.entry import LlamaParams, ModelEntry
from manager.instance import ModelInstance
from manager.lease import Lease
from manager.life import Life, Timing
from manager.logbuf import LogBuffer
from manager.memory_ledger import Admitted, Expected, Room
from manager.metrics import Metrics
from manager.placement import Placement
from manager.pool import ModelPool
from manager.settings import Settings
from manager.state import ModelState, ModelStatus

T = TypeVar("T")

DEADLINE = 10.0  # seconds after which a test that waits has failed


def make_entry(path: Path, name: str = "m", **more: Any) -> ModelEntry:
    return ModelEntry(name=name, path=path, params=LlamaParams(model=str(path)), **more)


async def turn() -> None:
    """Let every task run up to where it waits for something from outside."""
    for _ in range(10):
        await asyncio.sleep(0)


async def soon(work: Awaitable[T]) -> T:
    """What the work gives; TimeoutError where that takes longer than any test may."""
    async with asyncio.timeout(DEADLINE):
        return await work


async def until(condition: Callable[[], object]) -> None:
    """Wait for what only can be looked at: a file of another process, or what a loop has read so far."""
    async with asyncio.timeout(DEADLINE):
        while not condition():  # noqa: ASYNC110 - there is nobody who could set an event
            await asyncio.sleep(0.001)


class Clock:
    """Seconds, which a test alone moves."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class FakeEngine:
    """An engine of nothing; its gates hold a start or a stop until they are set."""

    def __init__(
        self,
        number: int,
        *,
        error: Exception | None = None,
        stop_error: Exception | None = None,
        hold_start: bool = False,
        hold_stop: bool = False,
        memory: Mapping[str, int] | None = None,
        measure_error: Exception | None = None,
        hold_measure: bool = False,
        in_process: bool = False,
    ) -> None:
        self.progress: float | None = None
        self.forced = False
        self.memory = dict(memory or {})
        self.log = LogBuffer()
        self.log.feed(b"line of engine %d\n" % number)
        self.pid: int | None = None
        self.may_start = asyncio.Event()
        self.may_stop = asyncio.Event()
        self.starts = self.stops = 0
        self.start_cancelled = self.stopped = False
        self._number = number
        self._error = error
        self._measure_error = measure_error
        self._hold_measure = hold_measure
        self.measures = 0
        self._in_process = in_process
        self._stop_error = stop_error
        self._exit: asyncio.Future[EngineExit] = asyncio.get_running_loop().create_future()
        if not hold_stop:
            self.may_stop.set()
        if not hold_start:
            self.may_start.set()

    async def start(self) -> None:
        self.starts += 1
        try:
            await self.may_start.wait()
        except asyncio.CancelledError:
            self.start_cancelled = True
            raise
        if self._error is not None:
            raise self._error
        self.pid = None if self._in_process else self._number

    async def wait_exit(self) -> EngineExit:
        return await asyncio.shield(self._exit)

    async def stop(self, *, force: bool = False) -> None:
        self.stops += 1
        self.forced = self.forced or force
        await self.may_stop.wait()
        self.stopped = True
        if self._stop_error is not None:
            raise self._stop_error

    async def answers(self) -> bool:
        return True

    async def activity(self) -> Activity:
        return Activity(time.monotonic(), 0.0)

    async def measure(self) -> Mapping[str, int]:
        self.measures += 1
        if self._hold_measure:
            await asyncio.Event().wait()
        if self._measure_error is not None:
            raise self._measure_error
        return self.memory

    async def metrics(self) -> bytes | None:
        return None

    def open(self, request: UpstreamRequest) -> AbstractAsyncContextManager[UpstreamResponse]:
        raise NotImplementedError

    def exit(self, reason: str = "it fell over", code: int | None = 7) -> None:
        self._exit.set_result(EngineExit(reason, code))


class Bench:
    """An instance, and everything that it published. It is begun as soon as somebody waits for it."""

    def __init__(self, entry: ModelEntry, make_engine: Callable[[ModelEntry], Engine], timing: Timing) -> None:
        self.statuses: list[ModelStatus] = []
        self._published = asyncio.Event()
        self.lives: list[Life] = []
        self.instance = ModelInstance(entry, make_engine, self, timing)

    # manager.instance.Keeper

    def publish(self, status: ModelStatus) -> None:
        self.statuses.append(status)
        self._published.set()

    def ready(self, instance: ModelInstance) -> None:
        pass

    def admit(self, instance: ModelInstance) -> None:
        instance.begin()

    def idle(self, instance: ModelInstance) -> None:
        pass

    def ended(self, life: Life) -> None:
        self.lives.append(life)

    @property
    def states(self) -> list[ModelState]:
        """The states in order; what was published without a move is left out."""
        states: list[ModelState] = []
        for status in self.statuses:
            if not states or states[-1] is not status.state:
                states.append(status.state)
        return states

    async def reaches(self, state: ModelState) -> ModelStatus:
        async with asyncio.timeout(DEADLINE):
            while self.instance.state is not state:
                self._published.clear()
                await self._published.wait()
        return self.instance.status()

    async def published(self, count: int) -> None:
        async with asyncio.timeout(DEADLINE):
            while len(self.statuses) < count:
                self._published.clear()
                await self._published.wait()


class FakeBench(Bench):
    """A bench over fake engines. `plans` holds the knobs of the coming ones, `engines` those that were made."""

    def __init__(self, timing: Timing) -> None:
        self.engines: list[FakeEngine] = []
        self.plans: list[dict[str, Any]] = []
        super().__init__(make_entry(Path("/nowhere.gguf")), self._make, timing)

    def _make(self, entry: ModelEntry) -> FakeEngine:
        plan = self.plans.pop(0) if self.plans else {}
        engine = FakeEngine(len(self.engines) + 1, **plan)
        self.engines.append(engine)
        return engine

    async def close(self) -> None:
        for engine in self.engines:
            engine.may_stop.set()
        await soon(self.instance.close())


ENTRIES = tuple(make_entry(Path(f"/{name}.gguf"), name, aliases=(f"{name}-alias",)) for name in ("a", "b", "c"))


class FakeLedger:
    """Says what a test says: `sizes` by model, and `there` is for all of them; both in bytes of the host."""

    def __init__(self, sizes: Mapping[str, int] | None = None, there: int | None = None) -> None:
        self.sizes = dict(sizes or {})
        self.there = there
        self.most: int | None = None
        self.held: dict[str, Mapping[str, int]] = {}
        self.lasting: dict[str, Mapping[str, int]] = {}
        self.running: Mapping[str, Admitted] = {}  # at the last look
        self.learnt: list[tuple[str, Mapping[str, int], bool]] = []
        self.error: Exception | None = None

    async def expected(self, entry: ModelEntry) -> Expected:
        if self.error is not None:
            raise self.error
        needed = {"host": self.sizes[entry.name]} if entry.name in self.sizes else {}
        return Expected(None, {}, needed, self.lasting.get(entry.name, {}))

    async def placements(self, entry: ModelEntry) -> tuple[Placement, ...]:
        return (Placement(entry, await self.expected(entry)),)

    async def room(self, running: Mapping[str, Admitted], *, recent: bool = False) -> Room:
        self.running = running
        there = {} if self.there is None else {"host": self.there}
        return Room(there, there if self.most is None else {"host": self.most}, self.held)

    async def total(self) -> Mapping[str, int]:
        return (await self.room({})).most

    def learn(self, entry: ModelEntry, peak: Mapping[str, int], *, served: bool) -> None:
        self.learnt.append((entry.name, dict(peak), served))

    async def flush(self) -> None:
        pass


class PoolBench:
    """A pool over fake engines; `plans` holds the knobs of a model's next engine, `started` the order of starts."""

    def __init__(
        self,
        settings: Settings,
        catalog: Catalog | None = None,
        ledger: FakeLedger | None = None,
        make_engine: Callable[[ModelEntry], Engine] | None = None,
    ) -> None:
        self.engines: dict[str, list[FakeEngine]] = {}
        self.plans: dict[str, dict[str, Any]] = {}
        self.started: list[str] = []
        self.ledger = ledger or FakeLedger()
        make = make_engine or self._make
        self.pool = ModelPool(catalog or Catalog(ENTRIES), settings, make, self.ledger, Metrics())

    def _make(self, entry: ModelEntry) -> FakeEngine:
        made = self.engines.setdefault(entry.name, [])
        self.started.append(entry.name)
        made.append(FakeEngine(len(self.started), **self.plans.pop(entry.name, {})))
        return made[-1]

    def entry(self, name: str) -> ModelEntry:
        return self.pool.find(name)[0]

    def ask(self, name: str, priority: int = 0) -> asyncio.Task[Lease]:
        return asyncio.create_task(self.pool.lease(self.entry(name), priority))

    async def use(self, name: str) -> None:
        """One short request."""
        (await soon(self.pool.lease(self.entry(name)))).release()

    async def reaches(self, name: str, state: ModelState) -> None:
        with self.pool.bus.subscribe() as feed:
            async with asyncio.timeout(DEADLINE):
                while self.pool.state(name) is not state:
                    await feed.next()


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def is_running(pid: int) -> bool:
    """Whether a process works still; one that waits to be reaped by somebody else does not."""
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


class Watched:
    """A process held by a descriptor, so that its end is seen whoever reaps it and whoever gets its number next."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def ends(self, within: float = DEADLINE) -> bool:
        """Whether it has ended, or does within that many seconds."""
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        return bool(poll.poll(within * 1000))


@contextmanager
def watched(pid: int) -> Iterator[Watched]:
    descriptor = os.pidfd_open(pid)
    try:
        yield Watched(descriptor)
    finally:
        os.close(descriptor)
