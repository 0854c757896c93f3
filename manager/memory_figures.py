"""The figures of memory that the ledger gives: of a model before it runs, of one that runs, and of all together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from manager.memory import Estimate
from manager.memory_free import Free


@dataclass(frozen=True, slots=True)
class Expected:
    """What an entry will take, in bytes.

    `estimate`: by part, None where its files can't be read that far; `learnt`: the most that its last lives took, by
    device, empty where nothing was learnt; `needed`: what has to be there by device before a load: this counts.
    `lasting`: of that, what stays with the service when the model goes, because it loads libraries into it.
    `spare`: what has to be free besides, which nobody takes (see `manager.placement.spare`).
    """

    estimate: Estimate | None = None
    learnt: Mapping[str, int] = field(default_factory=dict)
    needed: Mapping[str, int] = field(default_factory=dict)
    lasting: Mapping[str, int] = field(default_factory=dict)
    spare: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Admitted:
    """A running model: what it was admitted with, in bytes by device. `ready`: its memory is all there.

    `pid`: its process. None: it has none of its own, and `measured` is what its engine says that it takes, by device;
    empty where that is not known.
    """

    memory: Mapping[str, int]
    ready: bool
    pid: int | None = None
    measured: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Room:
    """Bytes by device.

    `there`: what all models may hold together now, those that run included. `most`: what could be there at all: the
    budget, or the whole device less the reserve; a model above that can never fit. `held`: by name, what a running
    model really has, as far as that is known. `devices`: what all this was made of.
    """

    there: Mapping[str, int]
    most: Mapping[str, int]
    held: Mapping[str, Mapping[str, int]]
    devices: tuple[Free, ...] = ()
