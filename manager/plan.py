"""What to do now for the models that are wanted and don't run: a pure function of how things stand at one moment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from manager.policy import Candidate, choose


class Phase(StrEnum):
    """How ready a running model is to give up its place."""

    PINNED = "pinned"  # never
    STARTING = "starting"  # not before it was ready
    TURN = "turn"  # in use, and it is its turn still
    DUE = "due"  # in use, and its turn is over
    LINGERING = "lingering"  # idle, but for a moment only
    FREE = "free"  # idle
    LEAVING = "leaving"  # it is on its way


# Who goes first: those that nobody misses, then those that are likely to be asked again, then those in use.
_TIERS: Final = (
    frozenset({Phase.FREE}),
    frozenset({Phase.FREE, Phase.LINGERING}),
    frozenset({Phase.FREE, Phase.LINGERING, Phase.DUE}),
    frozenset({Phase.FREE, Phase.LINGERING, Phase.DUE, Phase.TURN}),
)
_STAYS: Final = frozenset({Phase.PINNED, Phase.STARTING})


@dataclass(frozen=True, slots=True)
class Running:
    """A model that holds resources. `until`: when LINGERING or TURN ends (any clock)."""

    name: str
    phase: Phase
    holds: Mapping[str, int]
    worth: float = 0.0
    until: float = 0.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """A model that somebody waits for. `foes` can't run beside it; without `evicts` nobody goes for it.

    `places`: what it needs at each of the places where all of it can be. Where there are any, `needs` is what it needs
    when it is spread, which counts only where no place will do.
    """

    name: str
    needs: Mapping[str, int]
    foes: frozenset[str] = frozenset()
    evicts: bool = True
    places: tuple[Mapping[str, int], ...] = ()


class Why(StrEnum):
    """Why a model is refused."""

    NEVER = "never"  # it is larger than all that there could ever be
    PINNED = "pinned"  # models that never go are in its way
    NOW = "now"  # there is no room now


_REFUSED: Final = (Why.NOW, Why.PINNED, Why.NEVER)  # the last is the worst


@dataclass(frozen=True, slots=True)
class Refusal:
    """`lacks`: what is needed and what there is, by resource. `beside`: models that are in its way."""

    why: Why
    lacks: Mapping[str, tuple[int, int]]
    beside: tuple[str, ...] = ()


@dataclass(slots=True)
class Plan:
    """`evict` and `hold` say for whom; what is held admits nobody and so comes free. `again_at`: look again then.

    `placed`: which of its places each has that has any; without one it is spread.
    """

    begin: list[str] = field(default_factory=list)
    evict: dict[str, str] = field(default_factory=dict)
    hold: dict[str, str] = field(default_factory=dict)
    refuse: dict[str, Refusal] = field(default_factory=dict)
    victims: dict[str, tuple[str, ...]] = field(default_factory=dict)  # who would go, or goes, for each
    placed: dict[str, int] = field(default_factory=dict)
    again_at: float | None = None


def make_plan(
    wanted: Sequence[Wanted],
    running: Iterable[Running],
    room: Mapping[str, int],
    most: Mapping[str, int] | None = None,
) -> Plan:
    """`wanted` in the order of their turn; `room` is what all may hold together, of each resource that is limited.

    `most`: what that could be at the most, where it is more: room can be less because of other programs.
    The first in line gets its place first. Who comes after it goes ahead only where that takes nothing from it.
    """
    planner = _Planner({one.name: one for one in running}, room, most or room)
    for one in wanted:
        planner.place(one)
    return planner.plan


@dataclass(frozen=True, slots=True, order=True)
class _Price:
    """What it costs to have a model at a place; the least is best.

    `refused`: 0 where it is not, else how much so. `stage`: 0 it begins, 1 what is on its way makes room, 2 others go
    for it, 3 it waits for others. `tier` and `worth` of those who go. `left`: the tightest fit keeps large holes.
    """

    refused: int = 0
    stage: int = 0
    tier: int = 0
    worth: float = 0.0
    left: int = 0


class _Planner:
    def __init__(self, running: dict[str, Running], room: Mapping[str, int], most: Mapping[str, int]) -> None:
        self.plan = Plan()
        self._running = running
        self._room = room
        self._most = most
        self._going = {name for name, one in running.items() if one.phase is Phase.LEAVING}
        self._begun: list[Mapping[str, int]] = []
        self._promised: list[Mapping[str, int]] = []  # to all that came before, those begun included
        self._earlier: set[str] = set()

    def place(self, one: Wanted) -> None:
        if one.places:
            one = self._at_best_place(one)
        refusal = self._impossible(one)
        if refusal is not None:
            self.plan.refuse[one.name] = refusal
            return
        foes = [self._running[name] for name in sorted(one.foes) if name in self._running]
        blocked = bool(one.foes & self._earlier)  # an enemy is ahead in the line: its turn comes first
        if not blocked and not foes and not self._lacking(one, self._running, self._begun):
            if not self._lacking(one, self._staying(), self._promised):
                self.plan.begin.append(one.name)
                self._begun.append(one.needs)
        elif not blocked:
            self._make_room(one, [foe for foe in foes if foe.name not in self._going])
        if one.name not in self.plan.refuse:
            self._promised.append(one.needs)
            self._earlier.add(one.name)

    def _at_best_place(self, one: Wanted) -> Wanted:
        """With the needs of the place that costs least; spread only where each place is refused, and that is not."""
        prices = [self._price(replace(one, needs=needs)) for needs in one.places]
        best = min(range(len(prices)), key=prices.__getitem__)
        if prices[best].refused and self._price(one).refused <= prices[best].refused:
            return one
        self.plan.placed[one.name] = best
        return replace(one, needs=one.places[best])

    def _price(self, one: Wanted) -> _Price:
        refusal = self._impossible(one)
        if refusal is not None:
            return _Price(_REFUSED.index(refusal.why) + 1)
        staying = self._staying()
        lacking = self._lacking(one, staying, self._promised)
        foes = [staying[name] for name in sorted(one.foes & staying.keys())]
        if not foes and not lacking:
            fits = not self._lacking(one, self._running, self._begun)
            return _Price(stage=0 if fits else 1, left=self._left(one, staying))
        if not one.evicts:
            return _Price(_REFUSED.index(Why.NOW) + 1)
        victims = self._victims(lacking, foes)
        if victims is None:
            return _Price(stage=3)
        left = self._left(one, {name: other for name, other in staying.items() if other not in victims})
        tier = max(next(number for number, tier in enumerate(_TIERS) if victim.phase in tier) for victim in victims)
        return _Price(stage=2, tier=tier, worth=sum(victim.worth for victim in victims), left=left)

    def _left(self, one: Wanted, holders: Mapping[str, Running]) -> int:
        """What is left of all that it needs when it is there."""
        held = _sums([*(other.holds for other in holders.values()), *self._promised, one.needs])
        return sum(self._room[name] - held[name] for name in one.needs if name in self._room)

    def _impossible(self, one: Wanted) -> Refusal | None:
        for why, room in ((Why.NEVER, self._most), (Why.NOW, self._room)):
            lacks = {name: (need, room[name]) for name, need in one.needs.items() if need > room.get(name, need)}
            if lacks:
                return Refusal(why, lacks)
        pinned = {name: other for name, other in self._running.items() if other.phase is Phase.PINNED}
        lacking = self._lacking(one, pinned, [])
        holding = {name for name, other in pinned.items() if lacking.keys() & other.holds.keys()}
        beside = tuple(sorted(holding | (one.foes & pinned.keys())))
        return Refusal(Why.PINNED, _numbers(one, lacking), beside) if beside else None

    def _make_room(self, one: Wanted, foes: Sequence[Running]) -> None:
        lacking = self._lacking(one, self._staying(), self._promised)
        if not foes and not lacking:
            return  # what is on its way will do
        if not one.evicts:
            beside = tuple(foe.name for foe in foes)
            self.plan.refuse[one.name] = Refusal(Why.NOW, _numbers(one, lacking), beside)
            return
        victims = self._victims(lacking, foes)
        if victims is None:
            return  # it waits for one that is starting
        self.plan.victims[one.name] = tuple(victim.name for victim in victims)
        self._going.update(victim.name for victim in victims)
        if all(victim.phase is Phase.FREE for victim in victims):
            self.plan.evict.update((victim.name, one.name) for victim in victims)
            return
        waits = [victim.until for victim in victims if victim.phase in (Phase.LINGERING, Phase.TURN)]
        if waits:
            self.plan.again_at = min(waits if self.plan.again_at is None else [*waits, self.plan.again_at])
        else:
            # Those that are free stay open until these are too: that may take long, or never come.
            self.plan.hold.update((victim.name, one.name) for victim in victims if victim.phase is Phase.DUE)

    def _victims(self, lacking: Mapping[str, int], foes: Sequence[Running]) -> list[Running] | None:
        """Those that are to go; None where those that may are not enough."""
        if any(foe.phase in _STAYS for foe in foes):
            return None
        freed = _sums(foe.holds for foe in foes)
        rest = {name: lack - freed.get(name, 0) for name, lack in lacking.items() if lack > freed.get(name, 0)}
        named = {foe.name for foe in foes}
        others = [one for name, one in self._running.items() if name not in self._going and name not in named]
        for tier in _TIERS:
            candidates = [Candidate(one.name, one.holds, one.worth) for one in others if one.phase in tier]
            chosen = choose(candidates, rest)
            if chosen is not None:
                return [*foes, *(self._running[name] for name in chosen)]
        return None

    def _staying(self) -> dict[str, Running]:
        return {name: one for name, one in self._running.items() if name not in self._going}

    def _lacking(
        self, one: Wanted, holders: Mapping[str, Running], promised: Sequence[Mapping[str, int]]
    ) -> dict[str, int]:
        """How much of each resource there is too little, beside these holders and what was promised."""
        held = _sums([*(other.holds for other in holders.values()), *promised])
        lacking = {}
        for name, need in one.needs.items():
            lack = held.get(name, 0) + need - self._room[name] if name in self._room else 0
            if lack > 0 and need:
                lacking[name] = lack
        return lacking


def _numbers(one: Wanted, lacking: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    return {name: (one.needs[name], max(0, one.needs[name] - lack)) for name, lack in lacking.items()}


def _sums(shares: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for share in shares:
        for name, size in share.items():
            total[name] = total.get(name, 0) + size
    return total
