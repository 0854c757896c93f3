"""What make_plan decides: who begins, who goes for whom, who waits, and who is refused."""

from __future__ import annotations

import random
from typing import Any

import pytest

from manager.plan import Phase, Plan, Refusal, Running, Wanted, Why, make_plan

ROOM = {"host": 100}


def running(name: str, phase: Phase = Phase.FREE, size: int = 40, worth: float = 1.0, **more: Any) -> Running:
    return Running(name, phase, {"host": size}, worth, **more)


def wanted(name: str, size: int = 40, **more: Any) -> Wanted:
    return Wanted(name, {"host": size}, **more)


def test_what_fits_begins() -> None:
    plan = make_plan([wanted("a"), wanted("b")], [], ROOM)
    assert plan == Plan(begin=["a", "b"])


def test_what_is_not_limited_needs_no_room() -> None:
    assert make_plan([Wanted("a", {"gpu7": 9}), Wanted("b", {})], [running("c", size=100)], ROOM).begin == ["a", "b"]


def test_an_idle_one_goes_for_the_one_that_is_wanted() -> None:
    plan = make_plan([wanted("a")], [running("b"), running("c")], ROOM)
    assert plan == Plan(evict={"b": "a"}, victims={"a": ("b",)})


def test_the_least_worth_goes() -> None:
    plan = make_plan([wanted("a")], [running("b", worth=2.0), running("c", worth=1.0)], ROOM)
    assert plan.evict == {"c": "a"}


def test_as_many_go_as_must() -> None:
    idle = [running(name, size=25, worth=worth) for name, worth in (("b", 1.0), ("c", 2.0), ("d", 3.0), ("e", 4.0))]
    assert make_plan([wanted("a", 50)], idle, ROOM).evict == {"b": "a", "c": "a"}


def test_nobody_goes_in_vain() -> None:
    idle = [running("b", size=10, worth=1.0), running("c", size=60, worth=2.0), running("d", size=30, worth=3.0)]
    assert make_plan([wanted("a", 60)], idle, ROOM).evict == {"c": "a"}


@pytest.mark.parametrize("phase", [Phase.TURN, Phase.DUE, Phase.STARTING, Phase.PINNED])
def test_one_in_use_is_never_evicted(phase: Phase) -> None:
    assert not make_plan([wanted("a", 60)], [running("b", phase, 60)], ROOM).evict


def test_an_idle_one_goes_before_one_in_use_however_much_it_is_worth() -> None:
    plan = make_plan([wanted("a")], [running("b", Phase.DUE, worth=1.0), running("c", worth=9.0)], ROOM)
    assert plan.evict == {"c": "a"}
    assert not plan.hold


def test_one_in_use_whose_turn_is_over_is_held() -> None:
    plan = make_plan([wanted("a", 60)], [running("b", Phase.DUE, 60)], ROOM)
    assert (plan.hold, plan.begin, plan.again_at) == ({"b": "a"}, [], None)


def test_one_in_use_keeps_its_turn() -> None:
    plan = make_plan([wanted("a", 60)], [running("b", Phase.TURN, 60, until=7.0)], ROOM)
    assert (plan.hold, plan.begin, plan.again_at) == ({}, [], 7.0)


def test_one_that_was_used_a_moment_ago_stays_that_moment() -> None:
    plan = make_plan([wanted("a", 60)], [running("b", Phase.LINGERING, 60, until=7.0)], ROOM)
    assert (plan.evict, plan.again_at) == ({}, 7.0)


def test_idle_ones_stay_until_those_in_use_are_done_too() -> None:
    both = [running("b", Phase.FREE, 40), running("c", Phase.DUE, 40)]
    plan = make_plan([wanted("a", 90)], both, ROOM)
    assert not plan.evict
    assert plan.hold == {"c": "a"}
    assert set(plan.victims["a"]) == {"b", "c"}


def test_what_is_on_its_way_is_waited_for() -> None:
    plan = make_plan([wanted("a", 60)], [running("b", Phase.LEAVING, 40), running("c", Phase.FREE, 40)], ROOM)
    assert plan == Plan()


def test_one_that_starts_is_waited_for() -> None:
    assert make_plan([wanted("a", 60)], [running("b", Phase.STARTING, 60)], ROOM) == Plan()


# the line


def test_the_first_in_line_gets_the_place() -> None:
    plan = make_plan([wanted("a", 60), wanted("b", 60)], [], ROOM)
    assert plan.begin == ["a"]
    assert not plan.evict


