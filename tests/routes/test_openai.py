"""The OpenAI routes: their answers' shapes, and that nothing is changed on the way that needs no change."""

from __future__ import annotations

import json
from typing import Any

import pytest

from routes.errors import from_engine
from tests.routes.conftest import StartHerd
from tests.routes.herd import Herd, data_of, said
from tests.routes.stage import CHAT, Fake, Stage

# White space, order of keys, escapes and numbers as no encoder of ours would write them.
ODD = (
    '{ "temperature":0.50,"messages" :[{"content":"caf\\u00e9 \\/ \u00fc","role":"user"}],\n'
    '"made_up":{"b":1,"a":[1e2]}, "max_tokens":  7%s}'
)


async def test_whole_answer_is_the_engines(herd: Herd) -> None:
    answer = await herd.chat("one two three", model="alpha")
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("application/json")
    assert answer.json["object"] == "chat.completion"
    assert answer.json["model"] == "alpha"
    assert answer.text == "one two three"
    assert answer.json["choices"][0]["finish_reason"] == "stop"
    assert answer.json["usage"] == {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
    assert "responses" not in answer.json


@pytest.mark.parametrize("fields", [{}, {"model": None}, {"model": ""}])
async def test_model_may_be_left_out(herd: Herd, fields: dict[str, Any]) -> None:
    answer = await herd.chat("hi", **fields)
    assert (answer.status, answer.json["model"]) == (200, "alpha")


async def test_a_request_without_fields_of_ours_reaches_the_engine_as_it_came(herd: Herd, fake: Fake) -> None:
    raw = (ODD % "").encode()
    answer = await herd.post(CHAT, raw=raw, headers={"X-Conversation-Id": "c", "X-Secret": "s"})
    assert answer.status == 200
    (request,) = fake.requests()
    assert request["headers"]["content-length"] == str(len(raw))
    assert list(request["body"]) == ["temperature", "messages", "made_up", "max_tokens"]
    assert request["body"] == json.loads(raw)
    assert set(request["headers"]) == {"host", "authorization", "content-type", "content-length"}


async def test_the_callers_key_does_not_reach_the_engine(fake: Fake, make_key: Any, start_herd: StartHerd) -> None:
    key = make_key("k")
    herd = await start_herd()
    herd.key = key
    await herd.chat("hi")
    (request,) = fake.requests()
    assert key not in json.dumps(request)


async def test_stream_chunks_arrive_byte_for_byte_as_the_engine_sent_them(herd: Herd, fake: Fake) -> None:
    answer = await herd.post(CHAT, raw=(ODD % ',"stream":true,"stream_options":{"include_usage":true}').encode())
    assert answer.status == 200
    assert answer.body.endswith(b"data: [DONE]\n\n")
    frames = answer.body.split(b"\n\n")[:-2]
    chunks = [data_of(frame) for frame in frames]
    # The fake writes JSON with spaces after commas and colons; we never do.
    assert frames == [b"data: " + json.dumps(chunk).encode() for chunk in chunks]
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks[1:-2]) == (
        "caf\u00e9 / \u00fc"
    )
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks[:-1]][-2:] == [None, "stop"]
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == 3


async def test_each_token_arrives_when_it_is_made(herd: Herd, fake: Fake) -> None:
    fake.hold_streams()
    async with herd.stream("one two three") as events:
        assert await events.token() == "one"  # the fake goes no further
        fake.release_streams()
        assert await events.token() == " two"
        assert (await events.rest())[-1] == b"data: [DONE]\n"
    assert fake.disconnects() == []


async def test_several_choices_come_through(herd: Herd) -> None:
    answer = await herd.chat("hi", n=3)
    assert [choice["index"] for choice in answer.json["choices"]] == [0, 1, 2]


async def test_what_the_engine_refuses_comes_back_as_an_openai_error(stage: Stage, start_herd: StartHerd) -> None:
    stage.model("small", ctx_size=8)
    answer = await (await start_herd()).chat("a b c d e f g h i")
    assert answer.status == 400
    assert answer.error["type"] == "invalid_request_error"
    assert answer.error["code"] == "context_length_exceeded"
    assert "exceeds the available context size" in answer.error["message"]


