"""Answers of chats as messages of Anthropic's API, whole and as events."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from manager.errors import (
    BodyTooLarge,
    GenerationFailed,
    HerdError,
    InsufficientMemory,
    InvalidKey,
    InvalidRequest,
    ModelNotFound,
    PermissionDenied,
    QueueFull,
    RequestCancelled,
    UpstreamClosed,
    UpstreamTimeout,
)
from routes.anthropic.answer import MessageAnswer, count_of, message_of
from routes.anthropic.stream import StreamEvent, events_of, failure, ping
from routes.errors import anthropic_error

USAGE = {"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 6}}
NO_USAGE = {
    "input_tokens": 0,
    "cache_read_input_tokens": 0,
    "cache_creation_input_tokens": 0,
    "output_tokens": 0,
}
TOLD_USAGE = {**NO_USAGE, "input_tokens": 3, "cache_read_input_tokens": 6, "output_tokens": 4}


def whole(finish: str | None = "stop", **message: Any) -> dict[str, Any]:
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": None, **message}}
    return {"id": "chatcmpl-7", "model": "m", "choices": [choice], "usage": USAGE}


def call(name: str = "weather", arguments: str = '{"city":"Rome"}', **more: Any) -> dict[str, Any]:
    return {"id": "a", "type": "function", "function": {"name": name, "arguments": arguments}, **more}


def content_of(**message: Any) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = message_of(whole(**message))["content"]
    return content


def test_a_whole_answer() -> None:
    told = message_of(whole(content="Hello."))
    assert told == {
        "id": "msg_7",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [{"type": "text", "text": "Hello."}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": TOLD_USAGE,
    }
    MessageAnswer.model_validate(told, strict=True)


def test_thoughts_come_first_then_the_text_then_the_calls() -> None:
    assert content_of(content="I look.", reasoning_content="hm", tool_calls=[call(), call("clock", "{}", id="b")]) == [
        {"type": "thinking", "thinking": "hm", "signature": ""},
        {"type": "text", "text": "I look."},
        {"type": "tool_use", "id": "a", "name": "weather", "input": {"city": "Rome"}},
        {"type": "tool_use", "id": "b", "name": "clock", "input": {}},
    ]


def test_thoughts_can_be_kept_back() -> None:
    assert message_of(whole(content="x", reasoning_content="hm"), thinking=False)["content"] == [
        {"type": "text", "text": "x"}
    ]


def test_an_empty_answer_has_no_blocks() -> None:
    assert content_of(content="") == []


@pytest.mark.parametrize(
    ("finish", "calls", "reason"),
    [
        ("stop", [], "end_turn"),
        ("length", [], "max_tokens"),
        ("tool_calls", [call()], "tool_use"),
        ("stop", [call()], "tool_use"),
        ("length", [call()], "max_tokens"),
        ("content_filter", [], "refusal"),
        (None, [], "end_turn"),
    ],
)
def test_why_it_ended(finish: str | None, calls: list[dict[str, Any]], reason: str) -> None:
    assert message_of(whole(finish, tool_calls=calls))["stop_reason"] == reason


@pytest.mark.parametrize("arguments", ['{"city":"Ro', "[1]", "null", "nonsense"])
def test_arguments_that_are_no_object_are_told_as_they_are(arguments: str) -> None:
    assert content_of(tool_calls=[call(arguments=arguments)])[0]["input"] == {"INVALID_JSON": arguments}


def test_a_call_without_arguments_or_id_has_both() -> None:
    (block,) = content_of(tool_calls=[{"function": {"name": "clock", "arguments": ""}}])
    assert block["input"] == {}
    assert block["id"].startswith("toolu_")


def test_without_a_report_nothing_was_used() -> None:
    told = message_of({key: value for key, value in whole(content="x").items() if key != "usage"})
    assert told["usage"] == NO_USAGE


def test_what_the_assistant_had_begun_is_not_told_again() -> None:
    begun = {"role": "assistant", "content": "The capital is"}
    for said in ("The capital is Paris.", " Paris."):  # llama.cpp repeats it, others don't
        assert message_of(whole(content=said), messages=[begun])["content"] == [{"type": "text", "text": " Paris."}]


def test_a_count_is_the_number_alone() -> None:
    assert count_of({"object": "response.input_tokens", "input_tokens": 5}) == {"input_tokens": 5}


def delta(finish: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"id": "chatcmpl-7", "model": "m", "choices": [{"index": 0, "finish_reason": finish, "delta": delta}]}


async def stream_of(*chunks: dict[str, Any] | None, cut: int = 0, thinking: bool = True) -> list[dict[str, Any]]:
    """The events of a stream of these chunks (None: [DONE]), which come in pieces of `cut` bytes."""
    sent = b"".join(
        b"data: " + (b"[DONE]" if chunk is None else json.dumps(chunk).encode()) + b"\n\n" for chunk in chunks
    )

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(sent), cut or len(sent) or 1):
            yield sent[at : at + (cut or len(sent))]

    events = []
    async for piece in events_of(pieces(), thinking=thinking):
        assert piece.endswith(b"\n\n"), "something else may be written between two pieces"
        for frame in piece.decode().removesuffix("\n\n").split("\n\n"):
            name, data = frame.split("\n")
            event = json.loads(data.removeprefix("data: "))
            assert name == f"event: {event['type']}"
            StreamEvent.model_validate(event, strict=True)
            events.append(event)
    return events


def blocks_of(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The blocks as a client puts them together, after a look at their order."""
    blocks: list[dict[str, Any]] = []
    open_block: int | None = None
    for event in events:
        match event["type"]:
            case "content_block_start":
                assert open_block is None
                assert event["index"] == len(blocks)
                open_block = event["index"]
                blocks.append({**event["content_block"], "json": ""})
            case "content_block_delta":
                assert event["index"] == open_block
                kind = event["delta"]["type"]
                field = {"text_delta": "text", "thinking_delta": "thinking", "signature_delta": "signature"}.get(kind)
                if field is not None:
                    blocks[-1][field] += event["delta"][field]
                else:
                    assert kind == "input_json_delta"
                    blocks[-1]["json"] += event["delta"]["partial_json"]
            case "content_block_stop":
                assert event["index"] == open_block
                open_block = None
    assert open_block is None
    return blocks


