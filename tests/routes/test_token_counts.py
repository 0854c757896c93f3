"""Tokens on the account of a key: of several choices, of embeddings, and where the client does not wait for the end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.routes.conftest import StartHerd
from tests.routes.herd import Herd, said, until
from tests.routes.stage import CHAT, Fake, Stage

COMPLETIONS = "/v1/completions"
LONG = "word " * 400
# As the service estimates it: four bytes a token, and the role.
ESTIMATED = (len(LONG) + len("user")) // 4


async def used(herd: Herd) -> tuple[int, int]:
    """Tokens of prompts and answers so far."""
    total = (await herd.get("/admin/usage")).json["total"]
    return total["prompt_tokens"], total["completion_tokens"]


async def test_every_prompt_of_a_request_counts(herd: Herd) -> None:
    assert (await herd.post(COMPLETIONS, {"prompt": ["one"] * 20})).status == 200
    prompt, generated = await used(herd)
    assert (prompt, generated) == (20, 20)


async def test_a_short_first_prompt_does_not_hide_a_long_second_one(herd: Herd) -> None:
    assert (await herd.post(COMPLETIONS, {"prompt": ["one", LONG]})).status == 200
    prompt, generated = await used(herd)
    assert prompt == 1 + len(LONG) // 4
    assert generated == pytest.approx(400, rel=0.3)


@pytest.mark.parametrize("usage", [False, True])
async def test_every_choice_of_a_stream_counts_with_its_prompt_once(herd: Herd, usage: bool) -> None:
    options: dict[str, Any] = {"stream_options": {"include_usage": usage}}
    async with herd.stream("one two three", n=4, **options) as events:
        await events.rest()
    assert await used(herd) == (5, 12)
    body = {"prompt": ["one two", "three four five"], "n": 2, "stream": True, **options}
    async with herd.open("POST", COMPLETIONS, body) as response:
        await response.read()
    assert await used(herd) == (5 + 5, 12 + 10)


async def test_so_does_every_choice_of_a_stream_that_is_written_anew(herd: Herd) -> None:
    async with herd.stream("one two three", n=4, functions=[{"name": "look"}]) as events:
        await events.rest()
    assert (await used(herd))[1] == 12


async def test_embeddings_count_what_was_read(stage: Stage, start_herd: StartHerd) -> None:
    stage.model("vectors", params={"embedding": True})
    herd = await start_herd()
    assert (await herd.post("/v1/embeddings", {"input": ["one two", "three"]})).status == 200
    assert await used(herd) == (3, 0)


async def test_what_only_looks_at_texts_costs_nothing(herd: Herd) -> None:
    assert (await herd.post("/tokenize", {"content": LONG})).status == 200
    assert (await herd.post("/apply-template", said(LONG))).status == 200
    assert await used(herd) == (0, 0)


async def test_who_leaves_a_stream_pays_for_its_prompt_and_what_came(herd: Herd, fake: Fake) -> None:
    fake.hold_streams()
    async with herd.stream(LONG) as events:
        await events.token()
    await until(lambda: not herd.service.inflight)
    assert await used(herd) == (ESTIMATED, 2)  # the first event tells of the role


async def test_who_leaves_before_a_whole_answer_pays_for_its_prompt(herd: Herd, fake: Fake) -> None:
    fake.hold_streams()
    async with asyncio.TaskGroup() as group:
        left = group.create_task(herd.chat(LONG))
        await until(lambda: len(fake.requests()) == 1)
        left.cancel()
    await until(lambda: not herd.service.inflight)
    assert await used(herd) == (ESTIMATED, 0)


async def test_who_leaves_before_the_model_is_there_pays_nothing(herd: Herd, fake: Fake) -> None:
    fake.close_gate()
    async with asyncio.TaskGroup() as group:
        left = group.create_task(herd.chat(LONG))
        await until(lambda: herd.state("alpha") == "starting")
        left.cancel()
    await until(lambda: not herd.service.inflight)
    assert await used(herd) == (0, 0)


async def test_what_an_administrator_cancels_is_paid_as_if_its_client_had_left(herd: Herd, fake: Fake) -> None:
    fake.hold_streams()
    cancelled = asyncio.create_task(herd.chat(LONG))
    await until(lambda: len(fake.requests()) == 1)
    (running,) = herd.service.inflight
    assert herd.service.inflight.cancel(running.id)
    assert (await cancelled).status == 409
    assert await used(herd) == (ESTIMATED, 0)


async def test_what_an_engine_refuses_costs_nothing(herd: Herd) -> None:
    assert (await herd.chat("long " * 5000)).error["code"] == "context_length_exceeded"
    assert await used(herd) == (0, 0)


async def test_a_stream_without_a_report_counts_by_its_events(herd: Herd) -> None:
    async with herd.stream(LONG) as events:  # the fake tells nothing where it is not asked
        frames = await events.rest()
    assert await used(herd) == (ESTIMATED, len(frames))


@pytest.mark.parametrize("path", [CHAT, "/chat/completions", COMPLETIONS])
async def test_a_field_that_could_hide_the_report_is_refused(herd: Herd, path: str) -> None:
    body: dict[str, Any] = {**said("hi"), "prompt": "hi", "verbose": True, "response_fields": ["prompt"]}
    answer = await herd.post(path, body)
    assert (answer.status, answer.error["param"]) == (400, "response_fields")
    assert (await herd.post(path, {**body, "response_fields": None})).status == 200
