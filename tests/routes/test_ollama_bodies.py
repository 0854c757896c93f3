"""Ollama's requests as OpenAI's bodies."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from manager.errors import HerdError, InvalidRequest
from routes.body import check_fields, write_object
from routes.messages import check_messages
from routes.ollama.asked import CalledFunction, ChatRequest, EmbedRequest, GenerateRequest, Message, ToolCall
from routes.ollama.bodies import chat_body, completion_body, messages_of, prompt_chat
from routes.parsing import parse
from routes.schema.generation import MOST, MOST_BACK
from tests.counted import Counted
from tests.https_host import PNG

IMAGE = base64.b64encode(PNG).decode()
CALL = {"function": {"name": "weather", "arguments": {"city": "Rome"}}}


def chat(**fields: Any) -> dict[str, Any]:
    """The chat of one message, with these fields of Ollama's beside it; not streamed."""
    body = {"messages": [{"role": "user", "content": "hi"}], "stream": False, **fields}
    return chat_body(parse(ChatRequest, body), "m")


def generate(**fields: Any) -> GenerateRequest:
    return parse(GenerateRequest, {"stream": False, **fields})


def refused(**fields: Any) -> str | None:
    """The field that is named where these are refused."""
    with pytest.raises(InvalidRequest) as refusal:
        chat(**fields)
    assert refusal.value.param is not None
    assert refusal.value.param in refusal.value.message
    return refusal.value.param


def test_a_chat_without_more_asks_for_no_more() -> None:
    assert chat() == {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": False}


@pytest.mark.parametrize("stream", [None, True])
def test_an_answer_is_streamed_where_nobody_says_otherwise(stream: bool | None) -> None:
    body = chat(stream=stream)
    assert (body["stream"], body["stream_options"]) == (True, {"include_usage": True})


def test_options_get_the_names_that_engines_know() -> None:
    options = {"temperature": 0, "top_k": 40.0, "top_p": 0.9, "min_p": 0.1, "typical_p": 1, "repeat_penalty": 1.1}
    more = {"repeat_last_n": 64, "presence_penalty": -1, "frequency_penalty": 1, "seed": 7, "stop": ["a"]}
    mirostat = {"mirostat": 1, "mirostat_tau": 5.0, "mirostat_eta": 0.1}
    body = chat(options={**options, **more, **mirostat, "num_predict": 5})
    assert {name: body.get(name) for name in (*options, *more, *mirostat)} == {**options, **more, **mirostat}
    assert isinstance(body["top_k"], int)
    assert body["max_tokens"] == 5


def test_options_of_loading_and_unknown_ones_are_left_out() -> None:
    assert chat(options={"num_gpu": 99, "num_thread": 4, "use_mmap": True, "made_up": "x"}, keep_alive="5m") == chat()


@pytest.mark.parametrize("number", [-1, -2, 0])
def test_an_answer_without_limit_is_one_of_minus_one(number: int) -> None:
    assert chat(options={"num_predict": number})["max_tokens"] == -1


@pytest.mark.parametrize(
    ("fields", "budget"),
    [
        ({"options": {"num_ctx": 2048}}, 2048),
        ({"options": {"num_ctx": 2048}, "truncate": True}, 2048),
        ({"options": {"num_ctx": 2048}, "truncate": False}, None),
        ({"truncate": True}, MOST),
        ({}, None),
    ],
)
def test_num_ctx_is_a_budget_unless_nothing_may_be_dropped(fields: dict[str, Any], budget: int | None) -> None:
    assert chat(**fields).get("ctx") == budget


@pytest.mark.parametrize(
    ("format", "asked"),
    [
        ("", None),
        ("json", {"type": "json_object"}),
        ({}, {"type": "json_object"}),
        ({"type": "array"}, {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "array"}}}),
    ],
)
def test_format_becomes_a_response_format(format: Any, asked: Any) -> None:
    assert chat(format=format).get("response_format") == asked


@pytest.mark.parametrize(
    ("think", "asked"),
    [
        (None, {}),
        (False, {"reasoning_effort": "none"}),
        (True, {"chat_template_kwargs": {"enable_thinking": True}}),
        ("high", {"chat_template_kwargs": {"enable_thinking": True}, "reasoning_effort": "high"}),
    ],
)
def test_think_says_whether_and_how_much(think: Any, asked: dict[str, Any]) -> None:
    assert chat(think=think) == {**chat(), **asked}


