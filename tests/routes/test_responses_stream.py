"""The events and the whole response that a chat's answer becomes, as OpenAI's own types have them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from manager.errors import (
    ContextLengthExceeded,
    GenerationFailed,
    HerdError,
    InvalidRequest,
    QueueFull,
    UpstreamClosed,
    UpstreamError,
)
from routes.parsing import parse
from routes.responses import schema
from routes.responses.answer import whole
from routes.responses.chat_body import to_chat
from routes.responses.request import ResponseRequest
from routes.responses.stream import ResponseStream

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 2}}
TOOLS = [{"type": "function", "name": "f", "parameters": {"type": "object"}}]
SCORE = {"id": 5, "token": "a", "bytes": [97], "logprob": -0.5}
OTHER = {"id": 6, "token": "b", "bytes": [98], "logprob": -1.5}
SCORES = {"content": [{**SCORE, "top_logprobs": [SCORE, OTHER]}]}


def asked_for(**fields: Any) -> ResponseRequest:
    return parse(ResponseRequest, {"input": "hi", "stream": True, **fields})


def stream_for(**fields: Any) -> ResponseStream:
    asked = asked_for(**fields)
    made = to_chat(asked)
    return ResponseStream(asked, made, lambda: made.body)


def piece(finish: str | None = None, logprobs: Any = None, **delta: Any) -> dict[str, Any]:
    choice = {"index": 0, "finish_reason": finish, "delta": delta, "logprobs": logprobs}
    return {"model": "m", "object": "chat.completion.chunk", "choices": [choice]}


def call(index: int, arguments: str, name: str | None = None) -> dict[str, Any]:
    begin = {} if name is None else {"id": f"call_{index}", "type": "function"}
    return {"index": index, **begin, "function": {"arguments": arguments, **({"name": name} if name else {})}}


END = {"model": "m", "choices": [], "usage": USAGE, "timings": {"prompt_n": 5}}


def event_of(frame: bytes) -> dict[str, Any]:
    """The data of one event, which must be of both their type and ours."""
    name, data, *rest = frame.decode().split("\n")
    event: dict[str, Any] = json.loads(data.removeprefix("data: "))
    assert name == f"event: {event['type']}"
    assert rest == ["", ""]
    EVENT.validate_python(event)
    assert event.keys() <= schema.ResponseEvent.model_fields.keys()
    schema.ResponseEvent.model_validate(event)
    return event


async def events_of(stream: ResponseStream, *chunks: Any, done: bool = True) -> list[dict[str, Any]]:
    """What becomes of these chunks, which come cut at odd places."""
    frames = [b"data: %b\n\n" % json.dumps(chunk).encode() for chunk in chunks]
    raw = b": hello\n\n" + b"".join(frames) + (b"data: [DONE]\n\n" if done else b"")

    async def cut() -> AsyncIterator[bytes]:
        for start in range(0, len(raw), 50):
            yield raw[start : start + 50]

    events = [event_of(frame) async for frame in stream.reframe(cut())]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


def kinds(events: Sequence[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


def checked(response: dict[str, Any]) -> dict[str, Any]:
    """A response that is of both their type and ours."""
    Response.model_validate(response)
    assert response.keys() <= schema.Response.model_fields.keys()
    schema.Response.model_validate(response)
    return response


def whole_of(message: dict[str, Any], finish: str = "stop", logprobs: Any = None, **fields: Any) -> dict[str, Any]:
    choice = {"index": 0, "finish_reason": finish, "message": message, "logprobs": logprobs}
    asked = asked_for(**fields)
    answer = {"model": "m", "choices": [choice], "usage": USAGE, "timings": {"a": 1}}
    return checked(whole(asked, answer, to_chat(asked).body))


def without_ids(items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in item.items() if name != "id"} for item in items]


async def test_a_text_has_the_official_events_in_their_order() -> None:
    pieces = [piece(role="assistant", content=None), piece(content="Hel"), piece(content="lo"), piece("stop"), END]
    events = await events_of(stream_for(), *pieces)
    assert kinds(events) == [
        *("created", "in_progress", "output_item.added", "content_part.added"),
        *("output_text.delta", "output_text.delta", "output_text.done"),
        *("content_part.done", "output_item.done", "completed"),
    ]
    created, added, last = events[0]["response"], events[2], events[-1]["response"]
    assert (created["status"], created["output"], created["usage"], created["model"]) == ("in_progress", [], None, "m")
    assert (added["item"]["status"], added["item"]["content"]) == ("in_progress", [])
    assert [event["delta"] for event in events[4:6]] == ["Hel", "lo"]
    assert events[6]["text"] == "Hello"
    assert {event["item_id"] for event in events[3:8]} == {added["item"]["id"], last["output"][0]["id"]}
    assert events[-2]["item"] == last["output"][0]
    assert (last["id"], last["status"], last["timings"]) == (created["id"], "completed", {"prompt_n": 5})
    assert last["usage"] == {
        "input_tokens": 7,
        "input_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 0},
        "output_tokens": 3,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 10,
    }
    checked(last)


async def test_thoughts_a_text_and_parallel_calls_are_items_one_after_the_other() -> None:
    pieces = [
        piece(reasoning_content="let "),
        piece(reasoning_content="me"),
        piece(content="ok"),
        piece(tool_calls=[call(0, "", "f")]),
        piece(tool_calls=[call(0, '{"a"')]),
        piece(tool_calls=[call(0, ": 1}")]),
        piece(tool_calls=[call(1, "{}", "f")]),
        piece("tool_calls"),
        END,
    ]
    events = await events_of(stream_for(tools=TOOLS), *pieces)
    called = "function_call_arguments"
    assert kinds(events)[2:-1] == [
        *("output_item.added", "content_part.added", "reasoning_text.delta", "reasoning_text.delta"),
        *("reasoning_text.done", "content_part.done", "output_item.done"),
        *("output_item.added", "content_part.added", "output_text.delta"),
        *("output_text.done", "content_part.done", "output_item.done"),
        *("output_item.added", f"{called}.delta", f"{called}.delta", f"{called}.done", "output_item.done"),
        *("output_item.added", f"{called}.delta", f"{called}.done", "output_item.done"),
    ]
    assert [event["output_index"] for event in events if event["type"] == "response.output_item.added"] == [0, 1, 2, 3]
    response = events[-1]["response"]
    message = {
        "content": "ok",
        "reasoning_content": "let me",
        "tool_calls": [
            {"id": "call_0", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}},
            {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}},
        ],
    }
    same = whole_of(message, "tool_calls", tools=TOOLS)
    assert without_ids(response["output"]) == without_ids(same["output"])
    assert [item["type"] for item in same["output"]] == ["reasoning", "message", "function_call", "function_call"]
    assert len({item["id"] for item in response["output"]}) == 4
    assert (same["status"], same["tool_choice"], same["tools"][0]["name"]) == ("completed", "auto", "f")


async def test_a_call_without_an_id_gets_one() -> None:
    nameless = {"index": 0, "function": {"name": "f", "arguments": "{}"}}
    events = await events_of(stream_for(tools=TOOLS), piece(tool_calls=[nameless]), piece("tool_calls"))
    (item,) = events[-1]["response"]["output"]
    assert item["call_id"].startswith("call_")
    (item,) = whole_of({"content": None, "tool_calls": [nameless]}, tools=TOOLS)["output"]
    assert item["call_id"].startswith("call_")


@pytest.mark.parametrize(("finish", "reason"), [("length", "max_output_tokens"), ("content_filter", "content_filter")])
async def test_what_is_cut_is_incomplete(finish: str, reason: str) -> None:
    events = await events_of(stream_for(max_output_tokens=3), piece(content="one"), piece(finish), END)
    assert events[-1]["type"] == "response.incomplete"
    for response in (events[-1]["response"], whole_of({"content": "one"}, finish, max_output_tokens=3)):
        checked(response)
        assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": reason})
        assert response["output"][-1]["status"] == "incomplete"
        assert response["max_output_tokens"] == 3


async def test_an_answer_of_nothing_is_an_empty_text() -> None:
    events = await events_of(stream_for(), piece("stop"))
    assert kinds(events)[2:4] == ["output_item.added", "content_part.added"]
    response = events[-1]["response"]
    assert without_ids(response["output"]) == without_ids(whole_of({"content": None})["output"])
    assert response["output"][0]["content"][0]["text"] == ""
    assert response["usage"] is None


async def test_log_probabilities_are_told_where_they_were_asked_for() -> None:
    asked: dict[str, Any] = {"top_logprobs": 1}
    pieces = [piece(content="a", logprobs=SCORES), piece("stop")]
    events = await events_of(stream_for(**asked), *pieces)
    score = {"token": "a", "bytes": [97], "logprob": -0.5}
    wanted = [{**score, "top_logprobs": [score]}]
    assert events[4]["logprobs"] == events[5]["logprobs"] == wanted
    for response in (events[-1]["response"], whole_of({"content": "a"}, logprobs=SCORES, **asked)):
        assert response["output"][0]["content"][0]["logprobs"] == wanted
    alone = whole_of({"content": "a"}, logprobs=SCORES, include=["message.output_text.logprobs"])
    assert alone["output"][0]["content"][0]["logprobs"] == [{**score, "top_logprobs": []}]
    assert whole_of({"content": "a"}, logprobs=SCORES)["output"][0]["content"][0]["logprobs"] == []


def test_a_response_says_again_what_was_asked_for() -> None:
    text: dict[str, Any] = {
        "format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}},
        "verbosity": "low",
    }
    said: dict[str, Any] = {
        **{"instructions": "Be brief.", "metadata": {"a": "b"}, "temperature": 0.5, "top_p": 1.0, "user": "u"},
        **{"tool_choice": {"type": "function", "name": "f"}, "parallel_tool_calls": False},
        **{"truncation": "auto", "top_logprobs": 2, "max_output_tokens": 9, "prompt_cache_key": "k"},
    }
    response = whole_of({"content": "a"}, text=text, reasoning={"effort": "low"}, store=True, tools=TOOLS, **said)
    assert {name: response[name] for name in said} == said
    assert response["tools"][0].items() >= TOOLS[0].items()
    assert response["text"]["format"].items() >= text["format"].items()
    assert (response["text"]["verbosity"], response["reasoning"]["effort"]) == ("low", "low")
    assert (response["store"], response["background"], response["previous_response_id"]) == (False, False, None)


async def test_a_stream_without_its_last_line_is_whole_where_its_reason_came() -> None:
    events = await events_of(stream_for(), piece(content="one"), piece("stop"), done=False)
    assert kinds(events)[-1] == "completed"


ERROR = {"error": {"code": 400, "message": "too long", "type": "exceed_context_size_error"}}


@pytest.mark.parametrize(
    ("last", "kind"),
    [
        (ERROR, ContextLengthExceeded),
        ({"error": {"message": "it broke"}}, GenerationFailed),
        ({"error": "it broke"}, GenerationFailed),
        (piece(tool_calls=[call(0, "{}")]), UpstreamError),
        (piece(content="more"), UpstreamClosed),
    ],
)
async def test_what_goes_wrong_at_the_engine_is_raised_after_what_came_before(last: Any, kind: type[HerdError]) -> None:
    stream = stream_for()
    events: list[bytes] = []

    async def chunks() -> AsyncIterator[bytes]:
        for chunk in (piece(content="one"), last):
            yield b"data: %b\n\n" % json.dumps(chunk).encode()

    async def read() -> None:
        async for event in stream.reframe(chunks()):
            events.append(event)

    with pytest.raises(HerdError) as caught:
        await read()
    assert caught.type is kind
    assert b"response.created" in events[0]
    assert b'"delta":"one"' in events[4]


async def test_broken_json_of_an_engine_is_its_fault() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"data: {no\n\n"

    with pytest.raises(UpstreamError, match="JSON"):
        [event async for event in stream_for().reframe(chunks())]


def failure(stream: ResponseStream, error: HerdError) -> list[dict[str, Any]]:
    """The last events."""
    frames = [frame for frame in stream.failed(error).decode().split("\n\n") if frame]
    return [json.loads(frame.partition("data: ")[2]) for frame in frames]


async def test_a_failure_ends_the_stream_with_what_there_is() -> None:
    stream = stream_for()

    async def chunks() -> AsyncIterator[bytes]:
        yield b"data: %b\n\n" % json.dumps(piece(content="one")).encode()

    with pytest.raises(UpstreamClosed):
        [event async for event in stream.reframe(chunks())]
    error, failed = failure(stream, GenerationFailed("It broke.", param="messages"))
    assert (error["type"], error["sequence_number"], error["code"]) == ("error", 5, "generation_failed")
    assert error["error"] == {
        **{"message": "It broke.", "type": "server_error", "param": "input", "code": "generation_failed"}
    }
    assert (failed["type"], failed["sequence_number"]) == ("response.failed", 6)
    response = failed["response"]
    assert response["status"] == "failed"
    assert response["error"] == {"code": "server_error", "message": "It broke."}
    (item,) = response["output"]
    assert (item["status"], item["content"][0]["text"]) == ("incomplete", "one")
    schema.ResponseEvent.model_validate(failed)


def test_a_failure_before_the_first_event_begins_the_response_and_ends_it() -> None:
    events = failure(stream_for(model="m"), QueueFull("Too many wait."))
    assert kinds(events) == ["created", "in_progress", "error", "failed"]
    assert [event["sequence_number"] for event in events] == [0, 1, 2, 3]
    assert events[-2]["code"] == "queue_full"
    assert (events[-1]["response"]["model"], events[-1]["response"]["error"]["code"]) == ("m", "rate_limit_exceeded")


@pytest.mark.parametrize("error", [HerdError("x"), QueueFull("x"), InvalidRequest("x"), UpstreamClosed("x")])
def test_a_failed_response_has_a_code_that_official_clients_know(error: HerdError) -> None:
    for event in failure(stream_for(), error)[-1:]:
        EVENT.validate_python(event)


def test_what_the_assistant_had_begun_is_not_told_again() -> None:
    begun = {"role": "assistant", "content": [{"type": "output_text", "text": "The capital is"}]}
    thought = {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "hm"}]}
    asked = [{"role": "user", "content": "?"}, thought, begun]
    for said, thoughts in (("The capital is Paris.", "hm"), (" Paris.", "")):  # llama.cpp repeats it, others don't
        (item,) = whole_of({"content": said, "reasoning_content": thoughts}, input=asked)["output"]
        assert item["content"][0]["text"] == " Paris."


def test_a_response_tells_the_parameters_that_were_used() -> None:
    asked = asked_for(temperature=1.5, top_p=0.5, max_output_tokens=9, reasoning={"effort": "high"})
    body = {"messages": [], "temperature": 0.25, "max_tokens": 3, "max_completion_tokens": 7, "verbosity": "low"}
    told = checked(whole(asked, {"choices": []}, body))
    assert (told["temperature"], told["top_p"], told["max_output_tokens"]) == (0.25, None, 7)
    assert (told["reasoning"]["effort"], told["text"]["verbosity"]) == (None, "low")
    endless = whole(asked, {"choices": []}, {"messages": [], "max_tokens": -1})
    assert endless["max_output_tokens"] is None
