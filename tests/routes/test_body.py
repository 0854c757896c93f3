"""Bodies that are refused: with the place of the mistake, and before anything is loaded or reaches an engine."""

from __future__ import annotations

import asyncio
import gzip
import json
import random
from contextlib import suppress
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from manager.errors import InvalidRequest
from routes.body import FIELDS, check_fields, parse_object, wanted_context
from routes.legacy_functions import calls_to_tool_calls, functions_to_tools
from routes.messages import ROLES, check_messages, check_tools, settle_said
from tests.routes.conftest import StartHerd
from tests.routes.herd import Answer, Herd, said
from tests.routes.stage import CHAT, EMPTY_GGUF, Fake, Stage

BODY_ROUTES = [
    "/chat/completions",
    CHAT,
    "/v1/completions",
    "/tokenize",
    "/detokenize",
    "/apply-template",
    "/loadModel",
]
PLAIN = {"/loadModel"}


def message_of(answer: Answer, path: str) -> str:
    """The error's text, after a look at its shape: `{"error": "text"}` on the routes of the original."""
    assert list(answer.json) == ["error"]
    if path in PLAIN:
        assert isinstance(answer.error, str)
        return answer.error
    assert answer.error["type"] == "invalid_request_error"
    return str(answer.error["message"])


@pytest.mark.parametrize("path", BODY_ROUTES)
async def test_invalid_json_is_a_400_with_line_and_column(herd: Herd, fake: Fake, path: str) -> None:
    answer = await herd.post(path, raw=b'{"model": "alpha",\n "messages": [}')
    assert answer.status == 400
    message = message_of(answer, path)
    assert "not valid JSON" in message
    assert "line 2, column 15" in message
    assert fake.starts() == []


@pytest.mark.parametrize("path", BODY_ROUTES)
@pytest.mark.parametrize("raw", [b"[]", b'"text"', b"1", b"null", b"true"])
async def test_a_body_that_is_no_object_is_a_400(herd: Herd, fake: Fake, path: str, raw: bytes) -> None:
    answer = await herd.post(path, raw=raw)
    assert answer.status == 400
    assert message_of(answer, path) == "The body must be a JSON object."
    assert fake.starts() == []


@pytest.mark.parametrize("path", BODY_ROUTES)
async def test_an_empty_body_is_a_400(herd: Herd, fake: Fake, path: str) -> None:
    answer = await herd.post(path)
    assert answer.status == 400
    assert "no body" in message_of(answer, path)
    assert fake.starts() == []


@pytest.mark.parametrize(
    "raw", [b"\xff\xfe{}", b'{"model": "\xff"}', b'{"a": NaN}', b'{"a": "\\ud800"}', b"{} {}", b"[" * 2000]
)
async def test_what_only_looks_like_json_is_a_400(herd: Herd, raw: bytes) -> None:
    answer = await herd.post(CHAT, raw=raw)
    assert answer.status == 400
    assert "not valid JSON" in answer.error["message"]


@pytest.mark.parametrize("path", BODY_ROUTES)
async def test_a_body_over_the_limit_is_a_413_and_one_under_it_is_not(
    fake: Fake, start_herd: StartHerd, path: str
) -> None:
    herd = await start_herd(server={"max_body": 2048})
    answer = await herd.post(path, raw=b'{"model": "' + b"x" * 2048 + b'"}')
    assert answer.status == 413
    if path not in PLAIN:
        assert answer.error["code"] == "body_too_large"
    assert "server.max_body" in message_of(answer, path)
    assert (await herd.post(path, raw=b'{"model": 1, "x": "' + b"x" * 1024 + b'"}')).status == 400
    assert fake.starts() == []


async def test_the_limit_holds_for_bodies_that_do_not_tell_their_length(fake: Fake, start_herd: StartHerd) -> None:
    herd = await start_herd(server={"max_body": 2048})

    async def chunks() -> Any:
        for _ in range(4):
            yield b" " * 1024

    async with herd.session.post(herd.server.make_url(CHAT), data=chunks()) as response:
        assert response.status == 413


