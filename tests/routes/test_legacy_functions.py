"""The functions of before there were tools: engines get tools, and clients their function_call."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest

from manager.errors import InvalidRequest
from routes.form import OPENAI, Form
from routes.legacy_functions import calls_to_tool_calls, functions_to_tools, in_functions
from tests.counted import Counted
from tests.routes.conftest import StartHerd
from tests.routes.herd import Herd, said
from tests.routes.stage import CHAT, Fake, Stage

USER = {"role": "user", "content": "hi"}
CLOCK = {"name": "clock", "description": "Tell the time.", "parameters": {"type": "object", "properties": {}}}
CALL = {"name": "clock", "arguments": "{}"}
CALLED = {"role": "assistant", "content": None, "function_call": CALL}
RESULT = {"role": "function", "name": "clock", "content": "noon"}


async def test_engines_get_tools(herd: Herd, fake: Fake) -> None:
    body = {"messages": [USER, CALLED, RESULT], "functions": [CLOCK, {"name": "f"}], "function_call": "auto"}
    assert (await herd.post(CHAT, body)).status == 200
    (request,) = fake.requests()
    assert request["body"] == {
        "messages": [
            USER,
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "call_1", "type": "function", "function": CALL}],
            },
            {"role": "tool", "tool_call_id": "call_1", "content": "noon"},
        ],
        "tools": [{"type": "function", "function": CLOCK}, {"type": "function", "function": {"name": "f"}}],
        "tool_choice": "auto",
        "parallel_tool_calls": False,
    }


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"functions": {}}, "functions"),
        ({"functions": ["f"]}, "functions[0]"),
        ({"functions": [CLOCK, {"name": 1}]}, "functions[1]"),
        ({"functions": [{"name": "f", "parameters": []}]}, "functions[0].parameters"),
        ({"functions": [CLOCK], "tools": [{"type": "function", "function": CLOCK}]}, "functions"),
        ({"functions": [CLOCK], "tool_choice": "auto"}, "functions"),
        ({"functions": [CLOCK], "function_call": "clock"}, "function_call"),
        ({"functions": [CLOCK], "function_call": {}}, "function_call"),
        ({"functions": [CLOCK], "function_call": {"name": "f"}}, "function_call"),
        ({"function_call": {"name": "clock"}}, "function_call"),
        ({"messages": [USER, RESULT]}, "messages[1].name"),
        ({"messages": [USER, CALLED, USER, RESULT]}, "messages[3].name"),
        ({"messages": [USER, CALLED, {**RESULT, "name": "f"}]}, "messages[2].name"),
        ({"messages": [USER, CALLED, RESULT, RESULT]}, "messages[3].name"),
        (
            {"messages": [{**CALLED, "tool_calls": [{"id": "1", "type": "function", "function": CALL}]}]},
            "messages[0].function_call",
        ),
    ],
)
async def test_what_fits_together_badly_is_a_400_that_names_it(
    herd: Herd, fake: Fake, fields: dict[str, Any], param: str
) -> None:
    answer = await herd.post(CHAT, {"messages": [USER], **fields})
    assert (answer.status, answer.error["param"]) == (400, param)
    assert fake.starts() == []


@pytest.mark.parametrize("fields", [{"functions": []}, {"functions": None}, {"function_call": "none"}])
async def test_no_functions_are_no_tools(herd: Herd, fake: Fake, fields: dict[str, Any]) -> None:
    assert (await herd.post(CHAT, {"messages": [USER], **fields})).status == 200
    assert fake.requests()[0]["body"] == {"messages": [USER]}


def test_results_belong_to_the_first_call_of_their_name() -> None:
    other = {**CALLED, "function_call": {"name": "f", "arguments": "{}"}}
    messages = [dict(message) for message in (USER, CALLED, other, CALLED, RESULT, {**RESULT, "name": "f"}, RESULT)]
    assert calls_to_tool_calls(messages)
    assert [message.get("tool_call_id") for message in messages[4:]] == ["call_1", "call_2", "call_3"]
    assert not calls_to_tool_calls(messages)


def test_many_results_take_no_longer_each_than_few() -> None:
    names = [Counted(number) for number in range(300)]
    called = [{"role": "assistant", "function_call": {"name": name, "arguments": "{}"}} for name in names]
    results = [{"role": "function", "name": Counted(name), "content": ""} for name in reversed(names)]
    Counted.compared = 0
    assert calls_to_tool_calls([*called, *results])
    assert results[0]["tool_call_id"] == "call_299"
    assert Counted.compared <= 3 * len(names)


async def test_a_call_without_arguments_reaches_the_engine_with_those_of_none(herd: Herd, fake: Fake) -> None:
    called = {"name": "clock", "arguments": ""}
    for call in ({"tool_calls": [{"id": "1", "type": "function", "function": called}]}, {"function_call": called}):
        body = {"messages": [USER, {"role": "assistant", "content": None, **call}]}
        assert (await herd.ask("POST", CHAT, raw=json.dumps(body).encode())).status == 200
        (sent,) = fake.requests()[-1]["body"]["messages"][1]["tool_calls"]
        assert sent["function"] == {"name": "clock", "arguments": "{}"}


async def test_what_an_entry_says_of_tools_holds_for_functions(stage: Stage, start_herd: StartHerd) -> None:
    fake = stage.model("alpha", request={"set": {"tool_choice": "none"}})
    bare = stage.model("beta", request={"strip": ["tools"]})
    herd = await start_herd()
    asked = {"functions": [CLOCK], "function_call": {"name": "clock"}}
    assert (await herd.chat("hi", **asked)).status == 200
    sent = fake.requests()[-1]["body"]
    assert (sent["tools"], sent["tool_choice"]) == ([{"type": "function", "function": CLOCK}], "none")
    raw = json.dumps(said("hi", model="beta", **asked)).encode()
    assert (await herd.ask("POST", CHAT, raw=raw)).status == 200
    assert bare.requests()[-1]["body"] == said("hi", model="beta")


def test_of_a_function_that_must_be_called_engines_hear_alone() -> None:
    body: dict[str, Any] = {"functions": [{"name": "f"}, CLOCK], "function_call": {"name": "clock"}}
    assert functions_to_tools(body)
    tools = [{"type": "function", "function": CLOCK}]
    assert body == {"tools": tools, "tool_choice": "required", "parallel_tool_calls": False}


def test_a_choice_that_was_made_stays() -> None:
    for call in ("none", "auto"):
        body: dict[str, Any] = {"functions": [CLOCK], "function_call": call}
        assert functions_to_tools(body)
        assert body["tool_choice"] == call
    with pytest.raises(InvalidRequest):
        functions_to_tools({"function_call": "clock"})


TOOL_CALL: dict[str, Any] = {"index": 0, "id": "1", "type": "function", "function": CALL}


def test_a_call_is_a_function_call_to_the_client() -> None:
    message = {"role": "assistant", "tool_calls": [TOOL_CALL]}
    choice: dict[str, Any] = {"index": 0, "finish_reason": "tool_calls", "message": message}
    said = {"index": 1, "finish_reason": "stop", "message": {"role": "assistant", "content": "noon"}}
    finish = in_functions(OPENAI).finish
    assert finish
    assert finish({"id": "x", "choices": [choice, said]}) == {
        "id": "x",
        "choices": [
            {"index": 0, "finish_reason": "function_call", "message": {"role": "assistant", "function_call": CALL}},
            said,
        ],
    }


def test_another_forms_answer_is_made_of_that() -> None:
    finish = in_functions(Form(finish=lambda answer: {"made of": answer})).finish
    assert finish
    assert finish({"choices": []}) == {"made of": {"choices": []}}


def frames(*deltas: dict[str, Any], finish: str | None = None) -> list[bytes]:
    made: list[Any] = [{"choices": [{"index": 0, "finish_reason": None, "delta": delta}]} for delta in deltas]
    if finish:
        made.append({"choices": [{"index": 0, "finish_reason": finish, "delta": {}}]})
    return [b"data: " + json.dumps(one).encode() + b"\n\n" for one in [*made, {"choices": [], "usage": {}}]]


async def streamed(pieces: Iterable[bytes]) -> list[Any]:
    async def chunks() -> AsyncIterator[bytes]:
        for piece in [*pieces, b"data: [DONE]\n\n"]:
            yield piece[:9]
            yield piece[9:]

    reframe = in_functions(OPENAI).reframe
    assert reframe
    *made, done = [piece async for piece in reframe(chunks())]
    assert done == b"data: [DONE]\n\n"
    return [json.loads(piece.removeprefix(b"data: ")) for piece in made]


async def test_streamed_calls_are_streamed_function_calls() -> None:
    begun = {**TOOL_CALL, "function": {"name": "clock", "arguments": "{"}}
    more = {"index": 0, "function": {"arguments": "}"}}
    second = {"index": 1, "function": {"name": "f"}}
    deltas = ({"role": "assistant"}, {"tool_calls": [begun]}, {"tool_calls": [more]}, {"tool_calls": [second]})
    made = await streamed(frames(*deltas, finish="tool_calls"))
    assert [chunk["choices"][0]["delta"] for chunk in made[:-1]] == [
        {"role": "assistant"},
        {"function_call": {"name": "clock", "arguments": "{"}},
        {"function_call": {"arguments": "}"}},
        {},
        {},
    ]
    assert made[-2]["choices"][0]["finish_reason"] == "function_call"
    assert made[-1] == {"choices": [], "usage": {}}


async def test_an_error_within_a_stream_stays_one() -> None:
    error = {"error": {"message": "no"}}
    assert await streamed([b"data: " + json.dumps(error).encode() + b"\n\n"]) == [error]


async def test_a_stream_with_functions_says_what_the_model_says(herd: Herd) -> None:
    async with herd.stream("a b", functions=[CLOCK]) as events:
        assert [await events.token(), await events.token()] == ["a", " b"]
        assert (await events.rest())[-1] == b"data: [DONE]\n"
