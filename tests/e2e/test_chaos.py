"""Two minutes of an operator's worst day: three models in a budget for two, and everything goes wrong at once.

CHAOS_SEED repeats the dice of a run, CHAOS_SECONDS makes it longer.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import stat
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import psutil
import pytest

from manager.entry import LlamaParams, ModelEntry
from manager.memory import HOST, estimate
from tests.e2e.chaos import CHAT, MODELS, PERSONALITY, Story, World, dice, world_of
from tests.e2e.chaos_clients import client
from tests.e2e.chaos_mischief import ModelsFile, administrator, canceller, editor, killer, wish
from tests.e2e.chaos_rules import ANSWER, FILES_MORE, INFERENCE, SEEN, THE_END, WAIT, judge
from tests.e2e.chaos_watchers import (
    EventsReader,
    Samples,
    events_reader,
    metrics_reader,
    prober,
    samples_of,
    status_reader,
)
from tests.e2e.service import Service, running
from tests.gguf_files import write_tiny_gguf

SECONDS: Final = float(os.environ.get("CHAOS_SECONDS", "120"))
CLIENTS: Final = 12
PLACES: Final = 2
DRAIN: Final = 20.0
# What is left of a request that was cut off is gone after this.
QUIET: Final = 10.0
FILES: Final = (
    *(r"models\.json", r"models\.json\.lock", r"keys\.json(\.lock)?", r"memory\.json", r"models/\w+\.gguf"),
    r"audit\.log",
    r"usage\.sqlite(-wal|-shm)?",
    r"slots/[^/]+/[0-9a-f]{32}/slot-\d+\.bin",
)


@pytest.fixture
def entries(short_folder: Path) -> dict[str, Any]:
    """models.json, and the files that it names."""
    folder = short_folder / "data" / "models"
    for number, name in enumerate(MODELS):
        write_tiny_gguf(folder / f"{name}.gguf", layers=6, width=512, seed=number)
    params = {"ctxSize": 2048, "parallel": 2, "threads": 1, "nPredict": 50, "cacheRamMib": 0}
    entries: dict[str, Any] = {
        name: {"params": {"model": f"{name}.gguf", **params}, "personalities": {PERSONALITY: "You are a pirate."}}
        for name in MODELS
    }
    entries["beta"]["concurrency"] = 2
    entries["gamma"] |= {"concurrency": 1, "queue": 2}
    return entries


@pytest.fixture
def budget(short_folder: Path, entries: dict[str, Any]) -> int:
    """Room for two, and for what is learnt of them; three don't fit, even if each takes a fifth less than estimated."""
    params = LlamaParams.model_validate({"model": "alpha.gguf", "ctx_size": 2048, "parallel": 2, "cache_ram_mib": 0})
    path = short_folder / "data" / "models" / "alpha.gguf"
    return round(2.2 * estimate(ModelEntry("alpha", path, params), "embedded").needed(HOST))


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(SECONDS + 120)
def test_nothing_is_lost_and_nothing_is_left_whatever_happens(
    short_folder: Path, entries: dict[str, Any], budget: int
) -> None:
    seed = int(os.environ.get("CHAOS_SEED") or secrets.randbelow(1_000_000))
    story = Story(seed, SECONDS)
    file = ModelsFile(short_folder / "data" / "models.json", entries, dice(seed, "file"))
    file.write()
    environment = {
        "LLAMAHERD_LLAMA__LAUNCHER": "embedded",
        "LLAMAHERD_MEMORY__HOST_BUDGET": str(budget),
        "LLAMAHERD_SCHEDULING__BATCH_WINDOW": "1",
        "LLAMAHERD_SCHEDULING__LINGER": "0.05",
        "LLAMAHERD_LIMITS__WAIT_TIMEOUT": str(WAIT),
        "LLAMAHERD_LIMITS__STREAM_HEARTBEAT": "0.5",
        "LLAMAHERD_SERVER__DRAIN_TIMEOUT": str(DRAIN),
    }
    with running(short_folder, environment) as service:
        try:
            process = psutil.Process(service.process.pid)
            files = process.num_fds()
            asyncio.run(chaos(service, story, file, budget))
            story.seen["files"] = files_beyond(process, files)
        finally:
            began = time.monotonic()
            status = service.stop()
            took = time.monotonic() - began
            faults = [*story.faults, *judge(story, service.log)]
            if status != 0 or took > DRAIN:
                faults.append(f"it ended with status {status} after {took:.1f} s")
            faults += left_files(short_folder / "data")
            tell(story, service.log, faults)
    assert not faults, f"seed {seed}"


async def chaos(service: Service, story: Story, file: ModelsFile, budget: int) -> None:
    """The day, and the quiet after it."""
    events = EventsReader(story, PLACES)
    story.seen["events"] = events
    async with world_of(service, story, WAIT + ANSWER) as world:
        following = asyncio.create_task(events_reader(world, events))
        async with asyncio.TaskGroup() as group:
            for work in (
                *(client(world, number) for number in range(CLIENTS)),
                *(administrator(world, number) for number in range(2)),
                *(killer(world), editor(world, file), canceller(world)),
                *(metrics_reader(world, budget, PLACES), prober(world)),
                status_reader(world),
            ):
                group.create_task(work)
        story.note("the day is over")
        await quiet(world)
        await served_still(world)
        following.cancel()
        await asyncio.wait({following})
        await told_well(world, events)
        await emptied(world)
        story.seen["metrics"] = await last_page(world)