TEXT = (
    delta(role="assistant", content=None),
    delta(content="Hel"),
    delta(content="lo."),
    delta("stop"),
    {"id": "chatcmpl-7", "model": "m", "choices": [], "usage": USAGE},
    None,
)


@pytest.mark.parametrize("cut", [0, 1, 7])
async def test_a_streamed_text(cut: int) -> None:
    message = {**message_of(whole()), "content": [], "stop_reason": None, "usage": NO_USAGE}
    assert await stream_of(*TEXT, cut=cut) == [
        {"type": "message_start", "message": message},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hel"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "lo."}},
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": TOLD_USAGE,
        },
        {"type": "message_stop"},
    ]


async def test_streamed_thoughts_text_and_calls_are_blocks_one_after_the_other() -> None:
    events = await stream_of(
        delta(role="assistant", content=None),
        delta(reasoning_content="h"),
        delta(reasoning_content="m"),
        delta(content="I look."),
        delta(tool_calls=[{"index": 0, **call(arguments="{")}]),
        delta(tool_calls=[{"index": 0, "function": {"arguments": '"city":"Rome"}'}}]),
        delta(tool_calls=[{"index": 1, **call("clock", "", id="b")}]),
        delta("tool_calls"),
        None,
    )
    assert blocks_of(events) == [
        {"type": "thinking", "thinking": "hm", "signature": "", "json": ""},
        {"type": "text", "text": "I look.", "json": ""},
        {"type": "tool_use", "id": "a", "name": "weather", "input": {}, "json": '{"city":"Rome"}'},
        {"type": "tool_use", "id": "b", "name": "clock", "input": {}, "json": ""},
    ]
    assert events[-2]["delta"]["stop_reason"] == "tool_use"
    assert {"type": "signature_delta", "signature": ""} in [event.get("delta") for event in events]


async def test_streamed_thoughts_can_be_kept_back() -> None:
    events = await stream_of(delta(reasoning_content="hm"), delta("stop", content="x"), None, thinking=False)
    assert blocks_of(events) == [{"type": "text", "text": "x", "json": ""}]


async def test_a_stream_without_content_has_no_blocks() -> None:
    types = ["message_start", "message_delta", "message_stop"]
    assert [event["type"] for event in await stream_of(delta("stop"), None)] == types
    assert [event["type"] for event in await stream_of(None)] == types


@pytest.mark.parametrize(
    ("chunks", "kind"),
    [
        ([delta(content="x"), {"error": {"code": 500, "message": "it broke"}}], GenerationFailed),
        ([{"error": {"code": 400, "message": "too long"}}, None], InvalidRequest),
        ([], UpstreamClosed),
        ([delta(content="x")], UpstreamClosed),
    ],
)
async def test_a_stream_that_fails_or_breaks_off_raises_and_does_not_look_finished(
    chunks: list[dict[str, Any] | None], kind: type[HerdError]
) -> None:
    with pytest.raises(kind):
        await stream_of(*chunks)


def test_a_sign_of_life_is_a_ping_with_a_comment() -> None:
    assert ping("loading m 40%") == b': loading m 40%\nevent: ping\ndata: {"type":"ping"}\n\n'


def test_a_failure_is_an_event() -> None:
    name, data = failure(UpstreamClosed("gone")).decode().strip().split("\n")
    assert name == "event: error"
    assert json.loads(data.removeprefix("data: ")) == anthropic_error(UpstreamClosed("gone"))


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (InvalidRequest("x", param="messages"), "invalid_request_error"),
        (InvalidKey("x"), "authentication_error"),
        (PermissionDenied("x"), "permission_error"),
        (ModelNotFound("x"), "not_found_error"),
        (RequestCancelled("x"), "conflict_error"),
        (BodyTooLarge("x"), "request_too_large"),
        (QueueFull("x"), "rate_limit_error"),
        (HerdError("x"), "api_error"),
        (GenerationFailed("x"), "api_error"),
        (UpstreamClosed("x"), "api_error"),
        (InsufficientMemory("x"), "overloaded_error"),
        (UpstreamTimeout("x"), "timeout_error"),
    ],
)
def test_errors_have_anthropics_types_beside_our_codes(error: HerdError, kind: str) -> None:
    told = {"type": kind, "message": "x", "param": error.param, "code": error.code}
    assert anthropic_error(error) == {"type": "error", "error": told}
