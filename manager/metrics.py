"""What the service counts, in Prometheus form. One registry per service, so that several can live in one process."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

# A relayed token takes milliseconds, an answer of a thousand tokens minutes.
BUCKETS: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class _Cell:
    """The requests of one method, route and status: how many in each bucket of duration, and their sum."""

    __slots__ = ("buckets", "seconds")

    def __init__(self) -> None:
        self.buckets = [0] * (len(BUCKETS) + 1)
        self.seconds = 0.0


class Metrics(Collector):
    """Counters of the front door. They are plain numbers of one thread, made into metrics when somebody asks:
    the library's own lock three times for every request.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(self)
        self._cells: dict[tuple[str, str, int], _Cell] = {}
        self.in_flight = Gauge("llamaherd_requests_in_flight", "Inference requests in flight.", registry=self._registry)

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one answered request. `route` is the route's pattern, never a path that a client made up."""
        cell = self._cells.get((method, route, status))
        if cell is None:
            cell = self._cells[method, route, status] = _Cell()
        cell.buckets[bisect_left(BUCKETS, seconds)] += 1
        cell.seconds += seconds

    def render(self) -> bytes:
        """The text format, version 0.0.4."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "llamaherd_http_requests",
            "Requests answered, by route and status; 499: the client left.",
            labels=["method", "route", "status"],
        )
        durations = HistogramMetricFamily(
            "llamaherd_http_request_seconds",
            "Time from a request's head to the end of its answer.",
            labels=["method", "route", "status"],
        )
        for (method, route, status), cell in self._cells.items():
            labels = [method, route, str(status)]
            requests.add_metric(labels, sum(cell.buckets))
            durations.add_metric(labels, _cumulative(cell.buckets), cell.seconds)
        yield requests
        yield durations


def _cumulative(buckets: list[int]) -> list[tuple[str, float]]:
    total = 0
    result: list[tuple[str, float]] = []
    for bound, count in zip((*map(str, BUCKETS), "+Inf"), buckets, strict=True):
        total += count
        result.append((bound, float(total)))
    return result
