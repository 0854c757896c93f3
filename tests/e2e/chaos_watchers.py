"""Those who watch a service under duress: each notes at once what must never be."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from typing import Any, Final

import aiohttp
import psutil
from prometheus_client.parser import text_string_to_metric_families

from manager.state import SETTLED, TRANSITIONS, ModelState
from tests.e2e.chaos import MODELS, Story, World, dice
from tests.e2e.chaos_mischief import wish

# Answers that wait for no model come within this, on a machine that has other work too.
AT_ONCE: Final = 5.0
SETTLED_AFTER: Final = 20.0

Samples = dict[str, dict[tuple[str, ...], float]]


def samples_of(page: str) -> Samples:
    """By the name of the sample: by the values of its labels, in the order of their names."""
    found: Samples = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            labels = tuple(value for _, value in sorted(sample.labels.items()))
            found.setdefault(sample.name, {})[labels] = sample.value
    return found


async def metrics_reader(world: World, budget: int, places: int) -> None:
    """Each second: no more is admitted than the budget, and no more models are loaded than fit."""
    story = world.story
    most = 0.0
    while await world.pause(1.0):
        with story.calling("metrics", "metrics", "/metrics", method="GET") as call:
            async with world.http.get("/metrics", headers={"X-Request-ID": call.id}) as answer:
                call.status = answer.status
                samples = samples_of(await answer.text())
        if call.status != 200:
            continue
        admitted = sum(samples.get("llamaherd_model_memory_admitted_bytes", {}).values())
        most = max(most, admitted)
        if admitted > budget:
            story.fault(f"{admitted:.0f} bytes are admitted, of {budget}")
        states = samples.get("llamaherd_model_state", {})
        here = [labels for labels, value in states.items() if value and labels[1] not in SETTLED]
        if len(here) > places:
            story.fault(f"more models are there than fit: {here}")
    story.seen["most_admitted"] = most


async def prober(world: World) -> None:
    """What waits for no model is answered at once, whatever is loading; and the service does not grow."""
    story, service = world.story, psutil.Process(world.service.process.pid)
    routes = ("/health", "/v1/models", "/models", "/admin/models", "/chat/errors")
    number = 0
    while await world.pause(0.5):
        route = routes[number % len(routes)]
        number += 1
        began = time.monotonic()
        await wish(world, "prober", "GET", route)
        took = time.monotonic() - began
        story.seen["slowest_probe"] = max(took, story.seen.get("slowest_probe", 0.0))
        if took > AT_ONCE:
            story.fault(f"{route} took {took:.1f} s")
        memory = service.memory_info().rss
        if number % 20 == 0:
            story.note(f"the service has {memory / 1024**2:.1f} MiB")
        if began - story.began < SETTLED_AFTER:
            story.seen["memory_before"] = memory
        story.seen["memory_after"] = memory


async def status_reader(world: World) -> None:
    """The contract of /status, for the whole time."""
    kinds: Counter[str] = Counter()
    with world.story.calling("status", "status", "/status", method="GET") as call:
        call.left = True
        async with world.http.get("/status", headers={"X-Request-ID": call.id}) as answer:
            call.status = answer.status
            try:
                async with asyncio.timeout(world.until - time.monotonic()):
                    async for line in answer.content:
                        if line.startswith(b"data: "):
                            event = json.loads(line[6:])
                            kinds[event["status"]] += 1
                            if set(event) != {"status", "info", "models"} or not set(event["models"]) <= set(MODELS):
                                world.story.fault(f"/status says {event}")
                world.story.fault("/status ended by itself")
            except TimeoutError:
                answer.close()
    world.story.seen["statuses"] = kinds


class EventsReader:
    """Follows /admin/events, goes and comes back now and then, and must know all the time how things stand."""

    def __init__(self, story: Story, places: int) -> None:
        self.states: dict[str, ModelState] = {}
        self.kinds: Counter[str] = Counter()
        self.evicted: Counter[str] = Counter()
        # Of what is in the catalog; a model that comes back begins anew.
        self.loads: Counter[str] = Counter()
        self.evictions: Counter[str] = Counter()
        self.requests: dict[str, list[str]] = {}
        self.heard: dict[str, float] = {}  # when of its last event
        self.last_id: str | None = None
        self._story = story
        self._places = places

    async def follow(self, http: aiohttp.ClientSession, seconds: float) -> None:
        """Read for so long, from where it left off."""
        with self._story.calling("events", "events", "/admin/events", method="GET") as call:
            call.left = True
            headers = {"X-Request-ID": call.id, **({"Last-Event-ID": self.last_id} if self.last_id else {})}
            async with http.get("/admin/events", headers=headers) as answer:
                call.status = answer.status
                try:
                    async with asyncio.timeout(seconds):
                        await self._read(answer)
                    self._story.fault("/admin/events ended by itself")
                except TimeoutError:
                    answer.close()

    async def _read(self, answer: aiohttp.ClientResponse) -> None:
        # Only whole events count: what is read of one when time is up comes again.
        event: dict[str, str] = {}
        async for line in answer.content:
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if name in ("id", "event", "data"):
                event[name] = value
            elif not name and event:
                self._take(event["id"], event["event"], json.loads(event["data"]))
                event = {}

    def _take(self, event_id: str, kind: str, data: Any) -> None:
        self.kinds[kind] += 1
        if kind == "snapshot":
            if self.last_id is not None:
                self._story.note(f"events: another snapshot after {self.last_id}")
                self.kinds["snapshot again"] += 1
            self.states = {model["name"]: ModelState(model["state"]) for model in data["models"]}
        elif self.last_id is not None and int(event_id.split("-")[1]) != int(self.last_id.split("-")[1]) + 1:
            self._story.fault(f"after event {self.last_id} came {event_id}")
        self.last_id = event_id
        match kind:
            case "model":
                self._move(data["name"], ModelState(data["state"]))
            case "evicted":
                self.evicted[data["model"]] += 1
                self.evictions[data["model"]] += 1
            case "removed":
                for known in (self.states, self.loads, self.evictions):
                    known.pop(data["model"], None)
            case "request":
                said = data["state"] if data["state"] == "started" else data["status"]
                self.requests.setdefault(data["id"], []).append(said)
                self.heard[data["id"]] = time.monotonic()

    def _move(self, model: str, state: ModelState) -> None:
        before = self.states.get(model, ModelState.STOPPED)
        if state is not before:
            self._story.note(f"{model} {state}")
            self.loads[model] += state is ModelState.STARTING
            if state not in TRANSITIONS[before]:
                self._story.fault(f"events: {model} went from {before} to {state}")
        self.states[model] = state
        here = [name for name, now in self.states.items() if now not in SETTLED]
        if len(here) > self._places:
            self._story.fault(f"events: more models are there than fit: {here}")


async def events_reader(world: World, reader: EventsReader) -> None:
    """It reads until it is cancelled, with breaks."""
    random = dice(world.story.seed, "events")
    while True:
        await reader.follow(world.http, random.uniform(10, 25))
        await asyncio.sleep(random.uniform(0, 0.5))
