"""What the service counts, in Prometheus form. docs/metrics.md has the list."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import chain
from types import MappingProxyType
from typing import Final

from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from manager import gauges
from manager.inflight import Running
from manager.state import SETTLED, ModelStatus

# Upper bounds, in seconds. A relayed token takes milliseconds, an answer of a thousand tokens minutes.
ANSWERS: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
WAITS: Final = (0.001, 0.01, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
FIRST_TOKENS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
TOKENS: Final = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5)
LOADS: Final = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0)

NONE: Final[Mapping[str, int]] = MappingProxyType({})


class _Histogram:
    __slots__ = ("_bounds", "_counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    @property
    def count(self) -> int:
        return sum(self._counts)

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative, as the format wants them."""
        total = 0
        result: list[tuple[str, float]] = []
        for bound, count in zip((*map(str, self._bounds), "+Inf"), self._counts, strict=True):
            total += count
            result.append((bound, float(total)))
        return result


class _Model:
    """What is counted of one model."""

    __slots__ = (
        "cached",
        "each_token",
        "evictions",
        "failures",
        "first_token",
        "generated",
        "load",
        "outcomes",
        "prompt",
        "restarts",
        "wait",
    )

    def __init__(self) -> None:
        self.outcomes: dict[str, int] = {}
        self.prompt = self.cached = self.generated = 0
        self.wait = _Histogram(WAITS)
        self.first_token = _Histogram(FIRST_TOKENS)
        self.each_token = _Histogram(TOKENS)
        self.load = _Histogram(LOADS)
        self.failures: dict[str, int] = {}
        self.evictions = self.restarts = 0


class Metrics:
    """Plain numbers of one thread, made into metrics when somebody asks: the library's own take a lock several times
    for every request. Models are named as in the catalog, never as a client named them.
    """

    def __init__(self) -> None:
        self._answers: dict[tuple[str, str, int], _Histogram] = {}
        self._models: dict[str, _Model] = {}

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one answered request. `route` is the route's pattern, never a path that a client made up."""
        answers = self._answers.get((method, route, status))
        if answers is None:
            answers = self._answers[method, route, status] = _Histogram(ANSWERS)
        answers.add(seconds)

    def answered(self, running: Running, outcome: str) -> None:
        """Count the end of an inference request: "ok", the code of an error, "cancelled" or "left" (its client)."""
        model = self._models.get(running.model) or self._of(running.model)
        model.outcomes[outcome] = model.outcomes.get(outcome, 0) + 1
        if running.leased_at is not None:
            model.wait.add(running.leased_at - running.began)
        if running.first_at is not None:
            model.first_token.add(running.first_at - running.began)
        tokens = running.tokens
        if tokens is not None:
            model.prompt += tokens.prompt
            model.cached += tokens.cached
            model.generated += tokens.generated
            if tokens.each is not None:
                model.each_token.add(tokens.each)

    def loaded(self, model: str, seconds: float) -> None:
        """A model is ready, after so long."""
        self._of(model).load.add(seconds)

    def failed(self, model: str, code: str) -> None:
        """A load has failed, or an engine has ended by itself; `code` is that of the error."""
        failures = self._of(model).failures
        failures[code] = failures.get(code, 0) + 1

    def evicted(self, model: str) -> None:
        """A model had to go for another one."""
        self._of(model).evictions += 1

    def restarted(self, model: str) -> None:
        """A model is loaded again, after failures."""
        self._of(model).restarts += 1

    def render(
        self,
        statuses: Iterable[ModelStatus] = (),
        *,
        known: Collection[str] = (),
        in_flight: int = 0,
        total: Mapping[str, int] = NONE,
        room: Mapping[str, int] = NONE,
        more: Iterable[Metric] = (),
    ) -> bytes:
        """The text format, version 0.0.4.

        `statuses` count where their model is `known` (the catalog's names) or loaded still. `total` and `room` are
        bytes by device; `more` comes behind what is our own.
        """
        shown = [status for status in statuses if status.model in known or status.state not in SETTLED]
        families = chain(
            self._front_door(in_flight),
            self._requests(),
            self._loads(),
            gauges.of_models(shown),
            gauges.of_devices(total, room),
            more,
        )
        return generate_latest(_Page(families))

    def _of(self, name: str) -> _Model:
        model = self._models.get(name)
        if model is None:
            model = self._models[name] = _Model()
        return model

    def _front_door(self, in_flight: int) -> Iterator[Metric]:
        yield GaugeMetricFamily("llamaherd_requests_in_flight", "Inference requests in flight.", value=in_flight)
        labels = ["method", "route", "status"]
        requests = CounterMetricFamily(
            "llamaherd_http_requests", "Requests answered, by route and status; 499: the client left.", labels=labels
        )
        durations = HistogramMetricFamily(
            "llamaherd_http_request_seconds", "Time from a request's head to the end of its answer.", labels=labels
        )
        for (method, route, status), answers in self._answers.items():
            values = [method, route, str(status)]
            requests.add_metric(values, answers.count)
            durations.add_metric(values, answers.buckets(), answers.sum)
        yield requests
        yield durations

    def _requests(self) -> Iterator[Metric]:
        yield self._counters(
            "llamaherd_requests",
            "Inference requests that have ended: ok, an error's code, cancelled, or left by their clients.",
            "outcome",
            "outcomes",
        )
        for attribute, name, text in (
            ("prompt", "llamaherd_prompt_tokens", "Tokens of prompts, the cached ones too."),
            ("cached", "llamaherd_prompt_tokens_cached", "Tokens of prompts that were in the KV cache already."),
            ("generated", "llamaherd_generated_tokens", "Tokens of answers."),
        ):
            yield self._counter(name, text, attribute)
        for attribute, name, text in (
            ("wait", "llamaherd_wait_seconds", "Time from a request's acceptance until it had its model."),
            ("first_token", "llamaherd_time_to_first_token_seconds", "Time until a stream's first byte."),
            ("each_token", "llamaherd_time_per_output_token_seconds", "Mean time of a token after the first."),
        ):
            yield self._histogram(name, text, attribute)

    def _loads(self) -> Iterator[Metric]:
        yield self._histogram("llamaherd_model_load_seconds", "Time that loads took which went well.", "load")
        yield self._counters(
            "llamaherd_model_failures", "Loads that failed, and engines that ended by themselves.", "code", "failures"
        )
        yield self._counter("llamaherd_model_evictions", "Times that it had to go for another model.", "evictions")
        yield self._counter("llamaherd_model_restarts", "Loads that went well after a failure.", "restarts")

    def _counter(self, name: str, text: str, attribute: str) -> Metric:
        family = CounterMetricFamily(name, text, labels=["model"])
        for model, counts in self._models.items():
            family.add_metric([model], getattr(counts, attribute))
        return family

    def _counters(self, name: str, text: str, label: str, attribute: str) -> Metric:
        family = CounterMetricFamily(name, text, labels=["model", label])
        for model, counts in self._models.items():
            for value, count in getattr(counts, attribute).items():
                family.add_metric([model, value], count)
        return family

    def _histogram(self, name: str, text: str, attribute: str) -> Metric:
        family = HistogramMetricFamily(name, text, labels=["model"])
        for model, counts in self._models.items():
            histogram: _Histogram = getattr(counts, attribute)
            if histogram.count:  # one that counted nothing has a dozen lines all the same
                family.add_metric([model], histogram.buckets(), histogram.sum)
        return family


class _Page(Collector):
    """Families on their way into the text form."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families