def test_who_comes_after_takes_nothing_from_the_first() -> None:
    plan = make_plan([wanted("a", 90), wanted("b", 20)], [running("c", Phase.DUE, 70)], ROOM)
    assert plan.begin == []  # b would fit beside c now, and not beside a


def test_who_comes_after_goes_ahead_where_it_takes_nothing_away() -> None:
    plan = make_plan([wanted("a", 80), wanted("b", 20)], [running("c", Phase.DUE, 70)], ROOM)
    assert plan.begin == ["b"]


def test_each_has_victims_of_its_own() -> None:
    idle = [running("c", size=50, worth=1.0), running("d", size=50, worth=2.0)]
    plan = make_plan([wanted("a", 50), wanted("b", 50)], idle, ROOM)
    assert plan.evict == {"c": "a", "d": "b"}


# what can't be


def test_what_can_never_fit_is_refused_with_the_numbers() -> None:
    plan = make_plan([wanted("a", 101)], [running("b")], ROOM)
    assert plan == Plan(refuse={"a": Refusal(Why.NEVER, {"host": (101, 100)})})


def test_what_other_programs_took_may_come_back() -> None:
    plan = make_plan([wanted("a", 70)], [], {"host": 60}, {"host": 100})
    assert plan.refuse == {"a": Refusal(Why.NOW, {"host": (70, 60)})}
    plan = make_plan([wanted("a", 101)], [], {"host": 60}, {"host": 100})
    assert plan.refuse == {"a": Refusal(Why.NEVER, {"host": (101, 100)})}


def test_pinned_ones_in_the_way_are_named() -> None:
    kept = [running("b", Phase.PINNED, 60), Running("c", Phase.PINNED, {"gpu0": 9})]
    plan = make_plan([wanted("a", 60)], kept, ROOM)
    assert plan.refuse == {"a": Refusal(Why.PINNED, {"host": (60, 40)}, ("b",))}


def test_who_is_refused_keeps_nothing_from_the_others() -> None:
    assert make_plan([wanted("a", 101), wanted("b", 100)], [], ROOM).begin == ["b"]


def test_a_load_that_evicts_nobody_is_refused_where_there_is_no_room_now() -> None:
    plan = make_plan([wanted("a", 70, evicts=False)], [running("b")], ROOM)
    assert plan.refuse == {"a": Refusal(Why.NOW, {"host": (70, 60)})}
    assert make_plan([wanted("a", 60, evicts=False)], [running("b")], ROOM).begin == ["a"]


# groups


def test_foes_go_first_and_nobody_else() -> None:
    others = [running("b", worth=9.0, size=10), running("c", worth=1.0, size=10)]
    plan = make_plan([wanted("a", foes=frozenset("b"))], others, ROOM)
    assert plan.evict == {"b": "a"}


def test_a_foe_in_use_is_held() -> None:
    assert make_plan([wanted("a", foes=frozenset("b"))], [running("b", Phase.DUE, 10)], ROOM).hold == {"b": "a"}


def test_a_foe_on_its_way_or_starting_is_waited_for() -> None:
    for phase in (Phase.LEAVING, Phase.STARTING):
        assert make_plan([wanted("a", foes=frozenset("b"))], [running("b", phase, 10)], ROOM) == Plan()


def test_a_pinned_foe_is_a_refusal() -> None:
    plan = make_plan([wanted("a", foes=frozenset("b"))], [running("b", Phase.PINNED, 10)], ROOM)
    assert plan.refuse == {"a": Refusal(Why.PINNED, {}, ("b",))}


def test_of_two_foes_in_line_the_first_begins() -> None:
    plan = make_plan([wanted("a", 1, foes=frozenset("b")), wanted("b", 1, foes=frozenset("a"))], [], ROOM)
    assert plan.begin == ["a"]


def test_places_count_like_memory() -> None:
    room = {"models": 2}
    loaded = [Running(name, Phase.FREE, {"models": 1}, worth) for name, worth in (("b", 2.0), ("c", 1.0))]
    assert make_plan([Wanted("a", {"models": 1})], loaded, room).evict == {"c": "a"}


