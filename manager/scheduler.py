"""Scheduler: admits models that are wanted, in the order of their turn, and evicts others for them.

What is to be done is decided in `plan`, who goes first in `policy`; here is what happens over time.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final, Protocol

from manager.entry import ModelEntry
from manager.errors import InsufficientMemory, LoadFailed
from manager.instance import ModelInstance
from manager.memory_ledger import Expected
from manager.plan import Phase, Plan, Refusal, Running, Wanted, make_plan
from manager.policy import Policy, Usage, make_policy
from manager.settings import SchedulingSettings, Settings
from manager.state import SETTLED, ModelState

logger = logging.getLogger(__name__)

# A GPU's memory can come back some time after the process that had it has gone.
SETTLE: Final = 5.0
SETTLE_STEP: Final = 0.05
# What a load is taken to cost where none was measured yet.
LOAD_SECONDS: Final = 1.0
MODELS: Final = "models"
GROUP: Final = "group"
PLACES: Final = frozenset({MODELS, GROUP})
GIB: Final = 1 << 30


class Ledger(Protocol):
    """What models are expected to take, and what there is: see `manager.memory_ledger`."""

    async def expected(self, entry: ModelEntry) -> Expected: ...

    async def room(self, running: Mapping[int, Mapping[str, int]]) -> Mapping[str, int]: ...

    async def total(self) -> Mapping[str, int]: ...

    def learn(self, entry: ModelEntry, peak: Mapping[str, int], *, served: bool) -> None: ...

    async def flush(self) -> None: ...


class Scheduler:
    """Decides for the instances of one pool. `evicted(victim, wanted)` is called for each eviction."""

    def __init__(
        self,
        instances: Mapping[str, ModelInstance],
        settings: Settings,
        ledger: Ledger,
        evicted: Callable[[str, str], None],
    ) -> None:
        self._instances = instances
        self._settings = settings.scheduling
        self._admission = settings.memory.admission
        self._ledger = ledger
        self._evicted = evicted
        self._policy: Policy = make_policy(self._settings.policy)
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._wanting = False
        self._stopped_at = float("-inf")  # monotonic

    def want(self) -> None:
        """A model that does not run is waited for."""
        self._wanting = True
        self._woken.set()
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="scheduler")

    def changed(self) -> None:
        """Something is idle, has moved, or is waited for no longer. Cheap where nothing is wanted."""
        if self._wanting:
            self._woken.set()

    def stopped(self) -> None:
        """An engine has ended; what it had may take a moment to come back."""
        self._stopped_at = time.monotonic()

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def room(self) -> Mapping[str, int]:
        """What all models may hold together: bytes by device, places by the name of their limit."""
        lives = [instance.life for instance in self._instances.values()]
        running = {life.engine.pid: life.memory for life in lives if life is not None and life.engine.pid is not None}
        memory = await self._ledger.room(running) if self._admission else {}
        return {**memory, **_places(self._settings)}

    async def would_evict(self, entry: ModelEntry) -> tuple[str, ...] | None:
        """Who would go, were this model loaded now; None where it can't be."""
        wanted, room = await self._wanted(entry), await self.room()
        plan = make_plan([wanted], self._running(room), room)
        return None if entry.name in plan.refuse else plan.victims.get(entry.name, ())

    async def _run(self) -> None:
        again_at: float | None = None
        loop = asyncio.get_running_loop()
        while True:
            try:
                async with asyncio.timeout_at(again_at):
                    await self._woken.wait()
            except TimeoutError:
                pass
            self._woken.clear()
            try:
                again_at = await self._round()
            except Exception as error:  # nobody may wait for ever because of a fault of ours
                logger.exception("the scheduler broke")
                fault = LoadFailed(f"The service met a fault of its own ({type(error).__name__}); its log has more.")
                for instance in self._in_line():
                    instance.refuse(fault)
                again_at = None
            if again_at is not None:
                again_at += loop.time() - time.monotonic()

    async def _round(self) -> float | None:
        """Do what can be done now; returns when to look again, by time.monotonic, where no event tells."""
        in_line = self._in_line()
        if not in_line:
            self._rest()
            return None
        entries = [instance.entry for instance in in_line]  # kept, so that an id stays that of its entry
        asked = {id(entry): await self._wanted(entry) for entry in entries}
        room = await self.room()
        # From here on there is no await: what is seen is what is acted on.
        known = [instance for instance in self._in_line() if id(instance.entry) in asked]
        wanted = [replace(asked[id(one.entry)], evicts=_evicts(one)) for one in known]
        plan = make_plan(wanted, self._running(room), room)
        again_at = self._act(plan, {one.name: one.needs for one in wanted})
        if len(known) < len(self._in_line()):  # somebody came meanwhile, or an entry is another one now
            self._woken.set()
        return again_at

    def _rest(self) -> None:
        self._wanting = False
        for instance in self._instances.values():
            instance.resume()

    def _act(self, plan: Plan, needs: Mapping[str, Mapping[str, int]]) -> float | None:
        again_at = plan.again_at
        for name, refusal in plan.refuse.items():
            if self._may_pass(refusal):
                soon = time.monotonic() + SETTLE_STEP
                again_at = soon if again_at is None else min(again_at, soon)
            else:
                error = _refusal_error(name, refusal)
                logger.warning("model=%s refused: %s", name, error.message)
                self._instances[name].refuse(error)
        for name, instance in self._instances.items():
            if name not in plan.hold and name not in plan.evict:
                instance.resume()
        for name in plan.hold:
            self._instances[name].hold()
        for name, wanted in plan.evict.items():
            logger.info("model=%s evicted for=%s", name, wanted)
            self._policy.evicted(name)
            self._instances[name].evict()
            self._evicted(name, wanted)
        for name in plan.begin:
            memory = {resource: size for resource, size in needs[name].items() if _kind(resource) not in PLACES}
            self._instances[name].begin(memory)
        return again_at

    def _may_pass(self, refusal: Refusal) -> bool:
        """Whether memory that one of ours has just given back may still be missing."""
        return not refusal.keepers and time.monotonic() - self._stopped_at < SETTLE

    def _in_line(self) -> list[ModelInstance]:
        """Those that are waited for and don't run, in the order of their turn."""
        wanting = [one for one in self._instances.values() if one.state in SETTLED and one.waiting and one.may_begin]
        return sorted(wanting, key=lambda one: one.waiting.due)

    async def _wanted(self, entry: ModelEntry) -> Wanted:
        expected = await self._ledger.expected(entry)
        if entry.unavailable is not None and (entry.engine != "llama" or expected.estimate is None):
            return Wanted(entry.name, {})  # its start will say why it can't run; nobody has to go for that
        memory = expected.needed if self._admission else {}
        return Wanted(entry.name, {**memory, **dict.fromkeys(self._places_of(entry.name), 1)}, self._foes(entry.name))

    def _running(self, room: Mapping[str, int]) -> list[Running]:
        loaded = [one for one in self._instances.values() if one.life is not None]
        worth = self._policy.rank(_usage(one, room) for one in loaded if one.state is ModelState.READY)
        now = time.monotonic()
        return [self._look(one, worth.get(one.entry.name, 0.0), now) for one in loaded]

    def _look(self, instance: ModelInstance, worth: float, now: float) -> Running:
        life = instance.life
        assert life is not None  # noqa: S101  only lives are looked at
        phase, until = Phase.STARTING, 0.0
        if instance.leaving:
            phase = Phase.LEAVING
        elif instance.state is ModelState.READY and life.ready_at is not None:
            turn_ends = life.ready_at + self._settings.batch_window
            lingers = min(turn_ends, life.idle_since + self._settings.linger)
            if instance.entry.pinned:
                phase = Phase.PINNED
            elif life.in_flight:
                phase, until = (Phase.DUE, 0.0) if now >= turn_ends else (Phase.TURN, turn_ends)
            elif life.yielding or now >= lingers:
                phase = Phase.FREE
            else:
                phase, until = Phase.LINGERING, lingers
        places = dict.fromkeys(self._places_of(instance.entry.name), 1)
        return Running(instance.entry.name, phase, {**life.memory, **places}, worth, until)

    def _places_of(self, name: str) -> list[str]:
        """The limits of numbers that count this model."""
        groups = [
            f"{GROUP}:{key}" for key, group in self._settings.groups.items() if group.most and name in group.models
        ]
        return [*([MODELS] if self._settings.most_loaded else []), *groups]

    def _foes(self, name: str) -> frozenset[str]:
        """Those that can't run beside it, because one of the two is in an exclusive group without the other."""
        foes: set[str] = set()
        for group in self._settings.groups.values():
            if group.exclusive:
                inside = name in group.models
                foes |= {other for other in self._instances if (other in group.models) is not inside}
        return frozenset(foes - {name})


