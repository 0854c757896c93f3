"""The whole service in one word and a sentence, for the feed /status. Pure: from the statuses of its models."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

from manager.state import LEAVING, LOADED, ModelState, ModelStatus


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """`status` is idle, loading, ready, unloading or error; `models` are those that are loaded."""

    status: str
    info: str
    models: tuple[str, ...]


def summary(statuses: Iterable[ModelStatus]) -> ServiceStatus:
    """The present state: what is under way counts before what has settled, and of that the newest."""
    known = list(statuses)
    newest = sorted(known, key=lambda status: status.since, reverse=True)
    loaded = tuple(status.model for status in known if status.state in LOADED)
    for states in ({ModelState.STARTING}, LEAVING, {ModelState.FAILED, ModelState.READY}):
        for status in newest:
            if status.state in states:
                return describe(status, loaded)
    return ServiceStatus("idle", "No model is loaded.", loaded)


def describe(status: ModelStatus, loaded: tuple[str, ...]) -> ServiceStatus:
    """What has happened to this model, as the state of the service."""
    model = status.model
    match status.state:
        case ModelState.STARTING:
            seconds = int(time.time() - status.since)
            done = "" if status.progress is None else f"{status.progress:.0%}, "
            return ServiceStatus("loading", f"Loading {model}: {done}{seconds} s so far.", loaded)
        case ModelState.READY:
            return ServiceStatus("ready", f"{model} is ready.", loaded)
        case ModelState.DRAINING | ModelState.STOPPING:
            return ServiceStatus("unloading", f"Unloading {model}.", loaded)
        case ModelState.FAILED:
            return ServiceStatus("error", status.error or f"{model} failed.", loaded)
        case ModelState.STOPPED:
            return ServiceStatus("ready" if loaded else "idle", f"{model} is unloaded.", loaded)
