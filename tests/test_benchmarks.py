"""The benchmark's pieces run. Nothing is timed here."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.load import ERRORS, Case, Sample, drive, find_wrk
from benchmarks.overhead import SHORT, STREAM, TOKENS, Row, added_ms, parse, report, show, together
from benchmarks.policy import GB, POLICIES, Model, Request, lower_bound, replay, run
from benchmarks.policy import parse as parse_policy
from benchmarks.targets import Child, service, straight, tried
from manager.policy import make_policy
from tests.gguf_files import write_tiny_gguf


def sample(p50_ms: float = 1.0, **errors: int) -> Sample:
    return Sample(1000, 2.0, p50_ms, 2.0, 3.0, 0.5, {kind: errors.get(kind, 0) for kind in ERRORS})


def row(leg: str, p50_ms: float) -> Row:
    return Row("mock", "short", 1, leg, sample(p50_ms), 0.0, 0.5, kept=True)


@pytest.fixture
def mock(short_folder: Path) -> Child:
    return Child("mock", write_tiny_gguf(short_folder / "tiny.gguf"), slots=2)


def test_straight_and_service_answer_alike(mock: Child, short_folder: Path) -> None:
    with straight(mock, short_folder) as child, service(mock, short_folder) as front:
        for target in (child, front):
            assert tried(target, SHORT).tokens == 0
            assert tried(target, STREAM).tokens == TOKENS


@pytest.mark.skipif(find_wrk() is None, reason="wrk is not installed")
def test_wrk_counts_answers_and_failures(mock: Child, short_folder: Path) -> None:
    with straight(mock, short_folder) as child:
        good = drive(child, SHORT, connections=2, seconds=1)
        bad = drive(child, Case("none", "/nowhere", "{}"), connections=1, seconds=1)
    assert (good.failed, good.rate > 0) == (0, True)
    assert (bad.errors["status"], bad.rate) == (bad.requests, 0.0)


def test_failed_answers_do_not_count_in_the_rate() -> None:
    assert (sample(status=100).rate, sample().cpu_us) == (450, 500)


def test_rounds_are_summed_and_the_worst_kept() -> None:
    both = together([sample(1.0, read=1), sample(3.0, read=2)])
    assert (both.requests, both.seconds, both.p50_ms, both.errors["read"]) == (2000, 4.0, 2.0, 3)


def test_report_tells_what_the_service_adds() -> None:
    rows = [row("straight", 0.1), row("service", 0.3)]
    assert added_ms(rows, "mock") == pytest.approx(0.2)
    assert json.loads(json.dumps(report(rows)))["results"][1]["answers_per_second"] == 500
    console = Console(width=120, record=True)
    show(console, rows)
    assert "adds 0.200 ms" in console.export_text()


def test_child_is_native_only_where_there_is_a_binary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "wrk").touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("LLAMAHERD_LLAMA__BINARY", raising=False)
    assert parse([]).children == ["embedded", "mock"]
    assert parse(["--binary", "/some/llama-server"]).children == ["native", "mock"]
    with pytest.raises(SystemExit):
        parse(["--children", "native"])


def least_load_seconds(trace: Sequence[Request], memory: int) -> float:
    """The optimum, by trying everything: the cheapest way to each set of models that may be loaded."""
    ways: dict[frozenset[Model], float] = {frozenset(): 0.0}
    for request in trace:
        after: dict[frozenset[Model], float] = {}
        for loaded, seconds in ways.items():
            others = loaded - {request.model}
            paid = seconds + (0.0 if request.model in loaded else request.model.load)
            for kept in itertools.chain.from_iterable(
                itertools.combinations(others, count) for count in range(len(others) + 1)
            ):
                now = frozenset({request.model, *kept})
                if sum(model.size for model in now) <= memory:
                    after[now] = min(paid, after.get(now, paid))
        ways = after
    return min(ways.values())


def tiny_trace(rng: random.Random, *, sizes: Sequence[int]) -> list[Request]:
    models = [Model(f"m{number}", rng.choice(sizes), rng.uniform(1, 20)) for number in range(5)]
    return [Request(60.0 * number, rng.choice(models)) for number in range(rng.randint(1, 16))]


@pytest.mark.parametrize("seed", range(40))
def test_bound_never_exceeds_the_optimum_and_no_policy_goes_below_either(seed: int) -> None:
    rng = random.Random(seed)
    trace = tiny_trace(rng, sizes=range(1, 9))
    memory = rng.randint(8, 20)
    least = least_load_seconds(trace, memory)
    assert lower_bound(trace, memory, lambda model: model.load) <= least + 1e-6
    for make in POLICIES.values():
        assert replay(trace, memory, make()).load_seconds >= least - 1e-6


@pytest.mark.parametrize("seed", range(10))
def test_bound_is_the_optimum_where_all_sizes_are_equal(seed: int) -> None:
    rng = random.Random(seed)
    trace = tiny_trace(rng, sizes=[1])
    assert lower_bound(trace, 2, lambda model: model.load) == pytest.approx(least_load_seconds(trace, 2), rel=0.01)


def test_replay_counts_loads_and_the_time_waited_for_them() -> None:
    one, two = Model("one", GB, 2.0), Model("two", GB, 4.0)
    trace = [Request(0.0, one), Request(10.0, one), Request(20.0, two), Request(21.0, one)]
    outcome = replay(trace, GB, make_policy("lru"))
    waited_for_the_one_before = 20.0 + 4.0 + 0.5 - 21.0
    assert (outcome.loads, outcome.load_seconds) == (3, 8.0)
    assert outcome.wait == pytest.approx((2.0 + 4.0 + waited_for_the_one_before + 2.0) / 4)


def test_policies_stay_above_the_bound_in_all_traces() -> None:
    console = Console(width=120, record=True)
    result = run(parse_policy(["--requests", "60", "--seeds", "1"]), console)
    assert result["results"] == json.loads(json.dumps(result["results"]))
    by_case: dict[str, dict[str, float]] = {}
    for row in result["results"]:
        by_case.setdefault(f"{row['trace']} {row['memory']}", {})[row["policy"]] = row["load_seconds"]
    for seconds in by_case.values():
        bound = seconds.pop("bound")
        assert seconds.keys() == POLICIES.keys()
        assert 0 < bound <= min(seconds.values()) + 1e-6
    assert "lru: load seconds to those of lru 1.00" in console.export_text()
