"""Scheduler: admits models that are wanted, in the order of their turn, and evicts others for them.

What is to be done is decided in `plan`, who goes first in `policy`; here is what happens over time.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from contextvars import Context
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from manager.entry import ModelEntry
from manager.errors import LoadFailed
from manager.groups import Groups
from manager.instance import ModelInstance
from manager.life import Life
from manager.memory_ledger import Admitted, Expected, Room
from manager.placement import Placement
from manager.plan import Phase, Plan, Refusal, Running, Wanted, Why, make_plan
from manager.policy import Policy, Usage, make_policy
from manager.refusal import refusal_error
from manager.settings import Settings
from manager.state import SETTLED, ModelState

logger = logging.getLogger(__name__)

# A GPU's memory can come back some time after the process that had it has gone.
SETTLE: Final = 5.0
SETTLE_STEP: Final = 0.05
ROUND_PAUSE: Final = 0.002
# What a load is taken to cost where none was measured yet.
LOAD_SECONDS: Final = 1.0


@dataclass(slots=True)
class _Gone:
    """Engines that ended: when the last one did (monotonic), what there was before, and what they had."""

    at: float
    there: Mapping[str, int]
    had: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A model that is waited for, and the ways to place it: one for each of `wanted.places`, and last spread."""

    wanted: Wanted
    ways: tuple[Placement, ...]

    def way(self, plan: Plan) -> Placement:
        """The one that the plan has chosen."""
        return self.ways[plan.placed.get(self.wanted.name, -1)]


@dataclass(frozen=True, slots=True)
class Outlook:
    """What would come of loading a model now: where it would be, and who would go for it (None: it can't be loaded)."""

    way: Placement
    victims: tuple[str, ...] | None