def files_beyond(process: psutil.Process, before: int) -> int:
    """How many more it has open than before, once it has seen that the clients are gone."""
    ends = time.monotonic() + QUIET
    while (more := process.num_fds() - before) > FILES_MORE and time.monotonic() < ends:
        time.sleep(0.05)
    return more


async def quiet(world: World) -> None:
    """Nothing is in flight once nobody asks."""
    ends = time.monotonic() + QUIET
    while True:
        models: Any = (await wish(world, "last", "GET", "/admin/models"))["models"]
        requests: Any = (await wish(world, "last", "GET", "/admin/requests"))["requests"]
        busy = [(model["name"], model["in_flight"], model["waiting"]) for model in models]
        if not requests and not any(numbers for _, *numbers in busy if any(numbers)):
            return
        if time.monotonic() > ends:
            world.story.fault(f"in flight and waiting after the end: {busy}, {requests}")
            return
        await asyncio.sleep(0.1)


async def served_still(world: World) -> None:
    """Every model answers, after a load by hand where it had failed."""
    await asyncio.sleep(SEEN)  # the last edit counts by then
    for model in MODELS:
        if await wish(world, "last", "POST", "/admin/models/{id:.+?}/load", model) is None:
            world.story.fault(f"{model} can't be loaded at the end")
        with world.story.calling("last", "whole", CHAT, model) as call:
            body = {"model": model, "messages": [{"role": "user", "content": "Are you there?"}], "max_tokens": 3}
            async with world.http.post(CHAT, json=body, headers={"X-Request-ID": call.id}) as answer:
                call.status = answer.status
                text = await answer.text()
        if call.status != 200:
            world.story.fault(f"{model} does not answer at the end: {call.status} {text}")


async def told_well(world: World, events: EventsReader) -> None:
    """Who has read the feed knows what /admin/models says."""
    await events.follow(world.http, 1.0)
    models: Any = (await wish(world, "last", "GET", "/admin/models"))["models"]
    there = {model["name"]: model["state"] for model in models}
    known = {name: str(state) for name, state in events.states.items() if name in there}
    if {name: known.get(name, "stopped") for name in there} != there:
        world.story.fault(f"the feed says {known}, and it is {there}")
    world.story.seen["loads"] = Counter({model["name"]: model["loads"] for model in models})
    world.story.seen["evictions"] = Counter({model["name"]: model["evictions"] for model in models})


async def emptied(world: World) -> None:
    """All are unloaded: no process and no memory is left."""
    for model in MODELS:
        await wish(world, "last", "POST", "/admin/models/{id:.+?}/unload", model)
    models: Any = (await wish(world, "last", "GET", "/admin/models"))["models"]
    held = [model["name"] for model in models if model["memory"]["expected"] or model["state"] != "stopped"]
    left = await asyncio.to_thread(world.service.children)
    if held or left:
        world.story.fault(f"after all was unloaded: memory of {held}, processes {left}")


async def last_page(world: World) -> Samples:
    """The metrics, when nothing else goes on."""
    await asyncio.sleep(1.0)  # the feeds' ends have been seen
    async with world.http.get("/metrics", headers={"X-Request-ID": THE_END}) as answer:
        return samples_of(await answer.text())


def left_files(data: Path) -> Iterator[str]:
    """Nothing is left but what belongs there, and what was said is for nobody else to read."""
    for path in data.rglob("*"):
        name = str(path.relative_to(data))
        if path.is_dir():
            continue
        if not any(re.fullmatch(pattern, name) for pattern in FILES):
            yield f"left: {name}"
        elif name.startswith("slots/") and stat.S_IMODE(path.stat().st_mode) != 0o600:
            yield f"{name} has mode {path.stat().st_mode:o}"


def tell(story: Story, log: str, faults: list[str]) -> None:
    """The whole story where there are faults, else its sums."""
    if faults:
        print("\n".join(["the service's log:", *(line for line in log.splitlines() if " ACCESS " not in line)]))  # noqa: T201
        print("\n".join(["", "the story:", *story.lines]))  # noqa: T201
    kinds = Counter((call.kind, call.status, call.code, call.left) for call in story.calls if call.route in INFERENCE)
    print(f"\nseed {story.seed}, {len(story.kills)} kills, calls:")  # noqa: T201
    for (kind, status, code, left), number in sorted(kinds.items(), key=str):
        print(f"  {number:5} {kind} {status} {code or ''}{' left' if left else ''}")  # noqa: T201
    for name, value in story.seen.items():
        if name not in ("metrics", "events"):
            print(f"  {name}: {value}")  # noqa: T201
    print("\n".join(f"FAULT {fault}" for fault in faults))  # noqa: T201