def test_scores_are_asked_for_with_their_count() -> None:
    assert chat(logprobs=True, top_logprobs=3) == {**chat(), "logprobs": True, "top_logprobs": 3}
    for none in (None, 0):
        assert chat(logprobs=True, top_logprobs=none) == {**chat(), "logprobs": True, "top_logprobs": 1}
    assert chat(top_logprobs=3) == chat()


def test_images_become_data_urls_of_their_kind_before_the_text() -> None:
    (message,) = chat(messages=[{"role": "user", "content": "what?", "images": [IMAGE, IMAGE]}])["messages"]
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{IMAGE}"}}
    assert message["content"] == [image, image, {"type": "text", "text": "what?"}]
    (alone,) = chat(messages=[{"role": "user", "images": [IMAGE]}])["messages"]
    assert alone["content"] == [image]


@pytest.mark.parametrize("image", ["", "AAAA", "é", "http://host/a.png", f"data:image/png;base64,{IMAGE}", "A"])
def test_what_is_no_image_is_refused_by_its_place(image: str) -> None:
    assert refused(messages=[{"role": "user", "images": [IMAGE, image]}]) == "messages[0].images[1]"


def test_results_of_tools_find_the_calls_that_wait_for_them() -> None:
    other = {"function": {"name": "time", "arguments": {}}}
    named = {"id": "own", "function": {"name": "place"}}
    messages = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "thinking": "hm", "tool_calls": [CALL, other, named, CALL]},
        {"role": "tool", "content": "12:00", "tool_name": "time"},
        {"role": "assistant", "content": "wait"},
        {"role": "tool", "content": "Italy", "tool_call_id": "own"},
        {"role": "tool", "content": "sunny"},
        {"role": "tool", "content": "hot", "tool_name": "weather"},
    ]
    body = chat(messages=messages)
    said = body["messages"][1]
    assert said["reasoning_content"] == "hm"
    assert [call["id"] for call in said["tool_calls"]] == ["call_1_0", "call_1_1", "own", "call_1_3"]
    assert json.loads(said["tool_calls"][0]["function"]["arguments"]) == {"city": "Rome"}
    found = [message["tool_call_id"] for message in body["messages"] if message["role"] == "tool"]
    assert found == ["call_1_1", "own", "call_1_0", "call_1_3"]
    assert body["messages"][2]["name"] == "time"
    check_messages(body)


@pytest.mark.parametrize(
    "before",
    [
        [],
        [{"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "content": "x"}],
        [{"role": "assistant", "tool_calls": [CALL]}, {"role": "user", "content": "never mind"}],
    ],
)
def test_a_result_for_which_no_call_waits_is_refused(before: list[Any]) -> None:
    assert refused(messages=[*before, {"role": "tool", "content": "y"}]) == f"messages[{len(before)}]"


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"options": {"top_p": 1.5}}, "options.top_p"),
        ({"options": {"num_predict": 1.5}}, "options.num_predict"),
        ({"options": {"num_predict": 1e300}}, "options.num_predict"),
        ({"options": {"num_ctx": 0}}, "options.num_ctx"),
        ({"options": {"temperature": "hot"}}, "options.temperature"),
        ({"options": []}, "options"),
        ({"format": "xml"}, "format"),
        ({"think": "a lot"}, "think"),
        ({"keep_alive": "soon"}, "keep_alive"),
        ({"stream": "no"}, "stream"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]}, "messages[0].content"),
        ({"messages": [{"role": "poet", "content": "hi"}]}, "messages[0].role"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}]},
            "messages[0].tool_calls[0].function.arguments",
        ),
    ],
)
def test_a_field_that_makes_no_sense_is_named(fields: dict[str, Any], named: str) -> None:
    assert refused(**fields) == named


@pytest.mark.parametrize(
    ("value", "at_once"),
    [
        *((value, True) for value in (0, 0.0, "0", "0s", "-0h0m")),
        *((value, False) for value in (None, -1, "-1", "10m", "1h30m", "0.5s", 300)),
    ],
)
def test_a_time_to_keep_of_nothing_is_told_from_all_others(value: Any, at_once: bool) -> None:
    assert parse(ChatRequest, {"keep_alive": value}).ends_at_once is at_once


def test_a_prompt_is_a_chat_under_its_system_message() -> None:
    body = prompt_chat(generate(prompt="hi", system="Be kind.", images=[IMAGE], options={"seed": 1}), "m")
    assert body["messages"][0] == {"role": "system", "content": "Be kind."}
    assert [part["type"] for part in body["messages"][1]["content"]] == ["image_url", "text"]
    assert body["seed"] == 1
    check_messages(body)