WRONG: list[tuple[str, Any]] = [
    ("model", 5),
    ("model", ["alpha"]),
    ("personality", 5),
    ("stream", "true"),
    ("stream", 1),
    ("stream_options", True),
    ("max_tokens", "10"),
    ("max_tokens", 1.5),
    ("max_tokens", True),
    ("max_tokens", -2),
    ("max_tokens", 2**31),
    ("max_completion_tokens", 2**32 + 2),
    ("n_predict", 2**31),
    ("top_k", 2**31),
    ("repeat_last_n", 2**20 + 1),
    ("repeat_last_n", -2),
    ("dry_penalty_last_n", 2**28),
    ("max_completion_tokens", "10"),
    ("n_predict", "10"),
    ("n_predict", -2),
    ("temperature", "hot"),
    ("temperature", -0.1),
    ("temperature", True),
    ("top_p", 1.1),
    ("top_k", 0.5),
    ("min_p", -1),
    ("typical_p", 2),
    ("repeat_penalty", -1),
    ("presence_penalty", 2.1),
    ("frequency_penalty", -2.1),
    ("seed", "1"),
    ("stop", 5),
    ("stop", ["a", 5]),
    ("n", 0),
    ("n", "2"),
    ("logprobs", "yes"),
    ("top_logprobs", 21),
    ("logit_bias", "x"),
    ("response_format", "json"),
    ("tools", {}),
    ("tool_choice", 5),
    ("ctx", 0),
    ("ctx", "100"),
    ("context_window", -5),
    ("n_ctx", 1.5),
]


@pytest.mark.parametrize(("field", "value"), WRONG)
async def test_a_field_of_a_wrong_type_or_out_of_range_is_a_400_that_names_it(
    herd: Herd, fake: Fake, field: str, value: Any
) -> None:
    answer = await herd.chat("hi", **{field: value})
    assert answer.status == 400
    assert answer.error["param"] == field
    assert answer.error["code"] == "invalid_request"
    assert answer.error["message"].startswith(f"'{field}' must be ")
    assert fake.starts() == []


async def test_a_field_that_is_null_counts_as_left_out(herd: Herd) -> None:
    fields = sorted({field for field, _ in WRONG})
    for field in fields:
        assert (await herd.chat("hi", **{field: None})).status == 200, field
    assert (await herd.chat("hi", **dict.fromkeys(fields))).status == 200


async def test_unknown_fields_are_the_engines_to_judge(herd: Herd, fake: Fake) -> None:
    assert (await herd.chat("hi", mirostat=2, made_up={"a": [1]})).status == 200
    assert fake.requests()[0]["body"]["made_up"] == {"a": [1]}


USER = {"role": "user", "content": "hi"}
BAD_MESSAGES: list[tuple[Any, str]] = [
    (None, "messages"),
    ([], "messages"),
    ("hi", "messages"),
    ({"role": "user", "content": "hi"}, "messages"),
    (["hi"], "messages[0]"),
    ([USER, None], "messages[1]"),
    ([{"content": "hi"}], "messages[0].role"),
    ([{"role": "robot", "content": "hi"}], "messages[0].role"),
    ([{"role": 5, "content": "hi"}], "messages[0].role"),
    ([{"role": ["user"], "content": "hi"}], "messages[0].role"),
    ([USER, {"role": "user"}], "messages[1].content"),
    ([{"role": "system", "content": None}], "messages[0].content"),
    ([{"role": "user", "content": 5}], "messages[0].content"),
    ([{"role": "user", "content": {"type": "text", "text": "hi"}}], "messages[0].content"),
    ([{"role": "user", "content": ["hi"]}], "messages[0].content[0]"),
    ([{"role": "user", "content": [{"text": "hi"}]}], "messages[0].content[0]"),
    ([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text"}]}], "messages[0].content[1].text"),
    ([{"role": "user", "content": [{"type": "text", "text": 5}]}], "messages[0].content[0].text"),
]


@pytest.mark.parametrize(("messages", "param"), BAD_MESSAGES)
@pytest.mark.parametrize("path", [CHAT, "/chat/completions"])
async def test_messages_that_are_missing_or_malformed_are_a_400_that_names_the_place(
    herd: Herd, fake: Fake, path: str, messages: Any, param: str
) -> None:
    answer = await herd.post(path, {"messages": messages})
    assert answer.status == 400
    assert answer.error["param"] == param
    assert fake.starts() == []


async def test_messages_that_are_not_there_at_all_are_a_400(herd: Herd) -> None:
    answer = await herd.post(CHAT, {"model": "alpha"})
    assert (answer.status, answer.error["param"]) == (400, "messages")


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgoAAAANSUhEUg=="}}


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "input_video", "video_url"])
@pytest.mark.parametrize("path", [CHAT, "/chat/completions", "/apply-template"])
async def test_a_model_without_projector_refuses_what_is_no_text_and_names_the_part(
    herd: Herd, fake: Fake, path: str, kind: str
) -> None:
    parts = [{"type": "text", "text": "what is this?"}, {"type": kind}]
    answer = await herd.post(path, {"messages": [USER, {"role": "user", "content": parts}]})
    assert (answer.status, answer.error["code"]) == (400, "invalid_request")
    assert answer.error["param"] == "messages[1].content[1]"
    assert kind in answer.error["message"]
    assert fake.starts() == []