def test_no_plan_breaks_a_promise() -> None:
    """Many situations drawn by chance: what holds for every plan."""
    chance = random.Random(7)
    for _ in range(3000):
        room = {"host": 100, "models": chance.randint(1, 5)}
        phases = list(Phase)
        there, left = [], 100
        for number in range(chance.randint(0, 5)):
            size = chance.randint(0, left)
            left -= size
            holds = {"host": size, "models": 1}
            there.append(Running(f"r{number}", chance.choice(phases), holds, chance.random(), chance.random()))
        names = [one.name for one in there]
        line = [
            Wanted(
                f"w{number}",
                {"host": chance.randint(0, 120), "models": 1},
                frozenset(chance.sample(names, chance.randint(0, min(1, len(names))))),
                chance.random() < 0.8,
            )
            for number in range(chance.randint(1, 4))
        ]
        plan = make_plan(line, there, room)
        phase = {one.name: one.phase for one in there}
        assert all(phase[name] is Phase.FREE for name in plan.evict)
        assert all(phase[name] is Phase.DUE for name in plan.hold)
        assert not plan.evict.keys() & plan.hold.keys()
        begun = [one for one in line if one.name in plan.begin]
        for resource, most in room.items():
            held = sum(one.holds[resource] for one in there)
            assert not begun or held + sum(one.needs[resource] for one in begun) <= max(most, held)
        assert all(not one.foes & phase.keys() for one in begun)
        assert not set(plan.begin) & plan.refuse.keys()
        first = line[0]
        stuck = first.name not in plan.begin and first.name not in plan.refuse
        waits_for = {Phase.STARTING, Phase.LEAVING, Phase.DUE} & set(phase.values())
        acts = first.name in {*plan.evict.values(), *plan.hold.values()} or plan.again_at is not None
        assert not stuck or waits_for or acts, (line, there, plan)


# places: several GPUs, of which each can have all of a model


GPUS = {"gpu0": 24, "gpu1": 16}


