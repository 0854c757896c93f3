from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import pytest

from manager.policy import Candidate, Policy, Usage, choose, make_policy

RESOURCES = ("host", "gpu0", "models", "group:chat")


def frees_enough(candidates: Iterable[Candidate], lacking: Mapping[str, int]) -> bool:
    chosen = list(candidates)
    return all(sum(one.frees.get(resource, 0) for one in chosen) >= amount for resource, amount in lacking.items())


def made_up(rng: random.Random) -> tuple[list[Candidate], dict[str, int]]:
    candidates = [
        Candidate(
            f"m{number}",
            {resource: rng.randint(0, 9) for resource in rng.sample(RESOURCES, rng.randint(0, len(RESOURCES)))},
            float(rng.randint(0, 4)),
        )
        for number in range(rng.randint(0, 6))
    ]
    return candidates, {resource: rng.randint(-2, 12) for resource in rng.sample(RESOURCES, rng.randint(0, 3))}


CASES = [made_up(random.Random(seed)) for seed in range(500)]


def test_chosen_ones_free_enough_and_none_of_them_could_stay() -> None:
    answers = [choose(candidates, lacking) for candidates, lacking in CASES]
    assert len(set(map(type, answers))) == 2  # the cases are of both sorts
    for (candidates, lacking), names in zip(CASES, answers, strict=True):
        if names is not None:
            chosen = [one for one in candidates if one.name in names]
            assert len(chosen) == len(names)
            assert frees_enough(chosen, lacking)
            for spared in chosen:
                assert not frees_enough((one for one in chosen if one is not spared), lacking)


def test_none_means_that_all_of_them_are_not_enough() -> None:
    for candidates, lacking in CASES:
        possible = any(
            frees_enough(some, lacking)
            for count in range(len(candidates) + 1)
            for some in itertools.combinations(candidates, count)
        )
        assert (choose(candidates, lacking) is not None) == possible


def test_nobody_goes_who_frees_nothing_of_what_lacks() -> None:
    for candidates, lacking in CASES:
        useless = {
            one.name
            for one in candidates
            if not any(one.frees.get(resource, 0) for resource, amount in lacking.items() if amount > 0)
        }
        assert not useless & set(choose(candidates, lacking) or ())


def test_choice_does_not_depend_on_the_order_of_the_candidates() -> None:
    rng = random.Random(7)
    for candidates, lacking in CASES:
        assert choose(rng.sample(candidates, len(candidates)), lacking) == choose(candidates, lacking)


def test_nothing_lacking_evicts_nobody() -> None:
    candidates = [Candidate("one", {"host": 5}, 1.0)]
    assert choose(candidates, {}) == choose(candidates, {"host": 0, "gpu0": -3}) == ()
    assert choose([], {"host": 1}) is None


@pytest.mark.parametrize(
    ("lacking", "names"),
    [
        ({"host": 3}, ("cheap",)),
        ({"host": 4}, ("cheap", "middle")),
        ({"host": 13}, ("dear",)),  # by which the others needn't go
        ({"host": 14}, ("cheap", "dear")),
        ({"gpu0": 1}, ("middle",)),
        ({"gpu0": 1, "host": 12}, ("middle", "dear")),
        ({"models": 2}, ("cheap", "middle")),
        ({"host": 20}, None),
        ({"gpu1": 1}, None),
    ],
)
def test_cheapest_go_first_and_the_dearest_is_spared_first(
    lacking: dict[str, int], names: tuple[str, ...] | None
) -> None:
    candidates = [
        Candidate("dear", {"host": 13, "models": 1}, 3.0),
        Candidate("cheap", {"host": 3, "models": 1}, 1.0),
        Candidate("middle", {"host": 2, "gpu0": 4, "models": 1}, 2.0),
    ]
    assert choose(candidates, lacking) == names


def test_of_equal_worth_the_first_by_name_goes() -> None:
    assert choose([Candidate(name, {"models": 1}, 1.0) for name in ("b", "c", "a")], {"models": 2}) == ("a", "b")


def usage(name: str, uses: int = 1, *, cost: float = 10.0, size: float = 0.5, used_at: float = 0.0) -> Usage:
    return Usage(name, uses, cost, size, used_at)


def order(policy: Policy, loaded: Sequence[Usage]) -> list[str]:
    worth = policy.rank(loaded)
    return sorted(worth, key=worth.__getitem__)


def test_lru_ranks_by_last_use_alone() -> None:
    loaded = [
        usage("new", 1, cost=1.0, used_at=30.0),
        usage("old", 99, cost=99.0, used_at=10.0),
        usage("middle", 5, used_at=20.0),
    ]
    policy = make_policy("lru")
    assert order(policy, loaded) == ["old", "middle", "new"]
    policy.evicted("old")
    assert order(policy, loaded[::2]) == ["middle", "new"]