async def test_a_model_with_projector_gets_images(stage: Stage, start_herd: StartHerd) -> None:
    (stage.data / "models" / "eye.gguf").write_bytes(EMPTY_GGUF)
    stage.model("seeing", params={"mmproj": "eye.gguf"})
    herd = await start_herd()
    messages = [{"role": "user", "content": [IMAGE, {"type": "text", "text": "hi"}]}]
    answer = await herd.post(CHAT, {"messages": messages})
    assert (answer.status, answer.echo) == (200, messages)


FUNCTION = {"type": "function", "function": {"name": "f"}}


@pytest.mark.parametrize(
    ("tools", "where"),
    [
        (["f"], "tools[0]"),
        ([FUNCTION, None], "tools[1]"),
        ([{"function": {"name": "f"}}], "tools[0]"),
        ([{"type": "retrieval"}], "tools[0]"),
        ([{"type": "function"}], "tools[0].function"),
        ([{"type": "function", "function": "f"}], "tools[0].function"),
        ([FUNCTION, {"type": "function", "function": {"name": 5}}], "tools[1].function"),
    ],
)
async def test_a_malformed_tool_is_a_400_that_names_it(herd: Herd, fake: Fake, tools: Any, where: str) -> None:
    answer = await herd.chat("hi", tools=tools)
    assert (answer.status, answer.error["param"]) == (400, where)
    assert fake.starts() == []


async def test_tools_in_form_pass(herd: Herd, fake: Fake) -> None:
    for tools in ([], [FUNCTION]):
        assert (await herd.chat("hi", tools=tools)).status == 200
    assert [request["body"]["tools"] for request in fake.requests()] == [[], [FUNCTION]]


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@pytest.mark.parametrize("path", BODY_ROUTES)
async def test_a_body_that_is_not_in_its_encoding_is_a_400(
    herd: Herd, fake: Fake, path: str, encoding: str, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await herd.post(path, raw=b"\xff\x00 no such thing", headers={"Content-Encoding": encoding})
    assert answer.status == 400
    assert "Content-Encoding" in message_of(answer, path)
    assert (await herd.get("/ping")).status == 200
    assert not [record for record in caplog.records if record.exc_info]
    assert fake.starts() == []


async def test_a_compressed_body_is_read(herd: Herd) -> None:
    raw = gzip.compress(json.dumps(said("hi")).encode())
    assert (await herd.post(CHAT, raw=raw, headers={"Content-Encoding": "gzip"})).text == "hi"


async def test_messages_of_every_role_and_kind_pass(herd: Herd) -> None:
    messages = [
        {"role": "developer", "content": "hi"},
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "assistant"},
        {"role": "user", "content": []},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "hi"}]},
    ]
    for message in messages:
        answer = await herd.post(CHAT, {"messages": [message, USER]})
        assert answer.status == 200, message
        assert answer.echo == [message, USER]


CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
CALLED = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "1", "content": "hi"}


def calling(**changes: Any) -> dict[str, Any]:
    return {**CALLED, "tool_calls": [CALL, {**CALL, **changes}]}


@pytest.mark.parametrize(
    ("messages", "where"),
    [
        ([RESULT], "messages[0].tool_call_id"),
        ([USER, RESULT], "messages[1].tool_call_id"),
        ([CALLED, {"role": "tool", "content": "hi"}], "messages[1].tool_call_id"),
        ([CALLED, {**RESULT, "tool_call_id": 1}], "messages[1].tool_call_id"),
        ([CALLED, {**RESULT, "tool_call_id": "2"}], "messages[1].tool_call_id"),
        ([CALLED, RESULT, RESULT], "messages[2].tool_call_id"),
        ([CALLED, USER, RESULT], "messages[2].tool_call_id"),
        ([{"role": "function", "content": "hi"}], "messages[0].name"),
        ([{**USER, "name": 5}], "messages[0].name"),
        ([{"role": "assistant", "content": "a", "reasoning_content": ["b"]}], "messages[0].reasoning_content"),
        ([{"role": "assistant", "tool_calls": {}}], "messages[0].tool_calls"),
        ([{"role": "assistant", "tool_calls": ["f"]}], "messages[0].tool_calls[0]"),
        ([calling(id=None)], "messages[0].tool_calls[1]"),
        ([calling(function=None)], "messages[0].tool_calls[1].function"),
        ([calling(function={"arguments": "{}"})], "messages[0].tool_calls[1].function"),
        ([calling(function={"name": "f"})], "messages[0].tool_calls[1].function.arguments"),
        ([calling(function={"name": "f", "arguments": []})], "messages[0].tool_calls[1].function.arguments"),
        ([calling(function={"name": "f", "arguments": "not json"})], "messages[0].tool_calls[1].function.arguments"),
        ([calling(function={"name": "f", "arguments": "{"})], "messages[0].tool_calls[1].function.arguments"),
        (
            [{"role": "assistant", "function_call": {"name": "f", "arguments": "not json"}}],
            "messages[0].function_call.arguments",
        ),
        ([{"role": "assistant", "content": None, "function_call": "f"}], "messages[0].function_call"),
    ],
)
async def test_calls_and_results_that_do_not_belong_together_are_a_400_that_names_the_message(
    herd: Herd, fake: Fake, messages: list[Any], where: str
) -> None:
    answer = await herd.post(CHAT, {"messages": messages})
    assert (answer.status, answer.error["param"]) == (400, where)
    assert where.split(".")[0] in answer.error["message"]
    assert fake.starts() == []