def test_a_raw_prompt_goes_as_it_is() -> None:
    asked = generate(prompt="Once", raw=True, stream=True, format={"type": "array"}, options={"num_predict": 3})
    assert completion_body(asked, "m") == {
        "model": "m",
        "prompt": "Once",
        "max_tokens": 3,
        "json_schema": {"type": "array"},
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_a_suffix_asks_for_what_is_between() -> None:
    body = completion_body(generate(prompt="a", suffix="c", options={"stop": "\n"}), "m")
    assert (body["input_prefix"], body["input_suffix"], body["prompt"], body["stop"]) == ("a", "c", "", ["\n"])


@pytest.mark.parametrize("field", [{"system": "x"}, {"images": [IMAGE]}, {"think": True}, {"logprobs": True}])
def test_what_only_chats_have_is_refused_of_a_raw_prompt(field: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        completion_body(generate(prompt="x", raw=True, **field), "m")
    assert refusal.value.param == next(iter(field))


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Objects with some of these fields, each as it should be or anything at all."""
    return st.fixed_dictionaries({}, optional={name: value | JUNK for name, value in fields.items()})


NUMBER = st.integers(-3, 3) | st.floats(-3, 3)
OPTIONS = some(**dict.fromkeys(["num_ctx", "num_predict", "temperature", "top_k", "top_p", "seed", "mirostat"], NUMBER))
CALLS = st.lists(some(id=st.text(max_size=2), function=some(name=st.text(max_size=2), arguments=some(x=NUMBER))))
MESSAGES = st.lists(
    some(
        role=st.sampled_from(["system", "user", "assistant", "tool"]),
        content=st.text(max_size=3),
        thinking=st.text(max_size=3),
        images=st.lists(st.just(IMAGE) | st.text(max_size=9), max_size=2),
        tool_calls=CALLS,
        tool_name=st.text(max_size=2),
        tool_call_id=st.text(max_size=2),
    ),
    max_size=4,
)
BODIES = some(
    model=st.text(max_size=3),
    messages=MESSAGES,
    tools=st.lists(JUNK, max_size=1),
    prompt=st.text(max_size=3),
    suffix=st.text(max_size=3),
    system=st.text(max_size=3),
    images=st.lists(st.just(IMAGE)),
    input=st.lists(st.text(max_size=3)),
    options=OPTIONS,
    format=st.sampled_from(["", "json", {}]),
    think=st.sampled_from([True, False, "low"]),
    keep_alive=st.sampled_from([0, "5m", "0s"]),
    stream=st.booleans(),
    truncate=st.booleans(),
)


@examples(deadline=None, max_examples=150)
@given(BODIES)
def test_any_body_becomes_one_that_passes_our_checks_or_is_refused(body: dict[str, Any]) -> None:
    for translate in (
        lambda: chat_body(parse(ChatRequest, body), "m"),
        lambda: prompt_chat(parse(GenerateRequest, body), "m"),
        lambda: completion_body(parse(GenerateRequest, body), "m"),
        lambda: {"ends": parse(EmbedRequest, body).ends_at_once},
    ):
        try:
            made = translate()
        except HerdError as error:
            assert error.status == 400  # noqa: PT017  what is not refused goes on below
            continue
        write_object(made)
        check_fields(made)


def test_an_id_that_is_used_again_waits_again_in_its_new_place() -> None:
    calls = [{"id": name, "function": {"name": name}} for name in ("a", "b")]
    messages = [
        {"role": "assistant", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "a"},
        {"role": "assistant", "tool_calls": calls[:1]},
        {"role": "tool"},
        {"role": "tool"},
    ]
    found = [message["tool_call_id"] for message in chat(messages=messages)["messages"] if message["role"] == "tool"]
    assert found == ["a", "b", "a"]


def test_many_results_take_no_longer_each_than_few() -> None:
    names = [Counted(number) for number in range(300)]
    calls = [
        ToolCall.model_construct(id=None, function=CalledFunction.model_construct(name=name, arguments=None))
        for name in names
    ]
    results = [
        Message.model_construct(role="tool", tool_name=Counted(name), content="", tool_call_id=None)
        for name in reversed(names)
    ]
    Counted.compared = 0
    made = messages_of([Message.model_construct(role="assistant", content="", tool_calls=calls), *results])
    assert made[1]["tool_call_id"] == "call_0_299"
    assert Counted.compared <= 3 * len(names)


def test_what_engines_would_make_room_for_is_bounded() -> None:
    assert chat(options={"repeat_last_n": MOST_BACK})["repeat_last_n"] == MOST_BACK
    assert refused(options={"repeat_last_n": MOST_BACK + 1}) == "options.repeat_last_n"