@pytest.mark.parametrize(
    ("sent", "status", "kind", "code"),
    [
        (400, 400, "invalid_request_error", "invalid_request"),
        (401, 502, "server_error", None),
        (404, 400, "invalid_request_error", "endpoint_not_supported"),
        (422, 400, "invalid_request_error", "invalid_request"),
        (500, 500, "server_error", "generation_failed"),
        (501, 400, "invalid_request_error", "endpoint_not_supported"),
        (503, 503, "server_error", None),
    ],
)
async def test_each_status_of_the_engine_has_one_of_ours(
    herd: Herd, fake: Fake, sent: int, status: int, kind: str, code: str | None
) -> None:
    fake.knobs(error_status=sent)
    for stream in (False, True):
        answer = await herd.chat("hi", stream=stream)
        assert answer.status == status
        assert answer.error["type"] == kind
        assert code is None or answer.error["code"] == code
        assert sent == 401 or "the fake failed" in answer.error["message"]
        assert ("Retry-After" in answer.headers) == (status == 503)


async def test_failed_generation_is_a_500_with_its_description_and_the_service_goes_on(herd: Herd, fake: Fake) -> None:
    fake.knobs(error_status=500, faulty_requests=1)
    answer = await herd.chat("hi")
    assert answer.status == 500
    assert answer.error == {
        "message": "the fake failed",
        "type": "server_error",
        "param": None,
        "code": "generation_failed",
    }
    assert (await herd.chat("hi")).text == "hi"
    assert len(fake.starts()) == 1


async def test_a_base_model_does_not_chat_but_completes(stage: Stage, start_herd: StartHerd) -> None:
    fake = stage.model("base", params={"instruct": False})
    herd = await start_herd()
    answer = await herd.chat("hi")
    assert answer.status == 400
    assert (answer.error["code"], answer.error["param"]) == ("endpoint_not_supported", "model")
    assert fake.starts() == []
    assert (await herd.post("/v1/completions", {"prompt": "hi"})).status == 200


async def test_completions_are_the_engines(herd: Herd, fake: Fake) -> None:
    answer = await herd.post("/v1/completions", {"prompt": "one two", "model": "alpha"})
    assert (answer.status, answer.json["object"]) == (200, "text_completion")
    assert answer.json["choices"][0]["text"] == "one two"
    streamed = await herd.post("/v1/completions", {"prompt": "one two", "stream": True})
    assert streamed.headers["Content-Type"].startswith("text/event-stream")
    assert streamed.body.endswith(b"data: [DONE]\n\n")


async def test_tokens_and_prompts_are_the_engines(herd: Herd, fake: Fake) -> None:
    assert (await herd.post("/tokenize", {"content": "a b c"})).json == {"tokens": [0, 1, 2]}
    assert (await herd.post("/apply-template", said("hi"))).json == {"prompt": "<|user|> hi <|assistant|>"}
    assert fake.requests("/tokenize")[0]["body"] == {"content": "a b c"}
    refused = await herd.post("/detokenize", {"tokens": [1]})  # the fake has no such route
    assert (refused.status, refused.error["code"]) == (400, "endpoint_not_supported")


async def test_embeddings_are_the_engines(stage: Stage, start_herd: StartHerd) -> None:
    fake = stage.model("vectors", params={"embedding": True})
    body = {"model": "vectors", "input": ["one two", [1, 2, 3]], "encoding_format": "float", "user": "u"}
    answer = await (await start_herd()).post("/v1/embeddings", body)
    assert (answer.status, answer.json["object"], answer.json["model"]) == (200, "list", "vectors")
    assert [(one["index"], one["embedding"]) for one in answer.json["data"]] == [(0, [2.0]), (1, [3.0])]
    assert answer.json["usage"] == {"prompt_tokens": 5, "total_tokens": 5}
    assert fake.requests("/v1/embeddings")[0]["body"] == body


async def test_a_chat_model_makes_no_embeddings_and_is_not_loaded_for_it(herd: Herd, fake: Fake) -> None:
    answer = await herd.post("/v1/embeddings", {"input": "a"})
    assert answer.status == 400
    assert (answer.error["code"], answer.error["param"]) == ("endpoint_not_supported", "model")
    assert fake.starts() == []


async def test_an_engine_that_makes_no_embeddings_says_so_itself(stage: Stage, start_herd: StartHerd) -> None:
    stage.model("maybe", params={"extra_args": ["--no-warmup"]})
    answer = await (await start_herd()).post("/v1/embeddings", {"input": "a"})
    assert (answer.status, answer.error["code"]) == (400, "endpoint_not_supported")
    assert "does not support embeddings" in answer.error["message"]


async def test_alias_and_personality_in_the_id_lead_to_the_model(stage: Stage, start_herd: StartHerd) -> None:
    fake = stage.model("beta", aliases=["b"], personalities={"poet": "Rhyme."})
    herd = await start_herd()
    for name in ("beta", "b", "beta:poet", "b:poet"):
        assert (await herd.chat("hi", model=name)).json["model"] == "beta"
    assert len(fake.starts()) == 1