async def test_results_of_calls_pass_in_any_order_and_with_ids_of_earlier_turns(herd: Herd) -> None:
    other = {**CALL, "id": "2", "function": {"name": "g", "arguments": {"a": 1}}}
    both = {**CALLED, "tool_calls": [CALL, other], "reasoning_content": "Both.", "name": None}
    twice = {**CALLED, "tool_calls": [CALL, CALL]}
    for messages in (
        [USER, both, {**RESULT, "tool_call_id": "2"}, RESULT, {"role": "assistant", "content": "a"}],
        [USER, CALLED, RESULT, CALLED, RESULT, USER, CALLED, RESULT],
        [USER, CALLED, {**CALLED, "tool_calls": [other]}, RESULT, {**RESULT, "tool_call_id": "2"}],
        [USER, twice, RESULT, RESULT],
        [USER, CALLED, USER],
    ):
        answer = await herd.post(CHAT, {"messages": messages})
        assert (answer.status, answer.echo) == (200, messages)


async def test_a_refusal_of_the_assistant_is_text_to_the_engine(herd: Herd) -> None:
    said_no = {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}
    answer = await herd.post(CHAT, {"messages": [said_no, USER]})
    assert answer.echo == [{"role": "assistant", "content": [{"type": "text", "text": "No."}]}, USER]
    wrong = {"role": "assistant", "content": [{"type": "refusal"}]}
    refused = await herd.post(CHAT, {"messages": [wrong]})
    assert (refused.status, refused.error["param"]) == (400, "messages[0].content[0].refusal")


@pytest.mark.parametrize("fields", [{"ctx": 100}, {"personality": "pirate"}])
@pytest.mark.parametrize("field", ["chat_template_kwargs", "metadata"])
async def test_what_is_nested_too_deeply_to_be_changed_is_a_400(
    herd: Herd, fake: Fake, fields: dict[str, Any], field: str
) -> None:
    deep: dict[str, Any] = {}
    for _ in range(400):
        deep = {"a": deep}
    answer = await herd.chat("hi", **{field: deep}, **fields)
    assert (answer.status, answer.error["code"]) == (400, "invalid_request")
    assert answer.error["message"] == "The body is nested too deeply."
    assert fake.requests() == []


async def test_unknown_model_is_a_404_with_the_nearest_name(herd: Herd, fake: Fake) -> None:
    for path in (CHAT, "/v1/completions", "/tokenize", "/apply-template"):
        answer = await herd.post(path, said("hi", model="alpah"))
        assert answer.status == 404
        assert answer.error["type"] == "not_found_error"
        assert answer.error["code"] == "model_not_found"
        assert "alpah" in answer.error["message"]
        assert answer.error["message"].endswith("did you mean alpha?")
    assert fake.starts() == []


@pytest.mark.parametrize(("field", "value"), [("personality", "pirat"), ("model", "alpha:pirat")])
async def test_unknown_personality_is_a_404_with_the_nearest_name_before_anything_is_loaded(
    herd: Herd, fake: Fake, field: str, value: str
) -> None:
    answer = await herd.chat("hi", **{field: value})
    assert answer.status == 404
    assert answer.error["param"] == field
    assert "pirate" in answer.error["message"]
    assert fake.starts() == []


