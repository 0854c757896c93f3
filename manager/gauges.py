"""What is now, as metrics: made of the models' statuses whenever somebody asks, and kept nowhere."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from prometheus_client.core import GaugeMetricFamily, Metric

from manager.state import ModelState, ModelStatus


def of_models(statuses: Collection[ModelStatus]) -> Iterator[Metric]:
    """State, requests, failures and memory of each model."""
    states = GaugeMetricFamily("llamaherd_model_state", "1 for the state that it is in.", labels=["model", "state"])
    for status in statuses:
        for state in ModelState:
            states.add_metric([status.model, state], status.state is state)
    yield states
    for attribute, name, text in (
        ("in_flight", "llamaherd_model_requests_in_flight", "Requests that it answers now."),
        ("waiting", "llamaherd_model_requests_waiting", "Requests that wait for it."),
        ("failures", "llamaherd_model_failures_in_a_row", "How often it failed since it last was well."),
    ):
        gauge = GaugeMetricFamily(name, text, labels=["model"])
        for status in statuses:
            gauge.add_metric([status.model], getattr(status, attribute))
        yield gauge
    for attribute, name, text in (
        ("memory", "llamaherd_model_memory_admitted_bytes", "Memory that it was admitted with."),
        ("measured", "llamaherd_model_memory_measured_bytes", "Memory that it really took."),
    ):
        gauge = GaugeMetricFamily(name, text, labels=["model", "device"])
        for status in statuses:
            for device, size in getattr(status, attribute).items():
                gauge.add_metric([status.model, device], size)
        yield gauge


def of_devices(total: Mapping[str, int], room: Mapping[str, int]) -> Iterator[Metric]:
    """What there is of memory, and what of it all models may hold together, in bytes by device."""
    for name, text, sizes in (
        ("llamaherd_memory_total_bytes", "Memory that the device has.", total),
        ("llamaherd_memory_room_bytes", "Memory that all models together may hold.", room),
    ):
        gauge = GaugeMetricFamily(name, text, labels=["device"])
        for device, size in sizes.items():
            gauge.add_metric([device], size)
        yield gauge


def of_certificate(expires: float) -> Metric:
    """When the service's certificate ends, in seconds since the epoch."""
    name, text = "llamaherd_tls_certificate_expires_timestamp_seconds", "When the certificate of HTTPS ends."
    return GaugeMetricFamily(name, text, value=expires)