def _evicts(instance: ModelInstance) -> bool:
    return any(waiter.evicts for waiter in instance.waiting)


def _places(settings: SchedulingSettings) -> dict[str, int]:
    places = {f"{GROUP}:{name}": group.most for name, group in settings.groups.items() if group.most}
    return {**places, MODELS: settings.most_loaded} if settings.most_loaded else places


def _usage(instance: ModelInstance, room: Mapping[str, int]) -> Usage:
    life = instance.life
    assert life is not None  # noqa: S101  only lives are looked at
    shares = [size / room[device] for device, size in life.memory.items() if room.get(device)]
    return Usage(
        instance.entry.name,
        uses=life.uses,
        cost=instance.load_seconds or LOAD_SECONDS,
        size=max(shares, default=0.0),
        used_at=life.idle_since if not life.in_flight else time.monotonic(),
    )


def _refusal_error(name: str, refusal: Refusal) -> LoadFailed:
    """The error with its numbers. Only what nobody could make room for is not worth trying again."""
    lacks = " and ".join(_lack(resource, *numbers) for resource, numbers in refusal.lacks.items())
    beside = ", ".join(f"'{keeper}'" for keeper in refusal.keepers)
    reasons = []
    if lacks:
        reasons.append(f"it needs {lacks}")
    if beside:
        reasons.append(f"{'pinned' if refusal.lasting else 'loaded'} beside it: {beside}")
    now = "" if refusal.lasting else " now"
    message = f"The model '{name}' does not fit{now}: {'; '.join(reasons)}."
    memory = any(resource not in PLACES for resource in map(_kind, refusal.lacks))
    kind = InsufficientMemory if memory else LoadFailed
    return kind(message, should_retry=False if refusal.lasting and not refusal.keepers else None)


def _kind(resource: str) -> str:
    return resource.partition(":")[0]


def _lack(resource: str, need: int, there: int) -> str:
    if _kind(resource) in PLACES:
        return f"one of the {there} places of {resource}"
    return f"{need / GIB:.2f} GiB of {resource}, and there are {max(0, there) / GIB:.2f} GiB for it"
