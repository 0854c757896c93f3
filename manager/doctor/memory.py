"""Memory: what is free, what models may take, and whether the default model fits."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Final

import psutil

from manager.doctor.case import Case, NotLookedAt
from manager.doctor.finding import Finding, error, note, ok, warning
from manager.entry import ModelEntry
from manager.errors import ConfigError
from manager.memory_free import host_free
from manager.memory_ledger import Ledger, Room
from manager.placement import Placement, best_alone

# Linux: no more is promised than there is (vm.overcommit_memory, proc(5)).
STRICT: Final = "2"


def host(case: Case) -> Iterator[Finding]:
    free = host_free()
    yield ok("host", f"{_size(free.free)} of {_size(free.total)} free")
    memory = case.settings.memory
    whole = psutil.virtual_memory().total
    if memory.host_budget is not None and memory.host_budget > whole:
        yield warning(
            "budget",
            f"memory.host_budget is {_size(memory.host_budget)}, and the machine has {_size(whole)}.",
            "set it lower, or leave it out: what is free then counts",
        )
    elif memory.host_budget is not None:
        yield ok("budget", f"{_size(memory.host_budget)} for all models (memory.host_budget)")
    elif memory.host_reserve >= free.total:
        yield error(
            "reserve",
            f"memory.host_reserve is {_size(memory.host_reserve)}, and there is {_size(free.total)}: no model can fit.",
            "set memory.host_reserve lower",
        )
    else:
        yield ok("budget", f"what is free less {_size(memory.host_reserve)} (memory.host_reserve)")


def overcommit(case: Case) -> Iterator[Finding]:
    setting = case.proc / "sys" / "vm" / "overcommit_memory"
    if setting.is_file() and setting.read_text().strip() == STRICT:
        yield warning(
            "overcommit",
            "The system promises no more memory than it has (vm.overcommit_memory=2): large models may not load.",
            "sudo sysctl vm.overcommit_memory=0",
        )


def default_model(case: Case) -> Iterator[Finding]:
    try:
        name = case.catalog.default
    except ConfigError:
        raise NotLookedAt("the models have mistakes") from None
    entry = None if name is None else case.catalog.get(name)
    if entry is None or entry.unavailable is not None:
        return  # the area of models tells it
    way, room = asyncio.run(_asked(case, entry))
    never, lacking = _lacking(way, room.most), _lacking(way, room.there)
    if never:
        yield error(
            "default model", f"{entry.name} can never fit: {never}.", "a smaller ctxSize, quantisation or model"
        )
    elif case.running:  # models of its own take what is not free, and would go
        yield note("default model", f"Whether {entry.name} fits now is not judged: the service runs.")
    elif lacking:
        yield warning(
            "default model",
            f"{entry.name} does not fit now: {lacking}.",
            "'llamaherd model inspect' shows what takes it; end other programs, or lower ctxSize",
        )
    else:
        needed = ", ".join(f"{_size(size)} on {device}" for device, size in way.expected.needed.items())
        yield ok("default model", f"{entry.name} fits now: {needed or 'its engine does not say what it takes'}")


async def _asked(case: Case, entry: ModelEntry) -> tuple[Placement, Room]:
    """The way in which the service would place it, if nothing else ran."""
    ledger = Ledger(case.settings, nvidia=case.gpus)
    room = await ledger.room({})
    return best_alone(await ledger.placements(entry), room), room


def _lacking(way: Placement, there: Mapping[str, int]) -> str:
    return ", ".join(
        f"{device} needs {_size(size)} and has {_size(there.get(device, 0))}"
        for device, size in way.needs.items()
        if size > there.get(device, 0)
    )


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB"


CHECKS: Final = (host, overcommit, default_model)
