"""What an answer is made of beside text: calls of tools, structures that were asked for, reasoning."""

from __future__ import annotations

import json
from typing import Any, Final, Literal

import openai
import pytest
from openai import OpenAI
from pydantic import BaseModel, ConfigDict, Field

pytestmark = pytest.mark.timeout(180)


class Place(BaseModel):
    """Strict, so that what an answer is held to is held here, too."""

    model_config = ConfigDict(extra="forbid", strict=True)

    city: Literal["Paris", "Rome", "Oslo"]
    degrees: int = Field(ge=0, le=9)


PLACE: Final[dict[str, Any]] = Place.model_json_schema()
FORMAT: Final[Any] = {"type": "json_schema", "json_schema": {"name": "place", "schema": PLACE, "strict": True}}
WEATHER: Final[Any] = {
    "type": "function",
    "function": {"name": "weather", "description": "The weather of a city.", "parameters": PLACE},
}
CLOCK: Final[Any] = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object"}}}
# In the words of the examples that the template has for this model.
CALL: Final[list[Any]] = [{"role": "user", "content": "Call weather with Paris."}]
ASKED: Final[list[Any]] = [{"role": "user", "content": "How is the weather in Paris?"}]


def test_a_required_tool_is_called_with_arguments_that_fit_it(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model="smol-tools", messages=CALL, tools=[WEATHER], tool_choice="required", temperature=0, max_tokens=200
    )
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls
    for call in choice.message.tool_calls:
        assert call.type == "function"
        assert call.id
        assert call.function.name == "weather"
        Place.model_validate_json(call.function.arguments)


def test_a_call_that_is_streamed_is_the_same_in_pieces(client: OpenAI) -> None:
    how: dict[str, Any] = {
        "model": "smol-tools",
        "messages": CALL,
        "tools": [WEATHER, CLOCK],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "temperature": 0,
        "max_tokens": 200,
        "extra_body": {"cache_prompt": False},
    }
    whole = client.chat.completions.create(**how)
    assert whole.choices[0].message.tool_calls
    (call,) = whole.choices[0].message.tool_calls
    chunks = list(client.chat.completions.create(**how, stream=True))
    deltas = [delta for chunk in chunks for choice in chunk.choices for delta in choice.delta.tool_calls or ()]
    assert len(deltas) > 2
    assert {delta.index for delta in deltas} == {0}
    assert deltas[0].id
    assert deltas[0].function
    assert deltas[0].function.name == call.function.name
    pieces = [delta.function.arguments or "" for delta in deltas if delta.function]
    assert "".join(pieces) == call.function.arguments
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_the_result_of_a_call_is_taken_and_a_result_without_a_call_is_refused(client: OpenAI) -> None:
    called = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "c1", **_call("weather", '{"city": "Oslo"}')}],
    }
    result = {"role": "tool", "tool_call_id": "c1", "content": "Snow."}
    history: list[Any] = [*ASKED, called, result]
    answer = client.chat.completions.create(model="smol-tools", messages=history, tools=[WEATHER], max_tokens=8)
    assert answer.choices[0].message.content
    with pytest.raises(openai.BadRequestError) as refusal:
        client.chat.completions.create(model="smol-tools", messages=history[:1] + history[2:])
    assert refusal.value.param == "messages[1].tool_call_id"


