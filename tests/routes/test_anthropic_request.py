"""Requests to Anthropic's API as the chats that they ask for."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manager.errors import ContextLengthExceeded, HerdError, InvalidRequest
from routes.anthropic.request import CountRequest, MessageRequest
from routes.anthropic.translation import Translated, translate
from routes.parsing import parse

USER = {"role": "user", "content": "hi"}
WEATHER = {"name": "weather", "description": "of a city", "input_schema": {"type": "object"}}
CLOCK = {"name": "clock", "input_schema": {"type": "object", "properties": {}}}
CALL = {"type": "tool_use", "id": "a", "name": "weather", "input": {"city": "Rome"}}
PNG = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}}


def translated(**fields: Any) -> Translated:
    return translate(parse(MessageRequest, {"max_tokens": 8, "messages": [USER], **fields}))


def chat(**fields: Any) -> dict[str, Any]:
    return translated(**fields).body


def messages(*given: dict[str, Any], **fields: Any) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = chat(messages=list(given), **fields)["messages"]
    return made


def user(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def text(words: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": words, **more}


def result(**more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": "a", **more}


def test_a_plain_request_is_a_chat_with_the_same_fields() -> None:
    given = {"model": "m", "temperature": 0.5, "top_p": 0.9, "top_k": 3}
    assert chat(**given) == {**given, "max_tokens": 8, "messages": [USER]}


def test_fields_of_ours_and_of_engines_go_along() -> None:
    given = {"personality": "pirate", "ctx": 100, "seed": 1, "min_p": 0.1}
    assert chat(**given) == {**given, "max_tokens": 8, "messages": [USER]}


def test_accounts_prices_and_caches_are_left_out() -> None:
    ignored = {"metadata": {"user_id": "u"}, "service_tier": "auto", "cache_control": {"type": "ephemeral"}}
    assert chat(**ignored, context_management={"edits": []}) == {"max_tokens": 8, "messages": [USER]}


def test_null_counts_as_left_out() -> None:
    names = ("model", "system", "tools", "tool_choice", "thinking", "stop_sequences", "stream", "temperature", "n")
    assert chat(**dict.fromkeys(names), seed=None) == {"max_tokens": 8, "messages": [USER]}


def test_a_stream_tells_its_usage() -> None:
    body = chat(stream=True, stream_options={"include_usage": False})
    assert (body["stream"], body["stream_options"]) == (True, {"include_usage": True})


def test_stop_sequences_are_stop() -> None:
    assert chat(stop_sequences=["\n", "END"])["stop"] == ["\n", "END"]


@pytest.mark.parametrize("system", ["Be kind.\n\nBe short.", [text("Be kind."), text("Be short.", cache_control={})]])
def test_the_system_prompt_is_the_first_message(system: Any) -> None:
    assert chat(system=system)["messages"] == [{"role": "system", "content": "Be kind.\n\nBe short."}, USER]


def test_an_empty_system_prompt_is_none() -> None:
    assert chat(system="")["messages"] == [USER]


@pytest.mark.parametrize("apart", [True, False])
def test_the_line_on_billing_that_changes_each_time_is_not_for_the_model(apart: bool) -> None:
    line = "x-anthropic-billing-header: cc_version=2.1.101.e51; cc_entrypoint=cli; cch=a5145;"
    system = [text(line), text("You help.")] if apart else f"{line}\nYou help."
    assert chat(system=system)["messages"][0]["content"] == "You help."


@pytest.mark.parametrize(
    "told",
    [
        "What is x-anthropic-billing-header: a=b; for?",
        "x-anthropic-billing-header: is a header",
        "x-anthropic-billing-header: a=b",
    ],
)
def test_other_words_on_billing_stay(told: str) -> None:
    assert chat(system=told)["messages"][0]["content"] == told


def test_only_the_first_text_of_the_system_is_looked_at_for_billing() -> None:
    line = "x-anthropic-billing-header: a=b;"
    assert chat(system=[text("You help."), text(line)])["messages"][0]["content"] == f"You help.\n\n{line}"
    system = {"role": "system", "content": line}
    assert messages(USER, system)[1] == system


def test_a_single_text_is_a_string_and_several_are_parts() -> None:
    assert messages(user(text("one"))) == [{"role": "user", "content": "one"}]
    assert messages(user(text("one"), text("two"))) == [user(text("one"), text("two"))]


def test_messages_of_one_role_in_a_row_are_one_turn() -> None:
    other = {"role": "assistant", "content": "a"}
    made = messages(USER, user(text("two")), other, {"role": "assistant", "content": [text("b")]}, USER)
    assert made == [user(text("hi"), text("two")), {"role": "assistant", "content": "a\n\nb"}, USER]


def test_an_empty_message_stays_one() -> None:
    assert messages(user()) == [{"role": "user", "content": ""}]


def test_a_system_message_may_come_later() -> None:
    assert messages(USER, {"role": "system", "content": "Now rhyme."})[1] == {"role": "system", "content": "Now rhyme."}


def test_images_are_data_urls_or_urls_for_our_rules_on_media() -> None:
    remote = {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}}
    content = messages(user(PNG, remote, text("compare")))[0]["content"]
    assert content == [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
        {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
        text("compare"),
    ]


def test_a_document_of_plain_text_is_a_text_under_its_title() -> None:
    source = {"type": "text", "media_type": "text/plain", "data": "Once upon a time"}
    document = {"type": "document", "source": source, "title": "A tale", "citations": {"enabled": False}}
    assert messages(user(document)) == [{"role": "user", "content": "A tale\n\nOnce upon a time"}]


def test_what_the_assistant_said_thought_and_called_is_one_message() -> None:
    thoughts = [
        {"type": "thinking", "thinking": "hm", "signature": "s"},
        {"type": "redacted_thinking", "data": "secret"},
        {"type": "thinking", "thinking": "so", "signature": "s"},
    ]
    made = messages(USER, {"role": "assistant", "content": [*thoughts, text("I look."), CALL]}, user(result()))
    function = {"name": "weather", "arguments": '{"city":"Rome"}'}
    assert made[1:] == [
        {
            "role": "assistant",
            "reasoning_content": "hm\n\nso",
            "content": "I look.",
            "tool_calls": [{"id": "a", "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": "a", "content": ""},
    ]


def test_results_come_in_order_and_before_what_the_user_says() -> None:
    second = {**result(content=[text("sun"), PNG]), "tool_use_id": "b"}
    made = messages(user(text("so?"), result(content="rain"), second), user(text("well?")))
    assert [(message["role"], message.get("tool_call_id")) for message in made] == [
        ("tool", "a"),
        ("tool", "b"),
        ("user", None),
    ]
    assert made[0]["content"] == "rain"
    assert [part["type"] for part in made[1]["content"]] == ["text", "image_url"]
    assert made[2]["content"] == [text("so?"), text("well?")]


def test_the_result_of_a_call_that_failed_says_so() -> None:
    assert messages(user(result(content="no such city", is_error=True)))[0]["content"] == [
        text("Error:"),
        text("no such city"),
    ]
    assert messages(user(result(is_error=True)))[0]["content"] == "Error:"
    assert messages(user(result(content="fine", is_error=False)))[0]["content"] == "fine"


def test_tools_are_functions() -> None:
    tools = chat(tools=[{**WEATHER, "type": "custom", "cache_control": {}, "strict": True}, CLOCK])["tools"]
    weather = {"name": "weather", "description": "of a city", "parameters": {"type": "object"}, "strict": True}
    clock = {"name": "clock", "description": "", "parameters": CLOCK["input_schema"]}
    assert tools == [{"type": "function", "function": weather}, {"type": "function", "function": clock}]


@pytest.mark.parametrize(
    ("choice", "names", "told"),
    [
        ({"type": "auto"}, ["weather", "clock"], {"tool_choice": "auto"}),
        ({"type": "none"}, ["weather", "clock"], {"tool_choice": "none"}),
        ({"type": "any"}, ["weather", "clock"], {"tool_choice": "required"}),
        ({"type": "tool", "name": "clock"}, ["clock"], {"tool_choice": "required"}),
        (
            {"type": "auto", "disable_parallel_tool_use": True},
            ["weather", "clock"],
            {"tool_choice": "auto", "parallel_tool_calls": False},
        ),
        (
            {"type": "any", "disable_parallel_tool_use": False},
            ["weather", "clock"],
            {"tool_choice": "required", "parallel_tool_calls": True},
        ),
    ],
)
def test_the_choice_of_a_tool(choice: dict[str, Any], names: list[str], told: dict[str, Any]) -> None:
    body = chat(tools=[WEATHER, CLOCK], tool_choice=choice)
    assert [tool["function"]["name"] for tool in body["tools"]] == names
    assert {name: body[name] for name in ("tool_choice", "parallel_tool_calls") if name in body} == told


def test_without_tools_there_is_nothing_to_choose() -> None:
    assert chat(tools=[], tool_choice={"type": "auto"}) == chat()


@pytest.mark.parametrize(
    ("thinking", "fields"),
    [
        ({"type": "disabled"}, {"chat_template_kwargs": {"enable_thinking": False}}),
        ({"type": "adaptive"}, {"chat_template_kwargs": {"enable_thinking": True}}),
        ({"type": "enabled"}, {"chat_template_kwargs": {"enable_thinking": True}}),
        (
            {"type": "enabled", "budget_tokens": 1024},
            {"chat_template_kwargs": {"enable_thinking": True}, "reasoning_budget_tokens": 1024},
        ),
    ],
)
def test_thinking_is_for_the_template(thinking: dict[str, Any], fields: dict[str, Any]) -> None:
    assert chat(thinking=thinking) == {**chat(), **fields}


def test_thinking_leaves_other_variables_of_the_template_alone() -> None:
    body = chat(thinking={"type": "disabled"}, chat_template_kwargs={"mood": "glad", "enable_thinking": True})
    assert body["chat_template_kwargs"] == {"mood": "glad", "enable_thinking": False}


def test_the_form_of_the_output_and_the_effort() -> None:
    schema = {"type": "object"}
    body = chat(output_config={"effort": "max", "format": {"type": "json_schema", "schema": schema}})
    assert body["response_format"] == {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    assert body["reasoning_effort"] == "high"
    assert chat(output_config={"effort": "low"})["reasoning_effort"] == "low"


def test_a_count_needs_no_limit_of_the_answer() -> None:
    assert translate(parse(CountRequest, {"messages": [USER]})).body == {"messages": [USER]}


DEEP: dict[str, Any] = {}
for _ in range(300):
    DEEP = {"a": DEEP}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": 2**31}, "max_tokens"),
        ({"messages": None}, "messages"),
        ({"messages": {}}, "messages"),
        ({"messages": ["hi"]}, "messages[0]"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0]"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [USER, {"role": "user", "content": 1}]}, "messages[1].content"),
        ({"messages": [user(text("x"), {"type": "video"})]}, "messages[0].content[1]"),
        ({"messages": [user({"type": "text"})]}, "messages[0].content[0].text"),
        ({"messages": [user(CALL)]}, "messages[0].content[0]"),
        ({"messages": [{"role": "assistant", "content": [result()]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "assistant", "content": [{**CALL, "input": "{}"}]}]}, "messages[0].content[0].input"),
        ({"messages": [{"role": "assistant", "content": [{**CALL, "id": 1}]}]}, "messages[0].content[0].id"),
        ({"messages": [{"role": "assistant", "content": [{**CALL, "input": DEEP}]}]}, None),
        ({"messages": [user(result(content=[CALL]))]}, "messages[0].content[0].content[0]"),
        ({"messages": [user(result(content=1))]}, "messages[0].content[0].content"),
        ({"messages": [user({**PNG, "source": {"type": "file", "file_id": "f"}})]}, "messages[0].content[0].source"),
        (
            {"messages": [user({**PNG, "source": {**PNG["source"], "media_type": "text/html"}})]},  # type: ignore[dict-item]
            "messages[0].content[0].source.media_type",
        ),
        (
            {"messages": [user({"type": "document", "source": {"type": "base64", "data": ""}})]},
            "messages[0].content[0].source.type",
        ),
        (
            {
                "messages": [
                    user({"type": "document", "source": {"type": "text", "data": ""}, "citations": {"enabled": True}})
                ]
            },
            "messages[0].content[0].citations.enabled",
        ),
        ({"system": 1}, "system"),
        ({"system": [PNG]}, "system[0].type"),
        ({"stop_sequences": "x"}, "stop_sequences"),
        ({"stop_sequences": [1]}, "stop_sequences[0]"),
        ({"stream": "yes"}, "stream"),
        ({"tools": {}}, "tools"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"name": "x"}]}, "tools[0].input_schema"),
        ({"tools": [WEATHER], "tool_choice": "auto"}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": {"type": "some"}}, "tool_choice.type"),
        ({"tools": [WEATHER], "tool_choice": {"type": "tool"}}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "clock"}}, "tool_choice"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"thinking": {"type": "between_tools"}}, "thinking.type"),
        ({"thinking": {"type": "enabled", "budget_tokens": -1}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "enabled"}, "chat_template_kwargs": []}, "chat_template_kwargs"),
        ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema"),
        ({"output_config": {"effort": "some"}}, "output_config.effort"),
        ({"container": {"id": "c"}}, "container"),
        ({"mcp_servers": [{}]}, "mcp_servers"),
        ({"n": 2}, "n"),
        ({"stop": "x"}, "stop"),
        ({"top_k": 2**31}, "top_k"),
        ({"logprobs": True}, "logprobs"),
    ],
)
def test_what_is_wrong_or_cannot_be_done_is_named(fields: dict[str, Any], param: str | None) -> None:
    with pytest.raises(InvalidRequest) as refused:
        translated(**fields)
    assert refused.value.param == param
    assert param is None or f"'{param}'" in refused.value.message


def test_what_the_caller_wrote_is_not_quoted() -> None:
    for fields in ({"messages": [user({"type": "secret"})]}, {"tools": [{"type": "secret"}]}):
        with pytest.raises(InvalidRequest) as refused:
            translated(**fields)
        assert "secret" not in refused.value.message


@pytest.mark.parametrize(
    ("of_the_chat", "of_the_request"),
    [
        ("messages[0]", "system"),
        ("messages[1].content[1]", "messages[1].content[0]"),
        ("messages[1].content[1].image_url.url", "messages[1].content[0].source.data"),
        ("messages[2].tool_calls[0].function.arguments", "messages[2]"),
        ("messages[3].tool_call_id", "messages[3].content[1].tool_use_id"),
        ("messages[3].content[0].image_url.url", "messages[3].content[1].content[0].source.data"),
        ("messages[4].content", "messages[3]"),
        ("stop", "stop_sequences"),
        ("reasoning_budget_tokens", "thinking.budget_tokens"),
    ],
)
def test_errors_of_the_chat_name_the_fields_of_the_request(of_the_chat: str, of_the_request: str) -> None:
    request = translated(
        system="s",
        messages=[
            USER,
            user(PNG),
            {"role": "assistant", "content": [CALL]},
            user(text("so?"), result(content=[PNG])),
        ],
    )
    told = request.retold(InvalidRequest(f"'{of_the_chat}' is bad.", param=of_the_chat))
    assert (told.param, told.message) == (of_the_request, f"'{of_the_request}' is bad.")


@pytest.mark.parametrize("param", [None, "model", "messages", "stopping", "messages[10]"])
def test_other_errors_stay_as_they_are(param: str | None) -> None:
    error = ContextLengthExceeded("too long", param=param)
    assert translated().retold(error) is error


def test_empty_lists_of_what_is_not_supported_are_no_refusal() -> None:
    assert chat(mcp_servers=[], functions=[]) == chat()


LEAVES = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=3)
TYPES = st.sampled_from(
    ["text", "image", "document", "tool_use", "tool_result", "thinking", "base64", "url", "auto", "tool", "enabled"]
)
FIELDS = st.sampled_from(
    [*("type", "text", "source", "data", "url", "content", "id", "name", "input", "tool_use_id", "thinking", "title")]
)
JSON = st.recursive(
    LEAVES | TYPES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELDS | st.text(max_size=2), inner, max_size=4),
    max_leaves=12,
)
GOOD = st.sampled_from([text("x"), PNG, CALL, result(content=[PNG], is_error=True), result(content="x")])
CONTENT = st.text(max_size=3) | st.lists(GOOD, max_size=4) | st.lists(GOOD | JSON, max_size=3) | JSON
MESSAGES = st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system"]), "content": CONTENT})
OPTIONAL = (
    *("model", "system", "tools", "tool_choice", "thinking", "output_config", "stop_sequences", "stream"),
    *("temperature", "metadata", "chat_template_kwargs", "n", "container", "personality"),
)
BODIES = st.fixed_dictionaries(
    {"max_tokens": st.just(1) | JSON, "messages": st.lists(MESSAGES, max_size=3) | JSON},
    optional=dict.fromkeys(OPTIONAL, JSON),
)


@given(BODIES)
def test_any_body_is_a_chat_or_refused(body: dict[str, Any]) -> None:
    try:
        made = translate(parse(MessageRequest, body))
    except HerdError as error:
        assert error.status == 400  # noqa: PT017  both ends are good ones
    else:
        assert made.body["max_tokens"] >= 1
        assert all(isinstance(message["content"], str | list) for message in made.body["messages"])