class Ledger(Protocol):
    """What models are expected to take, and what there is: see `manager.memory_ledger`."""

    async def expected(self, entry: ModelEntry) -> Expected: ...

    async def placements(self, entry: ModelEntry) -> tuple[Placement, ...]: ...

    async def room(self, running: Mapping[str, Admitted], *, recent: bool = False) -> Room: ...

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
        self._groups = Groups(settings.scheduling)
        self._policy: Policy = make_policy(self._settings.policy)
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._wanting = False
        self._room = Room({}, {}, {})  # as it was seen last
        self._gone: _Gone | None = None

    def want(self) -> None:
        """A model that does not run is waited for."""
        self._wanting = True
        self._woken.set()
        if self._task is None:
            # Not in the context of who asks first: what is done for all is logged as no single request's.
            self._task = asyncio.create_task(self._run(), name="scheduler", context=Context())

    def changed(self) -> None:
        """Something is idle, has moved, or is waited for no longer. Cheap where nothing is wanted."""
        if self._wanting:
            self._woken.set()

    def stopped(self, life: Life) -> None:
        """An engine has ended; what it had may take a moment to come back."""
        now = time.monotonic()
        if self._gone is None or now > self._gone.at + SETTLE:
            self._gone = _Gone(now, self._room.there)
        self._gone.at = now
        for device, size in life.memory.items():
            self._gone.had[device] = self._gone.had.get(device, 0) + size

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def room(self) -> Mapping[str, int]:
        """What all models may hold together: bytes by device, places by the name of their limit."""
        return (await self.look_around()).there

    async def outlook(self, entry: ModelEntry) -> Outlook:
        """What would come of loading this model now."""
        asked, room = await self._ask(entry), await self.look_around()
        plan = make_plan([asked.wanted], self._running(room), room.there, room.most)
        victims = None if entry.name in plan.refuse else plan.victims.get(entry.name, ())
        return Outlook(asked.way(plan), victims)

    async def look_around(self, *, recent: bool = False) -> Room:
        """The devices and the limits of numbers, together; `recent`: as of Gpus.free."""
        memory = Room({}, {}, {})
        if self._admission:
            lives = {name: one.life for name, one in self._instances.items() if one.life is not None}
            admitted = await asyncio.gather(*map(_admitted, lives.values()))
            memory = await self._ledger.room(dict(zip(lives, admitted, strict=True)), recent=recent)
        places = self._groups.most
        return Room({**memory.there, **places}, {**memory.most, **places}, memory.held, memory.devices)

    async def _run(self) -> None:
        again_at: float | None = None
        loop = asyncio.get_running_loop()
        while True:
            try:
                async with asyncio.timeout_at(again_at):
                    await self._woken.wait()
            except TimeoutError:
                pass
            await asyncio.sleep(ROUND_PAUSE)  # what happens in one moment is looked at together
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
        asked = {id(entry): await self._ask(entry) for entry in entries}
        room = self._room = await self.look_around()
        # From here on there is no await: what is seen is what is acted on.
        known = [instance for instance in self._in_line() if id(instance.entry) in asked]
        wanted = [replace(asked[id(one.entry)].wanted, evicts=_evicts(one)) for one in known]
        plan = make_plan(wanted, self._running(room), room.there, room.most)
        late = self._is_late(room)
        self._begin(plan, {one.entry.name: asked[id(one.entry)] for one in known}, late)
        again_at = time.monotonic() + SETTLE_STEP if late else self._make_way(plan)
        if len(known) < len(self._in_line()):  # somebody came meanwhile, or an entry is another one now
            self._woken.set()
        return again_at

    def _rest(self) -> None:
        self._wanting = False
        for instance in self._instances.values():
            instance.resume()

    def _begin(self, plan: Plan, asked: Mapping[str, _Asked], late: bool) -> None:
        for name in plan.begin:
            way = asked[name].way(plan)
            if late and asked[name].wanted.places and name not in plan.placed:
                continue  # what is missing still may be its place
            self._instances[name].begin(_memory(way.expected), way)
        for name, refusal in plan.refuse.items():
            if refusal.why is Why.NEVER:
                self._refuse(name, refusal)

    def _make_way(self, plan: Plan) -> float | None:
        """Evict, hold and refuse; returns when to look again."""
        for name, refusal in plan.refuse.items():
            if refusal.why is not Why.NEVER:
                self._refuse(name, refusal)
        for name, instance in self._instances.items():
            if name not in plan.hold and name not in plan.evict:
                instance.resume()
        for name in plan.hold:
            self._instances[name].hold()
        for name, wanted in plan.evict.items():
            logger.info("model=%s evicted for=%s", name, wanted)
            self._policy.evicted(name)
            self._instances[name].evict(wanted)
            self._evicted(name, wanted)
        return plan.again_at

    def _refuse(self, name: str, refusal: Refusal) -> None:
        error = refusal_error(name, refusal)
        logger.warning("model=%s refused: %s", name, error.message)
        self._instances[name].refuse(error)

    def _is_late(self, room: Room) -> bool:
        """Whether memory that one of ours had is still missing. Nobody goes, or is refused, because of that."""
        gone = self._gone
        if gone is not None and time.monotonic() < gone.at + SETTLE:
            missing = {device: gone.there.get(device, 0) - room.there.get(device, 0) for device in gone.had}
            if any(missing[device] > size / 2 for device, size in gone.had.items()):
                return True
        self._gone = None
        return False

    def _in_line(self) -> list[ModelInstance]:
        """Those that are waited for and don't run, in the order of their turn."""
        wanting = [one for one in self._instances.values() if one.state in SETTLED and one.waiting and one.may_begin]
        return sorted(wanting, key=lambda one: one.waiting.due)

    async def _ask(self, entry: ModelEntry) -> _Asked:
        ways = await self._ledger.placements(entry)
        if not self._admission:  # nothing is known of room then, by which a GPU could be chosen
            ways = (Placement(entry, Expected(ways[-1].expected.estimate)),)
        # A broken GGUF file may be whole again at the start; what packages or files a folder lacks, the start will say.
        if entry.unavailable is not None and (entry.engine != "llama" or ways[-1].expected.estimate is None):
            return _Asked(Wanted(entry.name, {}), ways[-1:])  # it won't come up, and nobody has to go for that
        places = dict.fromkeys(self._groups.places(entry.name), 1)
        *single, spread = ({**way.needs, **places} for way in ways)
        foes = self._groups.foes(entry.name, self._instances)
        return _Asked(Wanted(entry.name, spread, foes, places=tuple(single)), ways)

    def _running(self, room: Room) -> list[Running]:
        loaded = [one for one in self._instances.values() if one.life is not None]
        worth = self._policy.rank(_usage(one, room.there) for one in loaded if one.state is ModelState.READY)
        return [self._look(one, room, worth.get(one.entry.name, 0.0)) for one in loaded]

    def _look(self, instance: ModelInstance, room: Room, worth: float) -> Running:
        life = instance.life
        assert life is not None  # noqa: S101  only lives are looked at
        now = time.monotonic()
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
        holds = dict.fromkeys(self._groups.places(instance.entry.name), 1)
        # What it has grown by is given back too when it goes.
        held = room.held.get(instance.entry.name, {})
        holds |= {device: max(life.memory.get(device, 0), held.get(device, 0)) for device in {*life.memory, *held}}
        return Running(instance.entry.name, phase, holds, worth, until)


def _memory(expected: Expected) -> dict[str, int]:
    """Bytes by device that the model will hold while it runs: less than it needs, as libraries stay when it goes."""
    return {device: max(0, size - expected.lasting.get(device, 0)) for device, size in expected.needed.items()}


async def _admitted(life: Life) -> Admitted:
    """A life as the ledger looks at it. Without a process of its own its engine knows best what it takes."""
    pid = life.engine.pid
    measured = await life.measure() if pid is None else {}
    return Admitted(life.memory, life.ready_at is not None, pid, measured)


def _evicts(instance: ModelInstance) -> bool:
    return any(waiter.evicts for waiter in instance.waiting)


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