def _call(name: str, arguments: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def test_the_tool_that_is_named_is_called(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model="smol-tools",
        messages=CALL,
        tools=[CLOCK, WEATHER],
        tool_choice={"type": "function", "function": {"name": "weather"}},
        temperature=0,
        max_tokens=100,
    )
    assert answer.choices[0].message.tool_calls
    assert [call.function.name for call in answer.choices[0].message.tool_calls if call.type == "function"] == [
        "weather"
    ]


def test_tools_are_refused_where_they_would_be_left_out_and_a_tool_that_is_not_there(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="template of 'smol' knows no tools") as refusal:
        client.chat.completions.create(model="smol", messages=CALL, tools=[WEATHER])
    assert refusal.value.param == "tools"
    with pytest.raises(openai.BadRequestError) as refusal:
        client.chat.completions.create(
            model="smol-tools",
            messages=CALL,
            tools=[CLOCK],
            tool_choice={"type": "function", "function": {"name": "weather"}},
        )
    assert refusal.value.param == "tool_choice"


def test_no_tool_is_called_where_none_may_be(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model="smol-tools", messages=ASKED, tools=[WEATHER], tool_choice="none", max_tokens=8
    )
    assert answer.choices[0].message.tool_calls is None
    assert answer.choices[0].message.content


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_answers_fit_the_schema_however_hot(client: OpenAI, temperature: float) -> None:
    texts = set()
    for seed in range(3 if temperature else 1):
        answer = client.chat.completions.create(
            model="smol",
            messages=ASKED,
            response_format=FORMAT,
            temperature=temperature,
            seed=seed,
            max_tokens=120,
            extra_body={"top_k": 0, "top_p": 1.0, "min_p": 0.0},
        )
        assert answer.choices[0].finish_reason == "stop"
        assert answer.choices[0].message.content
        texts.add(Place.model_validate_json(answer.choices[0].message.content).model_dump_json())
    assert len(texts) > 1 or temperature == 0


def test_an_answer_of_json_is_an_object(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model="smol",
        messages=ASKED,
        response_format={"type": "json_object"},
        temperature=1.5,
        seed=3,
        max_tokens=400,
        logit_bias={},
    )
    assert answer.choices[0].message.content
    if answer.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(answer.choices[0].message.content), dict)
    else:
        assert answer.choices[0].message.content.lstrip().startswith("{")


def test_a_grammar_is_kept_to_whole_and_streamed(client: OpenAI) -> None:
    how: dict[str, Any] = {
        "model": "smol",
        "messages": ASKED,
        "temperature": 1.5,
        "seed": 5,
        "extra_body": {"grammar": 'root ::= ("sun" | "rain") ", " [0-9] "C"'},
    }
    whole = client.chat.completions.create(**how).choices[0].message.content
    chunks = client.chat.completions.create(**how, stream=True)
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    for text in (whole, streamed):
        assert text is not None
        kind, _, degrees = text.partition(", ")
        assert kind in {"sun", "rain"}
        assert degrees[0].isdigit()
        assert degrees[1:] == "C"


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "no such type"}}}}, None),
        ({"extra_body": {"grammar": "root ::= ((("}}, None),
        ({"response_format": "json"}, "response_format"),
    ],
)
def test_a_structure_that_cannot_be_meant_is_a_bad_request(
    client: OpenAI, wrong: dict[str, Any], param: str | None
) -> None:
    with pytest.raises(openai.BadRequestError) as refusal:
        client.chat.completions.create(model="smol", messages=ASKED, max_tokens=4, **wrong)
    if param:
        assert refusal.value.param == param
    answer = client.chat.completions.create(model="smol", messages=ASKED, max_tokens=2)
    assert answer.choices[0].message.content, "the engine goes on"


def test_reasoning_comes_apart_from_the_answer_whole_and_streamed(client: OpenAI) -> None:
    how: dict[str, Any] = {
        "model": "smol-thinking",
        "messages": ASKED,
        "extra_body": {"grammar": 'root ::= "I muse.\\n</think>\\n\\nSnow."'},
    }
    message = client.chat.completions.create(**how).choices[0].message.model_dump()
    assert message["reasoning_content"].strip() == "I muse."
    assert message["content"] == "Snow."
    deltas = [
        choice.delta.model_dump()
        for chunk in client.chat.completions.create(**how, stream=True)
        for choice in chunk.choices
    ]
    assert "".join(delta.get("reasoning_content") or "" for delta in deltas).strip() == "I muse."
    assert "".join(delta.get("content") or "" for delta in deltas) == "Snow."


def test_timings_and_usage_are_passed_on_in_streams(client: OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="smol", messages=ASKED, max_tokens=4, stream=True, stream_options={"include_usage": True}
        )
    )
    last = chunks[-1].model_dump()
    assert last["usage"]["completion_tokens"] == 4
    assert last["timings"]["predicted_n"] == 4
