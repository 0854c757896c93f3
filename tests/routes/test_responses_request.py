"""What a request of a response becomes: a chat for the engines, or a mistake that is told with its place."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from manager.errors import InvalidRequest, ModelNotFound
from routes.body import check_fields
from routes.messages import check_messages, check_tools
from routes.parsing import parse
from routes.responses.chat_body import to_chat
from routes.responses.request import ResponseRequest

FUNCTION = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}, "strict": True}


def chat_of(*items: Any, **fields: Any) -> dict[str, Any]:
    return to_chat(parse(ResponseRequest, {"input": list(items) or "hi", **fields})).body


def messages_of(*items: Any, **fields: Any) -> Any:
    body = chat_of(*items, **fields)
    check_messages(body)
    return body["messages"]


def user(text: str = "hi") -> dict[str, Any]:
    return {"role": "user", "content": text}


def called(call_id: str) -> dict[str, Any]:
    return {"type": "function_call", "id": "fc_1", "call_id": call_id, "name": "f", "arguments": "{}", "status": "x"}


def result(call_id: str, output: Any = "4") -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call_id, "output": output}


def thought(*texts: str) -> dict[str, Any]:
    content = [{"type": "reasoning_text", "text": text} for text in texts]
    return {"type": "reasoning", "id": "rs_1", "summary": [], "content": content}


def said(text: str) -> dict[str, Any]:
    content = [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}]
    return {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": content}


def tool_call(call_id: str) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": "f", "arguments": "{}"}}


def test_a_text_is_a_message_of_the_user_and_all_that_is_not_declared_goes_on() -> None:
    body = chat_of(seed=3, top_k=4, ctx=512, stop=["x"], personality="pirate", model="m", temperature=0, top_p=0.5)
    assert body == {
        "messages": [user()],
        **{"seed": 3, "top_k": 4, "ctx": 512, "stop": ["x"], "personality": "pirate"},
        **{"model": "m", "temperature": 0.0, "top_p": 0.5},
    }


def test_what_changes_no_answer_does_not_go_on() -> None:
    kept_back = {
        **{"metadata": {"a": "b"}, "user": "u", "safety_identifier": "s", "prompt_cache_key": "k", "store": True},
        **{"service_tier": "auto", "truncation": "disabled", "include": ["reasoning.encrypted_content"], "tools": []},
        **{"background": False, "parallel_tool_calls": True, "max_tool_calls": 3, "tool_choice": "auto"},
        **{"text": {"format": {"type": "text"}}, "reasoning": {"summary": "auto"}, "previous_response_id": None},
        **{"stream_options": {"include_obfuscation": False}, "prompt_cache_retention": "24h", "stream": None},
    }
    assert chat_of(**kept_back) == {"messages": [user()]}


def test_each_role_and_part_has_its_like_in_a_chat() -> None:
    parts = [
        {"type": "input_text", "text": "look"},
        {"type": "input_image", "image_url": "data:image/png;base64,AA==", "detail": "low"},
        {"type": "input_image", "image_url": "data:image/png;base64,AA=="},
        {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
    ]
    refusal = {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}
    assert messages_of({"role": "developer", "content": "d"}, {"role": "user", "content": parts}, refusal) == [
        {"role": "developer", "content": "d"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "look"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
                {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
            ],
        },
        {"role": "assistant", "content": [{"type": "text", "text": "no"}]},
    ]


def test_instructions_come_first_and_are_one_system_message_with_the_inputs_own() -> None:
    assert messages_of(user(), instructions="Be brief.") == [{"role": "system", "content": "Be brief."}, user()]
    both = messages_of({"role": "developer", "content": "Rhyme."}, user(), instructions="Be brief.")
    assert both == [{"role": "developer", "content": "Be brief.\n\nRhyme."}, user()]


def test_what_the_assistant_thought_said_and_called_is_one_message() -> None:
    items = [user(), thought("I ", "think"), said("wait"), called("a"), called("b"), result("b"), result("a")]
    assert messages_of(*items) == [
        user(),
        {
            "role": "assistant",
            "content": [{"type": "text", "text": "wait"}],
            "reasoning_content": "I think",
            "tool_calls": [tool_call("a"), tool_call("b")],
        },
        {"role": "tool", "content": "4", "tool_call_id": "b"},
        {"role": "tool", "content": "4", "tool_call_id": "a"},
    ]


def test_calls_after_results_or_a_new_thought_are_another_message() -> None:
    messages = messages_of(user(), called("a"), result("a"), called("b"), thought("hm"), called("c"))
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "assistant", "assistant"]
    assert "reasoning_content" not in messages[3]
    assert messages[4]["reasoning_content"] == "hm"


@pytest.mark.parametrize("rest", [[], [user("b")], [result("a"), said("c")]])
def test_a_thought_without_an_answer_is_dropped(rest: list[Any]) -> None:
    messages = chat_of(user(), called("a"), thought("hm"), *rest)["messages"]
    assert not any("reasoning_content" in message for message in messages)


def test_results_may_have_parts() -> None:
    messages = messages_of(user(), called("a"), result("a", [{"type": "input_text", "text": "4"}]))
    assert messages[-1]["content"] == [{"type": "text", "text": "4"}]


def test_functions_are_nested_and_the_chosen_one_is_the_only_one() -> None:
    other = {"type": "function", "name": "g", "description": "d"}
    function = {"name": "f", "parameters": FUNCTION["parameters"], "strict": True}
    body = chat_of(tools=[FUNCTION, other], tool_choice="auto", parallel_tool_calls=False)
    assert body["tools"] == [
        {"type": "function", "function": function},
        {"type": "function", "function": {"name": "g", "description": "d"}},
    ]
    assert (body["tool_choice"], body["parallel_tool_calls"]) == ("auto", False)
    check_tools(body["tools"])
    chosen = chat_of(tools=[FUNCTION, other], tool_choice={"type": "function", "name": "f"})
    assert chosen["tools"] == [{"type": "function", "function": function}]
    assert chosen["tool_choice"] == "required"


@pytest.mark.parametrize(
    ("fields", "becomes"),
    [
        ({"max_output_tokens": 5}, {"max_completion_tokens": 5}),
        ({"reasoning": {"effort": "low"}}, {"reasoning_effort": "low"}),
        ({"text": {"verbosity": "low"}}, {"verbosity": "low"}),
        ({"text": {"format": {"type": "json_object"}}}, {"response_format": {"type": "json_object"}}),
        (
            {"text": {"format": {"type": "json_schema", "name": "n", "strict": True, "schema": {"default": None}}}},
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "n", "strict": True, "schema": {"default": None}},
                }
            },
        ),
        ({"top_logprobs": 3}, {"logprobs": True, "top_logprobs": 3}),
        ({"include": ["message.output_text.logprobs"]}, {"logprobs": True, "top_logprobs": 1}),
        ({"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}),
        ({"truncation": "auto", "n_ctx": 99}, {"n_ctx": 99}),
    ],
)
def test_fields_under_the_name_that_a_chat_has_for_them(fields: dict[str, Any], becomes: dict[str, Any]) -> None:
    assert chat_of(**fields) == {"messages": [user()], **becomes}


def test_automatic_truncation_is_a_budget_of_the_whole_window() -> None:
    body = chat_of(truncation="auto")
    check_fields(body)
    assert body["ctx"] > 2**32


HOSTED = {"type": "web_search"}
UNKEPT = "nothing is kept"


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"input": None}, "input", "string or an array"),
        ({"input": {}}, "input", "string or an array"),
        ({"input": []}, "input", "at least one"),
        ({"input": [thought("hm")]}, "input", "at least one"),
        ({"input": ["hi"]}, "input[0]", "message"),
        ({"input": [user(), {"type": "item_reference", "id": "msg_1"}]}, "input[1]", "function_call_output"),
        ({"input": [{"content": "hi"}]}, "input[0].role", "missing"),
        ({"input": [{"role": "tool", "content": "hi"}]}, "input[0].role", "'developer'"),
        ({"input": [{"role": "user"}]}, "input[0].content", "missing"),
        ({"input": [user([{"type": "text", "text": ""}])]}, "input[0].content[0]", "input_text"),  # type: ignore[arg-type]
        ({"input": [user([{"type": "input_file", "file_id": "f"}])]}, "input[0].content[0]", "input_image"),  # type: ignore[arg-type]
        ({"input": [user([{"type": "input_image", "file_id": "f"}])]}, "input[0].content[0].image_url", "missing"),  # type: ignore[arg-type]
        ({"input": [result("a", 4)]}, "input[0].output", "string or an array"),
        ({"input": [{**called("a"), "arguments": {}}]}, "input[0].arguments", "string"),
        ({"tools": [HOSTED]}, "tools[0]", "function"),
        ({"tools": [{"type": "function"}]}, "tools[0].name", "missing"),
        ({"tools": [FUNCTION], "tool_choice": "any"}, "tool_choice", "'required'"),
        ({"tools": [FUNCTION], "tool_choice": HOSTED}, "tool_choice.type", "'function'"),
        ({"tools": [FUNCTION], "tool_choice": {"type": "function", "name": "g"}}, "tool_choice", "tools"),
        ({"tool_choice": "required"}, "tool_choice", "without tools"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format", "json_schema"),
        ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format.schema", "missing"),
        ({"text": {"verbosity": "loud"}}, "text.verbosity", "'low'"),
        ({"include": ["everything"]}, "include[0]", "'message.output_text.logprobs'"),
        ({"max_output_tokens": 0}, "max_output_tokens", "1"),
        ({"top_logprobs": 21}, "top_logprobs", "20"),
        ({"metadata": {"a": 1}}, "metadata.a", "string"),
        ({"temperature": float("nan")}, "temperature", "finite"),
        ({"background": True}, "background", "false"),
        ({"previous_response_id": "resp_1"}, "previous_response_id", UNKEPT),
        ({"conversation": {"id": "conv_1"}}, "conversation", UNKEPT),
        ({"prompt": {"id": "pmpt_1"}}, "prompt", UNKEPT),
        ({"moderation": {"model": "m"}}, "moderation", "not supported"),
        ({"messages": [user()]}, "messages", "'input'"),
        ({"response_format": {"type": "json_object"}}, "response_format", "'text.format'"),
        ({"logprobs": True}, "logprobs", "'include' or 'top_logprobs'"),
        ({"n_probs": 3}, "n_probs", "'top_logprobs'"),
        ({"post_sampling_probs": True}, "post_sampling_probs", "'top_logprobs'"),
        ({"max_output_tokens": 2**31}, "max_output_tokens", "2147483647"),
        ({"n": 2}, "n", "must be 1"),
        ({"n_cmpl": "2"}, "n_cmpl", "must be 1"),
    ],
)
def test_what_can_not_be_honoured_is_named(fields: dict[str, Any], param: str, says: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        to_chat(parse(ResponseRequest, {"input": "hi", **fields}))
    assert caught.value.param == param
    assert caught.value.message.startswith(f"'{param}'")
    assert says in caught.value.message


@pytest.mark.parametrize(
    ("param", "place"),
    [
        ("messages[0].content", "instructions.content"),
        ("messages[1].content[0].image_url.url", "input[1].content[0].image_url"),
        ("messages[2].tool_call_id", "input[2].call_id"),
        ("messages[9]", "input"),
        ("messages", "input"),
        ("max_completion_tokens", "max_output_tokens"),
        ("seed", "seed"),
    ],
)
def test_mistakes_that_are_found_in_the_chat_are_told_with_their_place_here(param: str, place: str) -> None:
    asked = parse(ResponseRequest, {"input": [thought("x"), user(), result("a")], "instructions": "Be brief."})
    found = InvalidRequest(f"'{param}' is wrong.", param=param)
    told = to_chat(asked).in_its_words(found)
    assert (told.param, told.message, type(told)) == (place, f"'{place}' is wrong.", InvalidRequest)
    assert found.param == param  # others may hear of the same one
    nameless = ModelNotFound("There is none.")
    assert to_chat(asked).in_its_words(nameless) is nameless


def test_what_is_off_or_empty_is_no_refusal() -> None:
    chat_of(user(), functions=[], logprobs=False, post_sampling_probs=False)


@pytest.mark.parametrize(
    ("param", "place"),
    [
        ("messages[1].tool_calls[0].function.arguments", "input[1].arguments"),
        ("messages[1].tool_calls[1]", "input[2]"),
        ("messages[1].tool_calls[1].function.name", "input[2].name"),
        ("messages[1].content", "input[1].content"),
        ("messages[2]", "input[3]"),
        ("messages[2].content[1].image_url.url", "input[3].output[1].image_url"),
    ],
)
def test_calls_and_the_parts_of_results_are_named_where_they_are(param: str, place: str) -> None:
    parts = [{"type": "input_text", "text": "4"}, {"type": "input_image", "image_url": "data:,"}]
    asked = parse(ResponseRequest, {"input": [user(), called("a"), called("b"), result("b", parts)]})
    told = to_chat(asked).in_its_words(InvalidRequest(f"'{param}' is wrong.", param=param))
    assert (told.param, told.message) == (place, f"'{place}' is wrong.")


def test_thoughts_of_many_items_are_joined_once() -> None:
    asked = parse(ResponseRequest, {"input": [*[thought("x" * 200)] * 20_000, said("a")]})
    began = time.process_time()
    (message,) = to_chat(asked).body["messages"]
    assert time.process_time() - began < 2, "each was copied as often as others followed: that takes many times as long"
    assert len(message["reasoning_content"]) == 4_000_000


SCALARS = st.none() | st.booleans() | st.integers(-3, 2**63) | st.floats() | st.text(max_size=4)
KINDS = st.sampled_from(
    [
        *("message", "function_call", "function_call_output", "reasoning", "input_text", "input_image", "output_text"),
        *(
            "refusal",
            "input_audio",
            "reasoning_text",
            "function",
            "json_schema",
            "json_object",
            "text",
            "item_reference",
        ),
    ]
)
NAMES = st.sampled_from(
    [
        *("type", "role", "content", "text", "image_url", "detail", "file_id", "refusal", "output", "call_id", "name"),
        *("arguments", "summary", "input_audio", "schema", "format", "effort", "parameters", "array", "message"),
    ]
)
VALUES = st.recursive(
    SCALARS | KINDS | st.sampled_from(["user", "assistant", "system"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES | st.text(max_size=3), inner, max_size=5),
    max_leaves=12,
)
FIELDS = st.sampled_from([*ResponseRequest.model_fields, "messages", "n", "ctx", "schema_"])


@given(st.dictionaries(FIELDS | st.text(max_size=3), VALUES, max_size=6), VALUES)
@examples(max_examples=100, deadline=None)
def test_any_json_becomes_a_chat_or_a_mistake_with_a_place(body: dict[str, Any], given_input: Any) -> None:
    param: str | None = None
    try:
        chat = to_chat(parse(ResponseRequest, {"input": given_input, **body}))
    except InvalidRequest as error:
        param = error.param
    else:
        assert len(chat.places) == len(chat.body["messages"])
        check_messages({"messages": [message for message in chat.body["messages"] if message["role"] != "tool"]})
        return
    assert param


ITEMS = st.lists(
    st.sampled_from([user(), said("a"), called("a"), result("a"), thought("x"), {"role": "system", "content": "s"}]),
    min_size=1,
    max_size=8,
)


@given(ITEMS, st.none() | st.just("Be brief."))
@examples(max_examples=60, deadline=None)
def test_every_order_of_items_loses_nothing_but_thoughts(items: list[Any], instructions: str | None) -> None:
    if all(item.get("type") == "reasoning" for item in items):
        return
    chat = to_chat(parse(ResponseRequest, {"input": items, "instructions": instructions}))
    messages = chat.body["messages"]
    calls = sum(len(message.get("tool_calls") or ()) for message in messages)
    assert calls == sum(item.get("type") == "function_call" for item in items)
    results = sum(message["role"] == "tool" for message in messages)
    assert results == sum(item.get("type") == "function_call_output" for item in items)
    assert sum(message["role"] == "user" for message in messages) == items.count(user())
    texts = sum(message["role"] == "assistant" and message["content"] is not None for message in messages)
    assert texts == items.count(said("a"))
