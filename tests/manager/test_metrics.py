"""What is counted, and how it is told: every line is read back as Prometheus reads it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from manager import gauges
from manager.inflight import InFlight, Running, Tokens
from manager.metrics import Metrics
from manager.state import ModelState, ModelStatus

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def read(page: bytes) -> Samples:
    """The samples of a page; a family or a sample that comes twice fails."""
    samples: Samples = {}
    names: set[str] = set()
    for family in text_string_to_metric_families(page.decode()):
        assert family.name not in names, f"{family.name} comes twice"
        names.add(family.name)
        assert family.documentation, f"{family.name} has no help"
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in samples, f"{key} comes twice"
            samples[key] = sample.value
    return samples


def value(samples: Samples, name: str, **labels: str) -> float | None:
    return samples.get((name, tuple(sorted(labels.items()))))


def running(model: str = "m", **fields: Any) -> Running:
    """A request; `waited` and `first` are seconds from its beginning."""
    made = InFlight().begin("id", model, None, "/route", True)
    for name, seconds in (("leased_at", fields.get("waited")), ("first_at", fields.get("first"))):
        setattr(made, name, None if seconds is None else made.began + seconds)
    made.tokens = fields.get("tokens")
    return made


def status(model: str = "m", state: ModelState = ModelState.READY, **fields: Any) -> ModelStatus:
    return ModelStatus(model, state, 0.0, **fields)


async def test_requests_are_counted_by_model_and_outcome() -> None:
    metrics = Metrics()
    for model, outcome in (("a", "ok"), ("a", "ok"), ("a", "queue_full"), ("a", "left"), ("b", "cancelled")):
        metrics.answered(running(model), outcome)
    samples = read(metrics.render())
    counted = {labels: count for (name, labels), count in samples.items() if name == "llamaherd_requests_total"}
    assert counted == {
        (("model", "a"), ("outcome", "ok")): 2.0,
        (("model", "a"), ("outcome", "queue_full")): 1.0,
        (("model", "a"), ("outcome", "left")): 1.0,
        (("model", "b"), ("outcome", "cancelled")): 1.0,
    }


async def test_tokens_add_up_and_what_is_not_known_is_not_counted() -> None:
    metrics = Metrics()
    metrics.answered(running(tokens=Tokens(32, 31, 3, 0.02)), "ok")
    metrics.answered(running(tokens=Tokens(10, 0, 1)), "ok")
    metrics.answered(running(), "ok")
    samples = read(metrics.render())
    assert value(samples, "llamaherd_prompt_tokens_total", model="m") == 42.0
    assert value(samples, "llamaherd_prompt_tokens_cached_total", model="m") == 31.0
    assert value(samples, "llamaherd_generated_tokens_total", model="m") == 4.0
    assert value(samples, "llamaherd_time_per_output_token_seconds_count", model="m") == 1.0
    assert value(samples, "llamaherd_time_per_output_token_seconds_sum", model="m") == 0.02


async def test_waits_and_first_tokens_are_histograms_from_the_beginning_of_the_request() -> None:
    metrics = Metrics()
    for waited, first in ((0.0, 0.02), (2.0, 3.0), (None, None)):
        metrics.answered(running(waited=waited, first=first), "ok")
    samples = read(metrics.render())
    assert value(samples, "llamaherd_wait_seconds_count", model="m") == 2.0
    assert value(samples, "llamaherd_wait_seconds_sum", model="m") == pytest.approx(2.0)
    assert value(samples, "llamaherd_wait_seconds_bucket", model="m", le="0.001") == 1.0
    assert value(samples, "llamaherd_wait_seconds_bucket", model="m", le="2.5") == 2.0
    assert value(samples, "llamaherd_wait_seconds_bucket", model="m", le="+Inf") == 2.0
    assert value(samples, "llamaherd_time_to_first_token_seconds_bucket", model="m", le="0.025") == 1.0
    assert value(samples, "llamaherd_time_to_first_token_seconds_sum", model="m") == pytest.approx(3.02)


async def test_a_histogram_that_counted_nothing_has_no_lines() -> None:
    metrics = Metrics()
    metrics.answered(running(), "load_failed")
    assert b"_bucket" not in metrics.render()


def test_loads_failures_evictions_and_restarts() -> None:
    metrics = Metrics()
    metrics.loaded("m", 0.3)
    metrics.loaded("m", 12.0)
    metrics.failed("m", "insufficient_memory")
    metrics.failed("m", "insufficient_memory")
    metrics.failed("m", "upstream_closed")
    metrics.evicted("m")
    metrics.restarted("m")
    samples = read(metrics.render())
    assert value(samples, "llamaherd_model_load_seconds_count", model="m") == 2.0
    assert value(samples, "llamaherd_model_load_seconds_sum", model="m") == pytest.approx(12.3)
    assert value(samples, "llamaherd_model_failures_total", model="m", code="insufficient_memory") == 2.0
    assert value(samples, "llamaherd_model_failures_total", model="m", code="upstream_closed") == 1.0
    assert value(samples, "llamaherd_model_evictions_total", model="m") == 1.0
    assert value(samples, "llamaherd_model_restarts_total", model="m") == 1.0


@pytest.mark.parametrize("state", list(ModelState))
def test_a_model_is_in_exactly_one_state(state: ModelState) -> None:
    samples = read(Metrics().render([status(state=state)], known=("m",)))
    states = {labels[1][1]: count for (name, labels), count in samples.items() if name == "llamaherd_model_state"}
    assert states == {str(other): float(other is state) for other in ModelState}


def test_gauges_are_what_the_statuses_say() -> None:
    shown = status(in_flight=2, waiting=3, failures=4, memory={"host": 10, "gpu0": 20}, measured={"host": 11})
    samples = read(Metrics().render([shown], known=("m",), in_flight=5, total={"gpu0": 100}, room={"gpu0": 80}))
    assert value(samples, "llamaherd_requests_in_flight") == 5.0
    assert value(samples, "llamaherd_model_requests_in_flight", model="m") == 2.0
    assert value(samples, "llamaherd_model_requests_waiting", model="m") == 3.0
    assert value(samples, "llamaherd_model_failures_in_a_row", model="m") == 4.0
    assert value(samples, "llamaherd_model_memory_admitted_bytes", model="m", device="gpu0") == 20.0
    assert value(samples, "llamaherd_model_memory_measured_bytes", model="m", device="host") == 11.0
    assert value(samples, "llamaherd_model_memory_measured_bytes", model="m", device="gpu0") is None
    assert value(samples, "llamaherd_memory_total_bytes", device="gpu0") == 100.0
    assert value(samples, "llamaherd_memory_room_bytes", device="gpu0") == 80.0


def test_a_removed_model_is_shown_only_while_it_runs() -> None:
    metrics = Metrics()
    for state in ModelState:
        samples = read(metrics.render([status(state=state)], known=("other",)))
        shown = value(samples, "llamaherd_model_failures_in_a_row", model="m") is not None
        assert shown == (state not in {ModelState.STOPPED, ModelState.FAILED}), state


async def test_names_of_models_may_be_anything() -> None:
    name = 'a "b"\\c\nä'
    metrics = Metrics()
    metrics.answered(running(name), "ok")
    samples = read(metrics.render([status(name)], known=(name,)))
    assert value(samples, "llamaherd_requests_total", model=name, outcome="ok") == 1.0
    assert value(samples, "llamaherd_model_requests_waiting", model=name) == 0.0


def test_more_families_come_behind_our_own() -> None:
    other = Metric("llamacpp:requests_processing", "help", "gauge")
    other.add_sample("llamacpp:requests_processing", {"model": "m"}, 3.0)
    samples = read(Metrics().render(more=[other]))
    assert value(samples, "llamacpp:requests_processing", model="m") == 3.0


def families() -> dict[str, str]:
    """The kind of each family, by its name."""
    page = Metrics().render(more=[gauges.of_certificate(0.0)]).decode()
    return dict(re.findall(r"^# TYPE (\S+) (\S+)$", page, re.MULTILINE))


def test_the_documentation_names_every_metric_and_its_kind_and_no_other() -> None:
    text = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert dict(re.findall(r"^\| `(llamaherd_\w+)` \| (\w+) \|", text, re.MULTILINE)) == families()
    used = re.findall(r"(llamaherd_\w+?)(?:_bucket|_sum|_count)?[{)\[]", text)
    assert set(used) <= families().keys(), "its queries"


def test_names_follow_the_conventions() -> None:
    """https://prometheus.io/docs/practices/naming/: one prefix, base units, _total for counters only."""
    for name, kind in families().items():
        assert re.fullmatch(r"llamaherd_[a-z_]+", name)
        assert name.endswith("_total") == (kind == "counter")
        assert not re.search(r"_(ms|milliseconds|mib|kb)(_|$)", name)
        if kind == "histogram":
            assert name.endswith("_seconds")
