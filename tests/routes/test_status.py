"""The feed of /status: the present state at once, then every change."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.routes.conftest import StartHerd
from tests.routes.herd import Events, Herd, until
from tests.routes.stage import Fake, Stage

IDLE = {"status": "idle", "info": "No model is loaded.", "models": []}


async def words_until(events: Events, word: str) -> list[str]:
    """The states from here on to that one, each told once however often it came."""
    words: list[str] = []
    while not words or words[-1] != word:
        status = (await events.status())["status"]
        if not words or words[-1] != status:
            words.append(status)
    return words


def subscribers(herd: Herd) -> int:
    return len(herd.service.pool.bus._subscriptions)


async def test_the_present_state_comes_at_once(herd: Herd) -> None:
    async with herd.feed() as events:
        assert await events.status() == IDLE
    await herd.post("/loadModel", {"model": "alpha"})
    async with herd.feed() as events:
        assert await events.status() == {"status": "ready", "info": "alpha is ready.", "models": ["alpha"]}


async def test_a_models_life_is_told_in_order(herd: Herd, fake: Fake) -> None:
    async with herd.feed() as events:
        await events.status()
        await herd.post("/loadModel", {"model": "alpha"})
        assert await words_until(events, "ready") == ["loading", "ready"]
        await herd.get("/unloadModel")
        assert await words_until(events, "idle") == ["unloading", "idle"]


async def test_each_state_names_the_models_that_are_loaded(herd: Herd, fake: Fake) -> None:
    seen: dict[str, Any] = {}
    async with herd.feed() as events:
        await herd.post("/loadModel", {"model": "alpha"})
        await herd.get("/unloadModel")
        while "unloading" not in seen or (await events.status())["status"] != "idle":
            status = await events.status()
            seen[status["status"]] = status["models"]
            if status["status"] == "unloading":
                break
    assert seen["loading"] == []
    assert seen["ready"] == ["alpha"]


async def test_loading_tells_its_progress(herd: Herd, fake: Fake) -> None:
    fake.close_gate()
    loading = asyncio.create_task(herd.post("/loadModel", {"model": "alpha"}))
    await until(lambda: herd.state("alpha") == "starting")
    async with herd.feed() as events:
        first, second = await events.status(), await events.status()
        assert first["status"] == second["status"] == "loading"
        assert "alpha" in first["info"]
    fake.open_gate()
    await loading


async def test_a_failed_load_is_told_with_its_reason(herd: Herd, fake: Fake) -> None:
    fake.knobs(exit_on_start={"code": 1, "lines": ["load_model: the tensor is bent"]})
    async with herd.feed() as events:
        await events.status()
        await herd.post("/loadModel", {"model": "alpha"})
        assert (await words_until(events, "error"))[0] == "loading"
    async with herd.feed() as events:
        status = await events.status()
        assert status["status"] == "error"
        assert "the tensor is bent" in status["info"]
        assert status["models"] == []


async def test_a_child_that_dies_is_told(herd: Herd, fake: Fake) -> None:
    fake.knobs(die_mid_stream=1)
    async with herd.feed() as events:
        await herd.chat("one two", stream=True)
        assert (await words_until(events, "error"))[-1] == "error"


async def test_all_subscribers_hear_the_same(herd: Herd, fake: Fake) -> None:
    async with herd.feed() as one, herd.feed() as other:
        await herd.post("/loadModel", {"model": "alpha"})
        assert await words_until(one, "ready") == await words_until(other, "ready") == ["idle", "loading", "ready"]


async def test_a_subscriber_that_leaves_is_forgotten(herd: Herd) -> None:
    async with herd.feed() as one:
        await one.status()
        async with herd.feed() as other:
            await other.status()
            assert subscribers(herd) == 2
        await until(lambda: subscribers(herd) == 1)
    await until(lambda: subscribers(herd) == 0)


async def test_the_feed_ends_when_the_service_stops(herd: Herd) -> None:
    async with herd.feed() as events:
        await events.status()
        await herd.post("/loadModel", {"model": "alpha"})
        await herd.server.close()
        assert await words_until(events, "ready") == ["loading", "ready"]
        assert all(frame.startswith(b"event: message") for frame in await events.rest())


async def test_the_feed_of_a_service_that_drains_ends_at_once(herd: Herd) -> None:
    herd.service.pool.bus.close()
    async with herd.feed() as events:
        assert await events.status() == IDLE
        assert await events.next() is None


async def test_what_is_under_way_counts_before_what_is_there(stage: Stage, fake: Fake, start_herd: StartHerd) -> None:
    beta = stage.model("beta")
    beta.close_gate()
    herd = await start_herd()
    await herd.post("/loadModel", {"model": "alpha"})
    loading = asyncio.create_task(herd.post("/loadModel", {"model": "beta"}))
    await until(lambda: herd.state("beta") == "starting")
    async with herd.feed() as events:
        status = await events.status()
        assert (status["status"], status["models"]) == ("loading", ["alpha"])
    beta.open_gate()
    await loading
