"""What the service counts, in Prometheus form. One registry per service, so that several can live in one process."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

# A relayed token takes milliseconds, an answer of a thousand tokens minutes.
DURATIONS: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 120, 300)


class Metrics:
    """Counters of the front door. `observe` is on the way of every request."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "llamaherd_http_requests",
            "Requests answered, by route and status.",
            ["method", "route", "status"],
            registry=self._registry,
        )
        self._durations = Histogram(
            "llamaherd_http_request_seconds",
            "Time from a request's head to the end of its answer.",
            ["method", "route"],
            buckets=DURATIONS,
            registry=self._registry,
        )
        self.in_flight = Gauge("llamaherd_requests_in_flight", "Inference requests in flight.", registry=self._registry)
        # labels() builds and locks; the handful of combinations that occur is kept instead.
        self._seen: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one answered request. `route` is the route's pattern, never a path that a client made up."""
        which = (method, route, status)
        children = self._seen.get(which)
        if children is None:
            children = (
                self._requests.labels(method, route, str(status)),
                self._durations.labels(method, route),
            )
            self._seen[which] = children
        children[0].inc()
        children[1].observe(seconds)

    def render(self) -> bytes:
        """The text format, version 0.0.4."""
        return generate_latest(self._registry)