def placeable(name: str, size: int, *, gpus: Any = ("gpu0", "gpu1"), **more: Any) -> Wanted:
    """All of it on one of these GPUs, or half on each."""
    return Wanted(name, dict.fromkeys(gpus, size // 2), places=tuple({gpu: size} for gpu in gpus), **more)


def on(gpu: str, name: str, size: int, phase: Phase = Phase.FREE, worth: float = 1.0, **more: Any) -> Running:
    return Running(name, phase, {gpu: size}, worth, **more)


def test_of_the_places_with_room_the_tightest_is_taken() -> None:
    assert make_plan([placeable("a", 10)], [], GPUS) == Plan(begin=["a"], placed={"a": 1})
    assert make_plan([placeable("a", 10)], [on("gpu0", "b", 13)], GPUS).placed == {"a": 0}  # 11 are left there


def test_of_places_that_are_alike_the_first_is_taken() -> None:
    assert make_plan([placeable("a", 10)], [], {"gpu0": 24, "gpu1": 24}).placed == {"a": 0}


def test_a_place_where_nobody_has_to_go_is_better_than_one_that_fits_tightly() -> None:
    plan = make_plan([placeable("a", 10)], [on("gpu1", "b", 10, worth=0.0)], GPUS)
    assert plan == Plan(begin=["a"], placed={"a": 0})


def test_a_place_that_comes_free_by_itself_is_better_than_an_eviction() -> None:
    both = [on("gpu0", "b", 20, Phase.LEAVING), on("gpu1", "c", 10, worth=0.0)]
    assert make_plan([placeable("a", 10)], both, GPUS) == Plan(placed={"a": 0})


def test_who_is_worth_least_goes_on_whichever_gpu_that_is() -> None:
    for worths, gone, place in (((1.0, 2.0), "b", 0), ((2.0, 1.0), "c", 1)):
        both = [on("gpu0", "b", 20, worth=worths[0]), on("gpu1", "c", 10, worth=worths[1])]
        plan = make_plan([placeable("a", 10)], both, GPUS)
        assert plan == Plan(evict={gone: "a"}, victims={"a": (gone,)}, placed={"a": place})


def test_an_idle_one_goes_on_one_gpu_before_one_in_use_is_held_on_another() -> None:
    both = [on("gpu0", "b", 20, Phase.DUE, worth=0.0), on("gpu1", "c", 10, worth=9.0)]
    plan = make_plan([placeable("a", 10)], both, GPUS)
    assert (plan.evict, plan.hold) == ({"c": "a"}, {})


def test_two_that_are_worth_little_go_before_one_that_is_worth_more() -> None:
    some = [on("gpu0", "b", 12, worth=1.0), on("gpu0", "c", 12, worth=1.0), on("gpu1", "d", 16, worth=3.0)]
    assert make_plan([placeable("a", 16)], some, GPUS).evict == {"b": "a", "c": "a"}


def test_what_fits_on_no_gpu_is_spread() -> None:
    assert make_plan([placeable("a", 30)], [], GPUS) == Plan(begin=["a"])


def test_nobody_is_spread_because_a_gpu_is_in_use() -> None:
    some = [on("gpu0", "b", 14, Phase.TURN, until=7.0), on("gpu1", "c", 6, Phase.STARTING)]
    plan = make_plan([placeable("a", 20)], some, GPUS)  # 10 would fit on each
    assert (plan.begin, plan.again_at, plan.placed) == ([], 7.0, {"a": 0})


@pytest.mark.parametrize("why", ["pinned", "other programs", "nobody may go"])
def test_one_that_can_have_no_place_to_itself_is_spread(why: str) -> None:
    phase = Phase.PINNED if why == "pinned" else Phase.FREE
    some = [] if why == "other programs" else [on("gpu0", "b", 12, phase), on("gpu1", "c", 4, phase)]
    room = {"gpu0": 12, "gpu1": 12} if why == "other programs" else GPUS
    plan = make_plan([placeable("a", 20, evicts=why != "nobody may go")], some, room, GPUS)
    assert plan == Plan(begin=["a"])


def test_what_fits_nowhere_is_refused_for_the_mildest_reason() -> None:
    assert make_plan([placeable("a", 90)], [], GPUS).refuse["a"].why is Why.NEVER
    larger = Wanted("a", {"gpu0": 9, "gpu1": 99}, places=({"gpu0": 20}, {"gpu1": 20}))
    plan = make_plan([larger], [on("gpu0", "b", 20, Phase.PINNED)], GPUS)
    assert plan.refuse == {"a": Refusal(Why.PINNED, {"gpu0": (20, 4)}, ("b",))}


def test_two_at_once_do_not_take_the_same_room() -> None:
    plan = make_plan([placeable("a", 14), placeable("b", 14), placeable("c", 14)], [], GPUS)
    assert (plan.begin, plan.placed) == (["a", "b"], {"a": 1, "b": 0, "c": 0})
    # One that starts has what it was admitted with, though its memory is free still.
    assert make_plan([placeable("b", 14)], [on("gpu1", "a", 14, Phase.STARTING)], GPUS).placed == {"b": 0}


def test_who_comes_after_takes_another_place_than_the_one_that_is_made_for_the_first() -> None:
    plan = make_plan(
        [Wanted("a", {"gpu1": 16}), placeable("b", 6)],
        [on("gpu1", "c", 10, Phase.DUE), on("gpu0", "d", 20)],
        GPUS,
    )
    assert plan.placed == {"b": 0}  # six of gpu1 are free, and promised
    assert (plan.hold, plan.evict) == ({"c": "a"}, {"d": "b"})


def test_other_resources_count_at_every_place() -> None:
    one = Wanted("a", {"gpu0": 5, "gpu1": 5, "models": 1}, places=({"gpu0": 9, "models": 1}, {"gpu1": 9, "models": 1}))
    some = [Running("b", Phase.FREE, {"gpu0": 20, "models": 1}, 1.0)]
    assert make_plan([one], some, {**GPUS, "models": 1}) == Plan(
        evict={"b": "a"}, victims={"a": ("b",)}, placed={"a": 1}
    )


def test_no_plan_puts_more_on_a_gpu_than_it_has() -> None:
    """Many situations drawn by chance: every promise holds, and nobody is forgotten."""
    chance = random.Random(11)
    room = {"gpu0": 24, "gpu1": 16, "gpu2": 16}
    for _ in range(2000):
        left, there = dict(room), []
        for number in range(chance.randint(0, 6)):
            gpu = chance.choice(list(room))
            size = chance.randint(0, left[gpu])
            left[gpu] -= size
            there.append(on(gpu, f"r{number}", size, chance.choice(list(Phase)), chance.random(), until=1.0))
        evicts = chance.random() < 0.8
        sizes = [chance.randint(0, 45) for _ in range(chance.randint(1, 4))]
        line = [placeable(f"w{number}", size, gpus=room, evicts=evicts) for number, size in enumerate(sizes)]
        plan = make_plan(line, there, room)
        needs = {one.name: one.places[plan.placed[one.name]] if one.name in plan.placed else one.needs for one in line}
        for gpu, most in room.items():
            begun = sum(needs[name].get(gpu, 0) for name in plan.begin)
            assert not begun or sum(one.holds.get(gpu, 0) for one in there) + begun <= most
        moving = {Phase.STARTING, Phase.LEAVING, Phase.DUE} & {one.phase for one in there}
        acts = moving or plan.begin or plan.evict or plan.hold or plan.again_at is not None
        assert acts or plan.refuse.keys() == {one.name for one in line}, (line, there, plan)
