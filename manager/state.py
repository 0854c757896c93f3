"""The states of a model instance, the moves between them, and the snapshot that the rest of the service sees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class ModelState(StrEnum):
    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    STOPPING = "stopping"
    FAILED = "failed"


TRANSITIONS: Final[dict[ModelState, frozenset[ModelState]]] = {
    ModelState.STOPPED: frozenset({ModelState.STARTING}),
    ModelState.STARTING: frozenset({ModelState.READY, ModelState.STOPPING}),
    ModelState.READY: frozenset({ModelState.DRAINING, ModelState.STOPPING}),
    ModelState.DRAINING: frozenset({ModelState.STOPPING}),
    ModelState.STOPPING: frozenset({ModelState.STOPPED, ModelState.FAILED}),
    ModelState.FAILED: frozenset({ModelState.STARTING, ModelState.STOPPED}),
}

LOADED: Final = frozenset({ModelState.READY, ModelState.DRAINING})
SETTLED: Final = frozenset({ModelState.STOPPED, ModelState.FAILED})
LEAVING: Final = frozenset({ModelState.DRAINING, ModelState.STOPPING})


@dataclass(frozen=True, slots=True)
class Eviction:
    """That a model had to go, for which one, and when: in seconds since the epoch."""

    wanted: str
    at: float


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """What an instance was at one moment; times are seconds since the epoch, memory is bytes by device.

    `waiting`: requests that wait for it. `yielding`: it takes no new requests, because others wait for its place.
    `progress`: how much of it is loaded, 0 to 1. `device`: the GPU that was chosen for all of it, None where none was,
    or where its entry or llama.cpp decides. `memory`: what it was admitted with; `measured`: what it took.
    `failures`: in a row. `loads`, `evictions`: since the service started, or since the model was last added.
    `evicted`: why its last life ended, where that was for another model.
    """

    model: str
    state: ModelState
    since: float
    in_flight: int = 0
    waiting: int = 0
    yielding: bool = False
    progress: float | None = None
    idle_since: float | None = None
    device: str | None = None
    memory: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    measured: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    failures: int = 0
    loads: int = 0
    evictions: int = 0
    evicted: Eviction | None = None
    personality: str | None = None
    error: str | None = None
    error_code: str | None = None
    exit_code: int | None = None
    retry_at: float | None = None
    load_seconds: float | None = None
    pid: int | None = None
    log_tail: tuple[str, ...] = ()
