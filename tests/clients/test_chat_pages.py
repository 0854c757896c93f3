"""What LibreChat and Open WebUI send, as plain requests in their order: neither of them is a library to be run here."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, Final

import aiohttp
import pytest

from tests.e2e.conftest import plain_http
from tests.e2e.service import Service

pytestmark = pytest.mark.timeout(180)

HELLO: Final = {"role": "user", "content": "Name a colour."}
STREAMED: Final = {"stream": True, "stream_options": {"include_usage": True}}
# What Open WebUI says of its user, where it is set up to.
FORWARDED: Final = {
    "X-OpenWebUI-User-Name": "Ann%20Other",
    "X-OpenWebUI-User-Id": "6f1c",
    "X-OpenWebUI-User-Email": "ann@example.org",
    "X-OpenWebUI-User-Role": "user",
    "X-OpenWebUI-Chat-Id": "c1",
}


@pytest.fixture
async def http(service: Service) -> AsyncIterator[aiohttp.ClientSession]:
    async with plain_http(service) as session:
        yield session


async def streamed(answer: aiohttp.ClientResponse) -> tuple[list[str], dict[str, Any]]:
    """The pieces of text of a stream of events, which must end as one, and its usage."""
    assert answer.status == 200
    assert answer.content_type == "text/event-stream"
    lines = (await answer.text()).split("\n\n")
    data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    assert data.pop() == "[DONE]"
    chunks = [json.loads(item) for item in data]
    texts = [choice["delta"].get("content") for chunk in chunks for choice in chunk["choices"]]
    (usage,) = (chunk["usage"] for chunk in chunks if chunk.get("usage"))
    return [text for text in texts if text], usage


async def text_of(answer: aiohttp.ClientResponse) -> str:
    assert answer.status == 200
    return str((await answer.json())["choices"][0]["message"]["content"])


async def freed_when_left(http: aiohttp.ClientSession, service: Service, path: str, body: dict[str, Any]) -> None:
    """Asks `endless`, reads the first piece and closes, as their stop buttons do."""
    async with http.post(path, json={**body, "model": "endless", "messages": [HELLO], "stream": True}) as answer:
        assert await answer.content.readline()
        slots = service.slots("endless")
        assert await asyncio.to_thread(slots.busy) == 1
        answer.close()
    assert await asyncio.to_thread(slots.seconds_until_free) < 10  # its 2000 tokens would take several times as long


async def test_librechat_lists_models_chats_makes_a_title_and_stops(
    http: aiohttp.ClientSession, service: Service
) -> None:
    async with http.get("/v1/models", headers={"Accept": "application/json, text/plain, */*"}) as answer:
        models = [model["id"] for model in (await answer.json())["data"]]
    assert {"smol", "endless"} <= set(models)

    settings = {"temperature": 0, "top_p": 1, "presence_penalty": 0, "frequency_penalty": 0}
    common = {"model": "smol", "user": "65f0c0ffee65f0c0ffee65f0", "max_tokens": 16, **settings}
    said: list[Any] = [
        {"role": "system", "content": "You are kind."},
        {"role": "user", "content": [{"type": "text", "text": "Name a colour."}]},
    ]
    async with http.post("/v1/chat/completions", json={**common, **STREAMED, "messages": said}) as answer:
        pieces, usage = await streamed(answer)
    assert len(pieces) > 3
    assert 3 < usage["completion_tokens"] <= 16

    said += [{"role": "assistant", "content": "".join(pieces)}, {"role": "user", "content": "And another one."}]
    async with http.post("/v1/chat/completions", json={**common, **STREAMED, "messages": said}) as answer:
        assert (await streamed(answer))[1]["prompt_tokens"] > usage["prompt_tokens"]

    ask = {**common, "max_tokens": 60, "messages": [{"role": "user", "content": "Give this talk a title: colours."}]}
    async with http.post("/v1/chat/completions", json=ask) as answer:
        assert await text_of(answer)
    form = {"type": "object", "properties": {"title": {"enum": ["Colours", "Rivers"]}}, "required": ["title"]}
    schema = {"type": "json_schema", "json_schema": {"name": "title", "strict": True, "schema": form}}
    async with http.post("/v1/chat/completions", json={**ask, "response_format": schema}) as answer:
        assert json.loads(await text_of(answer))["title"] in {"Colours", "Rivers"}

    await freed_when_left(http, service, "/v1/chat/completions", {"max_tokens": 2000})


async def test_open_webui_lists_models_chats_does_its_tasks_and_stops(
    http: aiohttp.ClientSession, service: Service
) -> None:
    async with http.get("/v1/models", headers={"Content-Type": "application/json", **FORWARDED}) as answer:
        models = [model["id"] for model in (await answer.json())["data"]]
    assert "smol" in models

    # Its own fields are taken out before it sends a chat, but some have got through in one release or another.
    own = {"chat_id": "c1", "session_id": "s1", "id": "m1", "files": [], "features": {"web_search": False}}
    more = {"metadata": {"chat_id": "c1"}, "background_tasks": {"title_generation": True}, "stream_response": True}
    body = {"model": "smol", "messages": [HELLO], "temperature": 0, "max_tokens": 16, **STREAMED, **own, **more}
    async with http.post("/v1/chat/completions", json=body, headers=FORWARDED) as answer:
        pieces, usage = await streamed(answer)
    assert len(pieces) > 3
    assert 3 < usage["total_tokens"] - usage["prompt_tokens"] <= 16

    for key in ("title", "tags", "follow_ups"):
        asked = {"role": "user", "content": f'Answer in JSON with the key "{key}": what is this talk about? Colours.'}
        task = {"model": "smol", "messages": [asked], "stream": False, "max_completion_tokens": 16}
        async with http.post("/v1/chat/completions", json={**task, "metadata": {"task": key}}) as answer:
            assert await text_of(answer)

    async with http.post("/v1/embeddings", json={"model": "vectors", "input": ["a", "b"]}) as answer:
        assert [item["index"] for item in (await answer.json())["data"]] == [0, 1]

    await freed_when_left(http, service, "/v1/chat/completions", {"max_tokens": 2000})


async def test_open_webui_takes_the_service_for_ollama(http: aiohttp.ClientSession, service: Service) -> None:
    async with http.get("/api/version") as answer:
        assert (await answer.json())["version"]
    async with http.get("/api/tags") as answer:
        models = {model["model"]: model for model in (await answer.json())["models"]}
    assert {"smol", "vectors"} <= {name.removesuffix(":latest") for name in models}
    assert all(model["name"] and model["digest"] and model["size"] for model in models.values())

    body = {"model": "smol:latest", "messages": [HELLO], "stream": True, "keep_alive": "5m"}
    options = {"temperature": 0, "num_predict": 16}
    async with http.post("/api/chat", json={**body, "options": options}, headers=FORWARDED) as answer:
        assert answer.content_type == "application/x-ndjson"
        pieces = [json.loads(line) async for line in answer.content]
    assert [piece["done"] for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert len([piece for piece in pieces if piece["message"]["content"]]) > 3
    assert 3 < pieces[-1]["eval_count"] <= 16

    async with http.get("/api/ps") as answer:
        assert "smol" in {model["model"].removesuffix(":latest") for model in (await answer.json())["models"]}
    async with http.post("/api/embed", json={"model": "vectors", "input": ["a", "b"]}) as answer:
        assert len((await answer.json())["embeddings"]) == 2

    await freed_when_left(http, service, "/api/chat", {"options": {"num_predict": 2000}})


@pytest.mark.parametrize("path", ["/v1/models", "/api/tags"])
async def test_with_a_wrong_key_they_see_why_they_have_no_models(http: aiohttp.ClientSession, path: str) -> None:
    async with http.get(path, headers={"Authorization": "Bearer sk-lh-wrong"}) as answer:
        assert answer.status == 401
        assert "key" in json.dumps(await answer.json())