@pytest.mark.parametrize(
    ("goes", "stays"),
    [
        (usage("goes", size=0.8), usage("stays", size=0.1)),
        (usage("goes", cost=2.0), usage("stays", cost=20.0)),
        (usage("goes", 1), usage("stays", 7)),
        (usage("goes", 2, cost=3.0, size=0.9), usage("stays", 9, cost=9.0, size=0.2)),
        (usage("goes", 3, size=0.5, used_at=99.0), usage("stays", 3, size=0.1, used_at=1.0)),
    ],
)
def test_gdsf_lets_the_large_the_cheap_and_the_rarely_used_go_first(goes: Usage, stays: Usage) -> None:
    assert order(make_policy("gdsf"), [stays, goes]) == ["goes", "stays"]


@pytest.mark.parametrize("name", ["gdsf", "lru"])
def test_worth_is_that_of_the_loaded_models_and_does_not_change_by_looking(name: Literal["gdsf", "lru"]) -> None:
    policy = make_policy(name)
    loaded = [usage("a", 3, used_at=1.0), usage("b", 2, used_at=2.0)]
    first = policy.rank(loaded)
    assert first.keys() == {"a", "b"}
    assert policy.rank(loaded) == first
    assert policy.rank([]) == {}
    policy.evicted("never seen")


def test_gdsf_raises_the_level_by_evictions_only_and_never_lowers_it() -> None:
    rng = random.Random(3)
    policy = make_policy("gdsf")
    uses = dict.fromkeys("abcdef", 1)
    level = 0.0
    for number in range(200):
        name = rng.choice("abcdef")
        uses[name] = uses.get(name, 0) + rng.randint(1, 3)
        loaded = [usage(one, count, cost=1.0 + ord(one) % 5, size=0.2) for one, count in uses.items()]
        # A model that costs nothing is worth the level, as of its first use.
        probe = policy.rank([*loaded, usage(f"probe{number}", cost=0.0)])
        assert probe[f"probe{number}"] == level
        if len(uses) > 3 and rng.random() < 0.6:
            victim = rng.choice([*uses])
            policy.evicted(victim)
            level = max(level, probe[victim])
            del uses[victim]


def test_gdsf_leaves_the_worth_of_an_unused_model_as_of_its_last_use() -> None:
    policy = make_policy("gdsf")
    before = policy.rank([usage("unused", 3), usage("victim", 9)])
    policy.evicted("victim")
    assert policy.rank([usage("unused", 3), usage("new", 5)])["unused"] == before["unused"]
    assert policy.rank([usage("unused", 4)])["unused"] > before["victim"]


def test_gdsf_does_not_count_again_what_is_evicted_and_still_stopping() -> None:
    policy, other = make_policy("gdsf"), make_policy("gdsf")
    for one, ranked_again in ((policy, True), (other, False)):
        one.rank([usage("victim", 9)])
        one.evicted("victim")
        if ranked_again:
            one.rank([usage("victim", 9)])
        one.rank([])
    assert policy.rank([usage("victim", 1)]) == other.rank([usage("victim", 1)])


def test_gdsf_lets_what_was_popular_go_when_it_is_not_used_any_more() -> None:
    policy = make_policy("gdsf")
    policy.rank([usage("star", 500)])
    for number in range(2000):
        names = ["star", "other", f"new{number}"]
        loaded = [usage("star", 500), usage("other", 1 + number), usage(f"new{number}")]
        worth = policy.rank(loaded)
        victim = min(names, key=worth.__getitem__)
        policy.evicted(victim)
        if victim == "star":
            assert worth["other"] > worth["star"]
            return
    pytest.fail("it never went")


def test_gdsf_remembers_the_uses_of_a_model_that_comes_back() -> None:
    policy = make_policy("gdsf")
    policy.rank([usage("known", 20), usage("other")])
    policy.evicted("known")
    assert order(policy, [usage("known"), usage("stranger"), usage("other")])[-1] == "known"


def test_gdsf_forgets_the_uses_of_long_ago() -> None:
    policy = make_policy("gdsf")
    policy.rank([usage("once", 20), usage("busy")])
    policy.rank([usage("busy", 3000)])
    worth = policy.rank([usage("busy", 3000), usage("once"), usage("stranger")])
    assert worth["once"] == pytest.approx(worth["stranger"])


def test_gdsf_counts_any_number_of_uses_since_the_last_look_within_a_limit() -> None:
    """A night's work of one model does not make it worth more than all others for days."""
    worth = make_policy("gdsf").rank([usage("batch", 1_000_000), usage("chat", 1)])
    assert worth["batch"] == pytest.approx(100 / math.log(2) * 10.0 / 0.5, rel=0.01)


def test_gdsf_counts_the_uses_of_a_model_that_was_unloaded_and_loaded_between_two_looks() -> None:
    policy = make_policy("gdsf")
    before = policy.rank([usage("a", 5)])["a"]
    assert policy.rank([usage("a", 2)])["a"] > before


def test_gdsf_counts_a_load_as_a_use() -> None:
    worth = make_policy("gdsf").rank([usage("preloaded", 0), usage("used", 1)])
    assert worth["preloaded"] == worth["used"] > 0


def test_gdsf_bears_models_of_unknown_size_and_load_time() -> None:
    assert order(make_policy("gdsf"), [usage("sized"), usage("no size", size=0.0), usage("no cost", cost=0.0)]) == [
        "no cost",
        "sized",
        "no size",
    ]