async def test_a_refused_request_never_reaches_a_running_engine(herd: Herd, fake: Fake) -> None:
    assert (await herd.chat("hi")).status == 200
    refused: tuple[dict[str, Any], ...] = (
        {"messages": []},
        said("hi", temperature="hot"),
        said("hi", model="nobody"),
        said("hi", personality="x"),
    )
    for body in refused:
        assert (await herd.post(CHAT, body)).status in {400, 404}
    assert len(fake.requests()) == 1


# Bodies that come slowly


async def slow_body(pause: float, *parts: bytes) -> Any:
    for part in parts:
        yield part
        await asyncio.sleep(pause)


@pytest.mark.parametrize("path", BODY_ROUTES)
async def test_a_body_that_comes_too_slowly_is_a_408_and_ends_the_connection(
    fake: Fake, start_herd: StartHerd, path: str
) -> None:
    herd = await start_herd(server={"body_timeout": 0.05})
    async with herd.session.post(herd.server.make_url(path), data=slow_body(5.0, b"{")) as response:
        assert response.status == 408
        assert response.headers["Connection"] == "close"
        error = (await response.json())["error"]
        assert path in PLAIN or error["code"] == "request_timeout"
    assert fake.starts() == []


async def test_each_part_of_a_body_that_came_gives_the_rest_more_time(fake: Fake, start_herd: StartHerd) -> None:
    herd = await start_herd(server={"body_timeout": 0.05})
    raw = json.dumps(said("hi", user="x" * 4096)).encode()
    async with herd.session.post(herd.server.make_url(CHAT), data=slow_body(0.2, raw[:4096], raw[4096:])) as response:
        assert response.status == 200


async def test_a_body_that_comes_in_parts_is_read_as_one(herd: Herd) -> None:
    raw = json.dumps(said("hi")).encode()
    parts = (bytes([byte]) for byte in raw)
    async with herd.session.post(herd.server.make_url(CHAT), data=slow_body(0, *parts)) as response:
        assert (await response.json())["choices"][0]["message"]["content"] == "hi"


# Whatever comes, it passes or it is an error of the caller's

FEW: Final = examples(derandomize=True, database=None, deadline=None, max_examples=100)
SCALARS: Final = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
ANYTHING: Final = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
PARTS: Final = ("role", "content", "type", "text", "refusal", "name", "reasoning_content", "function", "function_call")
CALLS: Final = ("tool_calls", "tool_call_id", "id", "arguments", "messages")
NAMES: Final = st.sampled_from([*PARTS, *CALLS, *FIELDS])
VALUES: Final = st.sampled_from([*sorted(ROLES), "text", "refusal", "function", "image_url", "1"]) | ANYTHING
NEARLY: Final = st.recursive(
    VALUES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=5),
    max_leaves=20,
)


def read_all(body: dict[str, Any]) -> None:
    """What the routes do with a body before a model sees it."""
    for media in (True, False):
        messages = check_messages(body, media=media)
    calls_to_tool_calls(messages)
    settle_said(messages)
    functions_to_tools(body)
    check_fields(body)
    wanted_context(body)
    if body.get("tools") is not None:
        check_tools(body["tools"])


def passes_or_is_refused(body: dict[str, Any]) -> None:
    """Fails with any exception but an error of the caller's."""
    with suppress(InvalidRequest):
        read_all(body)


@FEW
@given(st.dictionaries(st.sampled_from([*FIELDS, "messages"]) | st.text(max_size=8), ANYTHING, max_size=6))
def test_any_value_of_any_field_passes_or_is_refused(body: dict[str, Any]) -> None:
    passes_or_is_refused(body)


@FEW
@given(st.lists(st.dictionaries(NAMES, NEARLY, max_size=5) | NEARLY, min_size=1, max_size=4))
def test_any_messages_pass_or_are_refused(messages: list[Any]) -> None:
    passes_or_is_refused({"messages": messages})


@FEW
@given(st.lists(st.dictionaries(NAMES, NEARLY, max_size=5) | NEARLY, max_size=4))
def test_any_tools_pass_or_are_refused(tools: list[Any]) -> None:
    passes_or_is_refused({"messages": [USER], "tools": tools})


@FEW
@given(st.binary(max_size=64) | NEARLY.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_an_object_or_refused(raw: bytes) -> None:
    with suppress(InvalidRequest):
        passes_or_is_refused(parse_object(raw))


async def test_any_bytes_sent_to_any_route_are_refused(herd: Herd, fake: Fake) -> None:
    chance = random.Random(5)
    for path in BODY_ROUTES:
        for size in range(1, 40):
            raw = chance.randbytes(size)
            assert (await herd.post(path, raw=raw)).status == 400, raw
    assert fake.starts() == []
