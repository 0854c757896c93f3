"""What is done to a service under duress: kills, edits of its files, wishes of administrators."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import time
from pathlib import Path
from random import Random
from typing import Any, Final

import psutil

from tests.e2e.chaos import MODELS, PERSONALITY, World, dice, read_whole

_ID: Final = re.compile(r"\{id[^}]*\}")


class ModelsFile:
    """models.json, as somebody edits it."""

    def __init__(self, path: Path, entries: dict[str, Any], random: Random) -> None:
        self.path = path
        self.entries = entries
        self._random = random

    def write(self, *, whole: bool = True) -> None:
        """Some editors replace the file, some write into it. Without `whole` half of it is missing."""
        text = json.dumps(self.entries, indent=1)
        text = text if whole else text[: len(text) // 2]
        if self._random.random() < 0.5:
            part = self.path.with_name("models.json.new")
            part.write_text(text)
            part.replace(self.path)
        else:
            self.path.write_text(text)


async def killer(world: World) -> None:
    """A child dies now and then, and one of them is stopped in between for a while."""
    random = dice(world.story.seed, "killer")
    rounds = 0
    while await world.pause(random.uniform(5, 8)):
        rounds += 1
        child = await asyncio.to_thread(_child, world, random)
        if child is None:
            continue
        model, process = child
        with contextlib.suppress(psutil.NoSuchProcess):
            if rounds in (3, 9):
                world.story.note(f"SIGSTOP {model} pid={process.pid}")
                process.suspend()
                await asyncio.sleep(random.uniform(2, 3))
                world.story.note(f"SIGCONT {model} pid={process.pid}")
                process.resume()
            else:
                world.story.note(f"SIGKILL {model} pid={process.pid}")
                world.story.kills.append(time.monotonic())
                process.kill()


def _child(world: World, random: Random) -> tuple[str, psutil.Process] | None:
    for model in random.sample(MODELS, len(MODELS)):
        with contextlib.suppress(StopIteration, psutil.NoSuchProcess):
            return model, world.service.child(model)
    return None


async def editor(world: World, file: ModelsFile) -> None:
    """models.json changes, breaks and is mended; at the end all models are in it."""
    random = dice(world.story.seed, "editor")
    edits = (describe, restart, break_and_mend, remove_and_add, hang_up)
    number = 0
    while await world.pause(random.uniform(1.5, 4.5)):
        number += 1
        # Each of them comes early, and then as it comes.
        edit = edits[number - 1] if number <= len(edits) else random.choice(edits)
        model = random.choice(MODELS)
        world.story.note(f"edit {edit.__name__} {model}")
        await edit(world, file, model, random)
        world.story.note(f"edit {edit.__name__} {model} done")


async def describe(_: World, file: ModelsFile, model: str, random: Random) -> None:
    file.entries[model]["description"] = f"Number {random.randrange(1000)}."
    file.write()


async def restart(_: World, file: ModelsFile, model: str, random: Random) -> None:
    """Three times in a row, as somebody does who saves often."""
    for _again in range(3):
        file.entries[model]["params"]["nPredict"] = random.randint(40, 60)
        file.write()
        await asyncio.sleep(0.1)


async def break_and_mend(_: World, file: ModelsFile, model: str, random: Random) -> None:
    file.write(whole=False)
    await asyncio.sleep(random.uniform(0.2, 1.5))
    file.write()


async def remove_and_add(world: World, file: ModelsFile, model: str, random: Random) -> None:
    began = time.monotonic()
    entry = file.entries.pop(model)
    file.write()
    await asyncio.sleep(random.uniform(0.5, 2.0))
    file.entries[model] = entry
    file.write()
    world.story.removals.append((began, time.monotonic()))


async def hang_up(world: World, file: ModelsFile, model: str, random: Random) -> None:
    world.service.process.send_signal(signal.SIGHUP)


async def administrator(world: World, number: int) -> None:
    """Loads and unloads, by the routes of the original and by those of administration."""
    random = dice(world.story.seed, f"administrator {number}")
    who = f"admin{number}"
    while await world.pause(random.uniform(1, 4)):
        model = random.choice(MODELS)
        personality = random.choice(({}, {"personality": PERSONALITY}))
        wait = {"wait": random.choice(("true", "false"))}
        wishes: tuple[tuple[str, str, dict[str, Any]], ...] = (
            ("POST", "/loadModel", {"json": {"model": model, **personality}}),
            ("POST", "/unloadModel", {"params": {"model": model}}),
            ("GET", "/unloadModel", {}),
            ("POST", "/admin/models/{id:.+?}/load", {"json": personality, "params": wait}),
            ("POST", "/admin/models/{id:.+?}/unload", {"params": wait}),
            ("GET", "/admin/models/{id:.+}", {}),
            ("GET", "/admin/models/{id:.+?}/logs", {}),
            ("POST", "/admin/reload", {}),
        )
        method, route, more = random.choice(wishes)
        await wish(world, who, method, route, model, **more)


async def canceller(world: World) -> None:
    """Ends a request of somebody now and then."""
    random = dice(world.story.seed, "canceller")
    while await world.pause(random.uniform(0.5, 2.5)):
        found: Any = await wish(world, "canceller", "GET", "/admin/requests")
        if not found or not found["requests"]:
            continue
        name = random.choice(found["requests"])["id"]
        world.story.cancelled[name] = time.monotonic()
        await wish(world, "canceller", "POST", "/admin/requests/{id}/cancel", name)


async def wish(world: World, who: str, method: str, route: str, name: str | None = None, **more: Any) -> Any:
    """One request for a route's pattern, `name` in it; returns the JSON of a good answer, else None."""
    path = _ID.sub(name or "", route)
    with world.story.calling(who, f"{method} {route}", route, name, method=method) as call:
        async with world.http.request(method, path, headers={"X-Request-ID": call.id}, **more) as answer:
            call.status = answer.status
            if answer.content_type != "application/json":
                await answer.read()
            elif answer.status in (200, 202):
                return await answer.json()
            else:
                await read_whole(call, answer)
    return None
