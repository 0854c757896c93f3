"""What a key is for at the front door: its models, its limits, and what wrong ones get."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import aiohttp
import pytest

from manager import guesses
from manager.auth import KeyStore
from routes import ROUTES
from tests.manager.bench import until
from tests.routes.conftest import StartHerd, outside
from tests.routes.herd import Herd, said
from tests.routes.stage import CHAT, Fake, Stage

MakeKey = Callable[..., str]


@pytest.fixture
async def two(stage: Stage, fake: Fake, make_key: MakeKey, start_herd: StartHerd) -> Herd:
    """A service with "alpha" (the default) and "beta", alias "b", whose client holds a key for beta alone."""
    stage.model("beta", aliases=["b"]).knobs()
    key = make_key("limited", models=["b"])
    herd = await start_herd()
    herd.key = key
    return herd


@pytest.mark.parametrize("path", [CHAT, "/chat/completions", "/apply-template"])
async def test_a_key_for_some_models_gets_a_403_for_others(two: Herd, path: str) -> None:
    for name in ("alpha", None):
        answer = await two.post(path, {**said("hi"), "model": name})
        assert (answer.status, answer.error["code"], answer.error["param"]) == (403, "model_not_allowed", "model")
    assert (await two.post(path, {**said("hi"), "model": "beta"})).status == 200
    assert two.state("alpha") == "stopped"


CHATTED: Final = {"messages": [{"role": "user", "content": "x"}]}
# A body for each route that asks a model something.
WAYS: Final[dict[str, dict[str, Any]]] = {
    **dict.fromkeys((CHAT, "/chat/completions", f"{CHAT}/input_tokens", "/apply-template", "/api/chat"), CHATTED),
    "/v1/messages": {**CHATTED, "max_tokens": 4},
    "/v1/messages/count_tokens": CHATTED,
    **{path: {"input": "x"} for path in ("/v1/responses", "/v1/responses/input_tokens")},
    **{path: {"prompt": "x"} for path in ("/v1/completions", "/api/generate", "/api/embeddings")},
    **{path: {"input": "x"} for path in ("/v1/embeddings", "/api/embed")},
    **{path: {"query": "x", "documents": ["y"]} for path in ("/v1/rerank", "/v1/reranking", "/rerank")},
    "/v1/audio/speech": {"input": "x", "voice": "y"},
    "/infill": {"input_prefix": "x", "input_suffix": "y"},
    "/tokenize": {"content": "x"},
    "/detokenize": {"tokens": [1]},
}
UPLOADED: Final = "/v1/audio/transcriptions"  # is no JSON


def test_every_route_that_asks_a_model_is_known_here() -> None:
    asking = {route.path for route in ROUTES if route.access.metered and route.method == "POST"}
    assert asking == {*WAYS, UPLOADED}


@pytest.mark.parametrize("path", WAYS)
async def test_every_way_to_a_model_asks_for_the_right_one(two: Herd, path: str) -> None:
    answer = await two.post(path, {**WAYS[path], "model": "alpha"})
    assert (answer.status, "beta" in str(answer.error) or "b." in str(answer.error)) == (403, True)
    assert two.state("alpha") == "stopped"


async def test_sounds_and_questions_in_the_url_ask_for_the_right_model(two: Herd) -> None:
    form = aiohttp.FormData({"model": "alpha"})
    form.add_field("file", b"RIFF\0\0\0\0WAVEfmt ", filename="x.wav", content_type="audio/wav")
    headers = {"Authorization": f"Bearer {two.key}"}
    async with two.session.post(two.server.make_url(UPLOADED), data=form, headers=headers) as answer:
        assert answer.status == 403
    for path in ("/chat/ask?question=x&model=alpha", "/props?model=alpha", "/v1/models/alpha", "/v1/models/alpha:x"):
        assert (await two.get(path)).status in {403, 404}, path
    assert (await two.post("/api/show", {"model": "alpha"})).status in {403, 404}
    assert (await two.get("/v1/models/beta")).status == 200
    assert two.state("alpha") == "stopped"


async def test_lists_show_the_models_of_the_key(two: Herd) -> None:
    assert [model["id"] for model in (await two.get("/v1/models")).json["data"]] == ["beta"]
    await two.post("/loadModel", {"model": "alpha"})
    assert (await two.get("/models")).json == []
    await two.post("/loadModel", {"model": "beta"})
    assert (await two.get("/models")).json == ["beta"]


async def test_names_of_other_models_are_not_told(stage: Stage, two: Herd, make_key: MakeKey) -> None:
    for path, body in ((CHAT, {**said("hi"), "model": "alphi"}), ("/tokenize", {"content": "x", "model": "alpha:no"})):
        answer = await two.post(path, body)
        assert answer.status in {403, 404}
        assert "did you mean" not in answer.error["message"]
    answer = await two.get("/v1/models/alphi")
    assert (answer.status, answer.error["message"]) == (404, "There is no such model for this API key; it is for: b.")


async def test_errors_of_other_models_are_not_told(
    stage: Stage, fake: Fake, make_key: MakeKey, start_herd: StartHerd
) -> None:
    fake.knobs(exit_on_start={"code": 3, "lines": []})
    stage.model("beta").knobs()
    all_models, beta = make_key("all", "inference"), make_key("b", "inference", models=["beta"])
    herd = await start_herd()
    assert (await herd.post(CHAT, said("hi", model="alpha"), key=all_models)).status == 503
    await until(lambda: herd.service.pool.errors)
    assert len((await herd.get("/chat/errors", key=all_models)).json["errors"]) == 1
    assert (await herd.get("/chat/errors", key=beta)).json["errors"] == []


async def test_a_request_counts_from_before_its_body_is_read(
    fake: Fake, make_key: MakeKey, start_herd: StartHerd
) -> None:
    key = make_key("one", at_once=1, requests_per_minute=3)
    herd = await start_herd()
    herd.key = key
    more = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b'{"messages": [{"role": "user", '
        await more.wait()
        yield b'"content": "hi"}]}'

    slow = asyncio.create_task(herd.post(CHAT, raw=body()))
    await until(lambda: herd.service.quotas._running)
    assert (await herd.chat("me too")).status == 429  # the other holds the place while it sends
    more.set()
    assert (await slow).status == 200
    assert (await herd.post(CHAT, raw=b"{")).status == 400
    assert (await herd.chat("hi")).headers["x-ratelimit-remaining-requests"] == "0"  # a mistake counts, a 429 does not


@pytest.mark.parametrize("path", ["/status", "/admin/events", "/admin/models/alpha/logs?follow=true"])
async def test_feeds_end_with_their_key(
    stage: Stage, fake: Fake, make_key: MakeKey, start_herd: StartHerd, path: str
) -> None:
    key, other = make_key("goes"), make_key("stays")
    herd = await start_herd()
    async with herd.open("GET", path, key=key) as ended, herd.open("GET", path, key=other) as goes_on:
        assert ended.status == goes_on.status == 200
        outside(lambda: KeyStore(stage.keys_file).revoke("goes"))
        await asyncio.to_thread(herd.service.keys.load)
        await herd.post("/loadModel", {"model": "alpha"}, key=other)  # something to tell
        async with asyncio.timeout(5):
            assert "ready" not in (await ended.content.read()).decode()
        assert not goes_on.content.at_eof()


async def test_requests_at_once_are_limited_and_a_stream_counts_until_its_end(
    fake: Fake, make_key: MakeKey, start_herd: StartHerd
) -> None:
    fake.hold_streams()
    key = make_key("one", at_once=1)
    herd = await start_herd()
    herd.key = key
    async with herd.stream("hi") as events:
        assert await events.next()
        answer = await herd.chat("me too")
        assert (answer.status, answer.error["code"]) == (429, "rate_limit_exceeded")
        assert int(answer.headers["Retry-After"]) >= 1
        fake.release_streams()
        while await events.next():
            pass
    assert (await herd.chat("now")).status == 200


async def test_a_client_that_leaves_gives_its_place_back(fake: Fake, make_key: MakeKey, start_herd: StartHerd) -> None:
    fake.hold_streams()
    key = make_key("one", at_once=1)
    herd = await start_herd()
    herd.key = key
    async with herd.stream("hi") as events:
        assert await events.next()
    await until(lambda: not herd.service.inflight)
    fake.release_streams()
    assert (await herd.chat("next")).status == 200


async def test_limits_are_told_on_answers_streams_and_refusals(
    fake: Fake, make_key: MakeKey, start_herd: StartHerd
) -> None:
    key = make_key("few", requests_per_minute=3, tokens_per_day=1000)
    herd = await start_herd()
    herd.key = key
    answer = await herd.chat("hi")
    assert answer.headers["x-ratelimit-limit-requests"] == "3"
    assert answer.headers["x-ratelimit-remaining-requests"] == "2"
    assert answer.headers["x-ratelimit-limit-tokens"] == "1000"
    async with herd.open("POST", CHAT, said("hi", stream=True)) as response:
        await response.read()
        assert response.headers["x-ratelimit-remaining-requests"] == "1"
        assert 0 < int(response.headers["x-ratelimit-remaining-tokens"]) < 1000  # the first answer's are gone
    assert (await herd.chat("hi")).status == 200
    refused = await herd.chat("hi")
    assert (refused.status, refused.error["type"], refused.error["code"]) == (
        429,
        "rate_limit_error",
        "rate_limit_exceeded",
    )
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    assert (await herd.get("/v1/models")).status == 200  # asking what there is does not count


async def test_tokens_of_the_day_end_with_a_429(fake: Fake, make_key: MakeKey, start_herd: StartHerd) -> None:
    key = make_key("poor", tokens_per_day=1)
    herd = await start_herd()
    herd.key = key
    assert (await herd.chat("hi")).status == 200  # begun within the limit, it is finished
    refused = await herd.chat("hi")
    assert (refused.status, refused.headers["x-ratelimit-remaining-tokens"]) == (429, "0")
    assert int(refused.headers["Retry-After"]) > 0
    assert "token" in refused.error["message"]


async def test_wrong_keys_are_slowed_down_and_right_ones_are_not(
    fake: Fake, make_key: MakeKey, start_herd: StartHerd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guesses, "FIRST_DELAY", 30.0)
    monkeypatch.setattr(guesses, "MOST_DELAY", 30.0)
    key = make_key("k")
    herd = await start_herd()
    for _ in range(guesses.FREE):
        assert (await herd.get("/v1/models", key="sk-lh-wrong")).status == 401
    late = asyncio.create_task(herd.get("/v1/models", key="sk-lh-wrong"))
    sly = asyncio.create_task(herd.get("/health", key="sk-lh-wrong"))  # would tell a right key from a wrong one
    assert (await herd.get("/v1/models", key=key)).status == 200
    assert (await herd.get("/v1/models")).status == 401  # no key is no guess
    done, waiting = await asyncio.wait({late, sly}, timeout=0.1)
    assert not done
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)


async def test_what_administrators_do_is_in_the_audit_log(
    stage: Stage, fake: Fake, make_key: MakeKey, start_herd: StartHerd
) -> None:
    admin, user = make_key("admin"), make_key("user", "inference")
    herd = await start_herd(server={"trusted_proxies": ["127.0.0.1"]})
    await herd.post("/loadModel", {"model": "alpha"}, key=admin, headers={"X-Forwarded-For": "203.0.113.5"})
    await herd.post("/admin/models/alpha/unload?wait=true", key=admin)
    await herd.post("/loadModel", {"model": "alpha"}, key=user)
    for stranger in (None, "sk-lh-wrong"):  # or whoever has no key could fill the log until nothing else is in it
        await herd.post("/loadModel", {"model": "alpha"}, key=stranger)
    await herd.get("/admin/models", key=admin)
    await herd.chat("hi", model="alpha")
    await herd.server.close()
    lines = [json.loads(line) for line in (stage.data / "audit.log").read_text().splitlines()]
    ids = {key.name: key.id for key in herd.service.keys.list()}
    assert [(line["actor"], line["action"], line["target"], line["status"]) for line in lines] == [
        (ids["admin"], "POST /loadModel", "alpha", 200),
        (ids["admin"], "POST /admin/models/{id}/unload", "alpha", 200),
        (ids["user"], "POST /loadModel", None, 403),
    ]
    assert lines[0]["address"] == "203.0.113.5"
    assert admin not in (stage.data / "audit.log").read_text()


async def test_usage_is_told_to_administrators_and_outlives_the_service(
    fake: Fake, make_key: MakeKey, start_herd: StartHerd
) -> None:
    admin, user = make_key("admin"), make_key("user", "inference", tokens_per_day=100_000)
    herd = await start_herd()
    await herd.post(CHAT, said("hi"), key=user)
    async with herd.open("POST", CHAT, said("hi", stream=True), key=user) as response:
        await response.read()
    assert (await herd.post(CHAT, said("hi", model="nobody"), key=user)).status == 404  # never came to a model
    assert (await herd.get("/admin/usage", key=user)).status == 403
    (row,) = (await herd.get("/admin/usage", key=admin)).json["rows"]
    assert (row["name"], row["model"], row["requests"], row["errors"]) == ("user", "alpha", 2, 0)
    assert row["prompt_tokens"] > 0
    assert row["completion_tokens"] > 0
    left = (await herd.post(CHAT, said("hi"), key=user)).headers["x-ratelimit-remaining-tokens"]
    used = (await herd.get("/admin/usage", key=admin)).json["total"]
    await herd.server.close()
    herd = await start_herd()
    assert (await herd.get("/admin/usage", key=admin)).json["total"] == used
    again = (await herd.post(CHAT, said("hi"), key=user)).headers["x-ratelimit-remaining-tokens"]
    used = (await herd.get("/admin/usage", key=admin)).json["total"]
    assert int(again) == 100_000 - used["prompt_tokens"] - used["completion_tokens"] < int(left)
