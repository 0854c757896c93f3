"""The routes that few models can answer, against real llama.cpp: ranking, gaps, legacy functions, the engine's own."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import pytest

from tests.e2e.counting import post
from tests.e2e.service import Service

pytestmark = pytest.mark.timeout(180)

ANIMALS = ["a cat", "dog", "fish", "a cat"]
CODE = {"input_prefix": "def f(", "input_suffix": "return 1", "n_predict": 4, "grammar": "root ::= [a-z]+"}


async def refused(http: aiohttp.ClientSession, path: str, **body: Any) -> Any:
    async with http.post(path, json=body) as answer:
        assert answer.status == 400, await answer.text()
        return (await answer.json())["error"]


async def test_documents_are_ranked_by_their_scores(http: aiohttp.ClientSession) -> None:
    asked = {"model": "ranker", "query": "cat", "documents": ANIMALS}
    ranking = await post(http, "/v1/rerank", **asked, return_documents=True)
    scores = {one["index"]: one["relevance_score"] for one in ranking["results"]}
    assert [one["relevance_score"] for one in ranking["results"]] == sorted(scores.values(), reverse=True)
    assert scores.keys() == {0, 1, 2, 3}
    assert scores[0] == scores[3] != scores[1]
    assert all(one["document"]["text"] == ANIMALS[one["index"]] for one in ranking["results"])
    assert ranking["model"] == "ranker"
    assert ranking["usage"]["prompt_tokens"] == sum(len(text.replace(" ", "")) for text in ANIMALS) + 4 * (3 + 2)
    best = await post(http, "/rerank", **asked, top_n=1)
    assert best["results"] == [{"index": scores_best(scores), "relevance_score": max(scores.values())}]
    texts = await post(http, "/v1/reranking", model="ranker", query="cat", texts=["dog", "fish"], return_text=True)
    assert {one["text"]: one["score"] for one in texts} == {"dog": scores[1], "fish": scores[2]}


def scores_best(scores: dict[int, float]) -> int:
    return max(scores, key=lambda index: scores[index])


async def test_a_document_that_is_too_long_is_the_clients_mistake(http: aiohttp.ClientSession) -> None:
    error = await refused(http, "/v1/rerank", model="ranker", query="cat", documents=["a", "b" * 500])
    assert error["code"] == "context_length_exceeded"


async def test_a_gap_is_filled_whole_and_streamed(http: aiohttp.ClientSession) -> None:
    asked = {"model": "filler", **CODE, "seed": 1, "cache_prompt": False, "temperature": 0}
    whole = await post(http, "/infill", **asked, input_extra=[{"text": "x = 1", "filename": None}])
    assert whole["tokens_predicted"] == 4
    assert whole["content"]
    async with http.post("/infill", json={**asked, "stream": True}) as answer:
        assert answer.content_type == "text/event-stream"
        frames = [frame for frame in (await answer.text()).split("\n\n") if frame.startswith("data: ")]
    events = [json.loads(frame.removeprefix("data: ")) for frame in frames]
    assert events[-1]["stop"]
    assert events[-1]["tokens_predicted"] == 4
    assert "".join(event["content"] for event in events) == (await post(http, "/infill", **asked))["content"]


async def test_a_model_without_tokens_for_gaps_says_so_by_its_name(http: aiohttp.ClientSession) -> None:
    for stream in (False, True):
        error = await refused(http, "/infill", model="tiny", **CODE, stream=stream)
        assert error["code"] == "endpoint_not_supported"
        assert "'tiny'" in error["message"]


async def test_calls_and_results_of_functions_are_those_of_tools(http: aiohttp.ClientSession) -> None:
    user = {"role": "user", "content": "How late is it in Rome?"}
    call = {"name": "get_time", "arguments": '{"city": "Rome"}'}
    legacy = [
        {"role": "assistant", "content": None, "function_call": call},
        {"role": "function", "name": "get_time", "content": "noon"},
    ]
    tools = [
        {"role": "assistant", "content": None, "tool_calls": [{"id": "call_1", "type": "function", "function": call}]},
        {"role": "tool", "tool_call_id": "call_1", "content": "noon"},
    ]
    prompts = [
        (await post(http, "/apply-template", model="smol", messages=[user, *messages]))["prompt"]
        for messages in (legacy, tools)
    ]
    assert prompts[0] == prompts[1]
    assert "noon" in prompts[0]


async def test_engines_tell_admins_what_they_are(service: Service, http: aiohttp.ClientSession) -> None:
    async with http.get("/props?model=tiny") as answer:
        props = await answer.json()
    assert props["default_generation_settings"]["n_ctx"]
    assert props["model_path"].startswith("/")
    user = {"Authorization": f"Bearer {service.inference_key}"}
    async with http.get("/props?model=tiny", headers=user) as answer:
        assert await answer.json() == {**props, "model_path": "tiny.gguf"}
    async with http.get("/upstream/tiny/slots?x=1") as answer:
        assert (answer.status, type(await answer.json())) == (200, list)
    async with http.get("/upstream/tiny/nowhere") as answer:
        assert answer.status == 404
    told = await post(http, "/upstream/tiny/tokenize", content="abc")
    assert len(told["tokens"]) == 3