TOO_BIG = 2**31
BAD_FIELDS: dict[str, tuple[str, list[Any]]] = {
    "/v1/completions": (
        "prompt",
        [None, 5, True, [], [None], [1.5], [-1], [TOO_BIG], [True], [["a", None]], [[[1]]], ["a", [-1]]],
    ),
    "/tokenize": ("content", [None, 5, {}, [None], [-1], ["a", 1.5], [["a"]]]),
    "/v1/embeddings": ("input", [None, 5, True, {}, [], [None], [1.5], [-1], [TOO_BIG], [[]], [[1], []], [1, "a"]]),
    "/detokenize": ("tokens", [None, 5, "1", {}, ["1"], [1.5], [-1], [True], [1, None], [TOO_BIG]]),
}


@pytest.mark.parametrize(
    ("path", "field", "value"),
    [(path, field, value) for path, (field, values) in BAD_FIELDS.items() for value in values],
)
async def test_what_the_engine_would_stumble_over_is_a_400_that_names_the_field(
    herd: Herd, fake: Fake, path: str, field: str, value: Any
) -> None:
    answer = await herd.post(path, {field: value})
    assert (answer.status, answer.error["param"]) == (400, field)
    assert answer.error["message"].startswith(f"'{field}' must be ")
    assert fake.starts() == []


@pytest.mark.parametrize("path", BAD_FIELDS)
async def test_the_field_that_a_route_is_about_must_be_there(herd: Herd, fake: Fake, path: str) -> None:
    answer = await herd.post(path, {"model": "alpha"})
    assert (answer.status, answer.error["param"]) == (400, BAD_FIELDS[path][0])
    assert fake.starts() == []


PROMPTS: list[Any] = ["a", "", ["a", "b"], [1, 2], [[1, 2], [3]], [1, "a"], ["a", [1]], {"prompt_string": "a"}]


@pytest.mark.parametrize(
    ("path", "field", "value"),
    [
        *(("/v1/completions", "prompt", value) for value in PROMPTS),
        *(("/tokenize", "content", value) for value in ("", [], [1, "a"], ["a"])),
        *(("/detokenize", "tokens", value) for value in ([], [0], [1, TOO_BIG - 1])),
    ],
)
async def test_all_forms_that_the_engine_knows_reach_it(
    herd: Herd, fake: Fake, path: str, field: str, value: Any
) -> None:
    await herd.post(path, {field: value})
    assert fake.requests(path)[0]["body"] == {field: value}


@pytest.mark.parametrize("value", ["a", "", ["a", "b"], [1, 2], [[1, 2], [3]], ["a", [1]]])
async def test_all_forms_of_input_reach_the_engine(stage: Stage, start_herd: StartHerd, value: Any) -> None:
    fake = stage.model("vectors", params={"embedding": True})
    await (await start_herd()).post("/v1/embeddings", {"input": value})
    assert fake.requests("/v1/embeddings")[0]["body"] == {"input": value}


@pytest.mark.parametrize(
    ("path", "field"), [("/tokenize", "content"), ("/detokenize", "tokens"), ("/v1/completions", "prompt")]
)
def test_token_ids_that_the_model_does_not_know_are_the_clients_mistake(path: str, field: str) -> None:
    message = "vector::_M_range_check: __n (which is 999999) >= this->size() (which is 49152)"
    body = json.dumps({"error": {"code": 500, "message": message, "type": "server_error"}}).encode()
    error = from_engine(500, body, "alpha", path)
    assert (error.status, error.param) == (400, field)
    assert "_M_range_check" not in error.message
    assert from_engine(500, body, "alpha", CHAT).status == 500


@pytest.mark.parametrize(
    ("said_by_engine", "told"),
    [
        ("failed to open /srv/models/deep er/x.gguf", "failed to open deep er/x.gguf"),
        ("'/home/me/x.gguf' and \"/a/b.c\"", "'x.gguf' and \"b.c\""),
        ("/build/src/ggml.c:12: GGML_ASSERT(a/b)", "ggml.c:12: GGML_ASSERT(a/b)"),
        ("see https://example.org/a/b/c", "see https://example.org/a/b/c"),
        ("either/or, 1/2/3, n/a, a / b / c", "either/or, 1/2/3, n/a, a / b / c"),
    ],
)
def test_what_engines_say_names_no_folder(said_by_engine: str, told: str) -> None:
    body = json.dumps({"error": {"message": said_by_engine}}).encode()
    for status in (400, 404, 500, 503):
        message = from_engine(status, body, "alpha").message
        assert message.endswith(told)
        assert "/home/" not in message
