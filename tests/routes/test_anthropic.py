"""Anthropic's Messages API over HTTP: answers, streams, counts, errors, and keys as its clients send them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.routes.conftest import StartHerd
from tests.routes.herd import Answer, Events, Herd, until
from tests.routes.stage import CHAT, Fake, Stage

MESSAGES = "/v1/messages"
COUNT = "/v1/messages/count_tokens"
MakeKey = Callable[..., str]


def asked(text: str, **fields: Any) -> dict[str, Any]:
    return {"max_tokens": 100, "messages": [{"role": "user", "content": text}], **fields}


def event_of(frame: bytes | None) -> dict[str, Any]:
    """The JSON of an event, after a look at its name. A comment before it is left out."""
    assert frame is not None
    lines = [line for line in frame.decode().splitlines() if not line.startswith(":")]
    name, data = lines
    event: dict[str, Any] = json.loads(data.removeprefix("data: "))
    assert name == f"event: {event['type']}"
    return event


async def events_of(herd: Herd, text: str, **fields: Any) -> list[dict[str, Any]]:
    async with herd.open("POST", MESSAGES, asked(text, stream=True, **fields)) as response:
        assert response.status == 200, await response.text()
        assert response.content_type == "text/event-stream"
        return [event_of(frame) for frame in await Events(response).rest()]


def failed_as(answer: Answer) -> tuple[int, str, str]:
    """Status, Anthropic's type and our code of an error in Anthropic's form."""
    assert list(answer.json) == ["type", "error"]
    assert answer.json["type"] == "error"
    assert set(answer.error) == {"type", "message", "param", "code"}
    return answer.status, answer.error["type"], answer.error["code"]


async def test_a_message_is_answered_by_a_chat(herd: Herd, fake: Fake) -> None:
    answer = await herd.post(MESSAGES, asked("one two", system="Be kind.", temperature=0.5, metadata={"user_id": "u"}))
    assert answer.status == 200
    told = answer.json
    assert told.pop("id").startswith("msg_")
    assert told == {
        "type": "message",
        "role": "assistant",
        "model": "alpha",
        "content": [{"type": "text", "text": "one two"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 7,
            "cache_read_input_tokens": 0,
            "cache_creation_input_tokens": 0,
            "output_tokens": 2,
        },
    }
    (request,) = fake.requests()
    assert request["body"] == {
        "max_tokens": 100,
        "temperature": 0.5,
        "messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "one two"}],
    }


async def test_an_answer_that_max_tokens_cuts_says_so(herd: Herd) -> None:
    answer = await herd.post(MESSAGES, asked("one two three", max_tokens=2))
    assert answer.json["stop_reason"] == "max_tokens"
    assert answer.json["usage"]["output_tokens"] == 2


async def test_a_message_is_streamed_as_events(herd: Herd) -> None:
    start, *middle, delta, stop = await events_of(herd, "one two")
    assert (start["message"]["content"], start["message"]["model"]) == ([], "alpha")
    assert [event["type"] for event in middle] == [
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
    ]
    assert "".join(event["delta"]["text"] for event in middle[1:3]) == "one two"
    assert delta["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert (delta["usage"]["input_tokens"], delta["usage"]["output_tokens"]) == (4, 2)
    assert stop == {"type": "message_stop"}


async def test_our_own_fields_count_here_too(herd: Herd, fake: Fake) -> None:
    await herd.post(MESSAGES, asked("hi", personality="pirate", system="Be kind."))
    await herd.post(MESSAGES, asked("hi", model="alpha:pirate", ctx=100, max_tokens=200))
    first, second = (request["body"] for request in fake.requests())
    assert first["messages"][0] == {"role": "system", "content": "Talk like a pirate.\n\nBe kind."}
    assert second["messages"][0] == {"role": "system", "content": "Talk like a pirate."}
    assert second["max_tokens"] < 100


async def test_pings_come_before_the_message_while_its_model_loads(fake: Fake, start_herd: StartHerd) -> None:
    herd = await start_herd(limits={"stream_heartbeat": 0.02})
    fake.close_gate()
    async with herd.open("POST", MESSAGES, asked("hi", stream=True)) as response:
        events = Events(response)
        for _ in range(2):
            assert await events.next() == b': loading alpha\nevent: ping\ndata: {"type":"ping"}\n'
        fake.open_gate()
        rest = [event_of(frame) for frame in await events.rest()]
    assert [event["type"] for event in rest if event["type"] != "ping"] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]


async def test_a_load_that_fails_after_pings_is_an_error_event(fake: Fake, start_herd: StartHerd) -> None:
    herd = await start_herd(limits={"stream_heartbeat": 0.02})
    fake.knobs(exit_during_load={"code": 1, "lines": ["it is bent"], "after": 0.3})
    events = await events_of(herd, "hi")
    assert events[0] == {"type": "ping"}
    assert events[-1]["type"] == "error"
    assert (events[-1]["error"]["type"], events[-1]["error"]["code"]) == ("overloaded_error", "model_load_failed")
    assert "message_stop" not in [event["type"] for event in events]


@pytest.mark.parametrize(
    ("fault", "kind", "code"),
    [
        ({"die_mid_stream": 1}, "api_error", "upstream_closed"),
        ({"error_stream_after": 1}, "api_error", "generation_failed"),
    ],
)
async def test_an_engine_that_breaks_off_ends_the_stream_with_an_error(
    herd: Herd, fake: Fake, fault: dict[str, int], kind: str, code: str
) -> None:
    fake.knobs(**fault)
    events = await events_of(herd, "one two")
    assert [event["type"] for event in events] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "error",
    ]
    assert (events[-1]["error"]["type"], events[-1]["error"]["code"]) == (kind, code)
    await until(lambda: [record.model for record in herd.service.pool.errors] == ["alpha"])


async def test_errors_have_anthropics_form(herd: Herd, fake: Fake) -> None:
    assert failed_as(await herd.post(MESSAGES, raw=b"{")) == (400, "invalid_request_error", "invalid_request")
    unknown = await herd.post(MESSAGES, asked("hi", model="nobody"))
    assert failed_as(unknown) == (404, "not_found_error", "model_not_found")
    too_long = await herd.post(MESSAGES, asked("word " * 5000))
    assert failed_as(too_long) == (400, "invalid_request_error", "context_length_exceeded")


async def test_what_is_wrong_is_named_and_loads_nothing(herd: Herd, fake: Fake) -> None:
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
    result = {"type": "tool_result", "tool_use_id": "nobody"}
    for fields, param in (
        ({"max_tokens": None}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"temperature": -1}, "temperature"),
        ({"personality": 1}, "personality"),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools[0].type"),
        ({"system": "s", "messages": [{"role": "user", "content": [image]}]}, "messages[0].content[0]"),
        ({"system": "s", "messages": [{"role": "user", "content": [result]}]}, "messages[0].content[0].tool_use_id"),
    ):
        for stream in (False, True):
            answer = await herd.post(MESSAGES, asked("hi", stream=stream, **fields) | fields)
            assert failed_as(answer)[0] == 400
            assert answer.error["param"] == param
            assert f"'{param}'" in answer.error["message"]
    assert fake.starts() == []


async def test_images_go_to_a_model_that_sees(stage: Stage, start_herd: StartHerd) -> None:
    (stage.data / "models" / "eye.gguf").write_bytes(b"")
    fake = stage.model("seer", params={"mmproj": "eye.gguf"})
    fake.knobs()
    herd = await start_herd()
    bad = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
    answer = await herd.post(MESSAGES, asked("", messages=[{"role": "user", "content": [bad]}]))
    assert (failed_as(answer)[0], answer.error["param"]) == (400, "messages[0].content[0].source.data")
    remote = {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}}
    answer = await herd.post(MESSAGES, asked("", messages=[{"role": "user", "content": [remote]}]))
    assert (failed_as(answer)[0], answer.error["param"]) == (400, "messages[0].content[0].source.url")


async def test_the_tokens_of_a_prompt_are_counted_without_an_answer(herd: Herd, fake: Fake) -> None:
    body = {"messages": [{"role": "user", "content": "one two"}], "system": "Be kind.", "stream": True}
    answer = await herd.post(COUNT, body)
    assert (answer.status, answer.json) == (200, {"input_tokens": 7})
    assert fake.requests(CHAT) == []
    wrong = await herd.post(COUNT, {**body, "messages": [{"role": "user"}]})
    assert failed_as(wrong)[0] == 400
    assert wrong.error["param"] == "messages[0].content"


async def test_a_key_may_come_as_anthropics_clients_send_it(
    fake: Fake, make_key: MakeKey, start_herd: StartHerd
) -> None:
    key = make_key("claude", "inference")
    herd = await start_herd()

    async def status(**headers: str) -> int:
        return (await herd.post(COUNT, asked("hi"), headers=headers)).status

    sent = {"anthropic_version": "2023-06-01", "anthropic_beta": "some-2025-01-01"}
    assert await status(**{"x-api-key": key}, **{name.replace("_", "-"): text for name, text in sent.items()}) == 200
    assert await status(**{"X-API-KEY": key}) == 200
    assert await status(Authorization=f"Bearer {key}") == 200
    assert await status(**{"x-api-key": ""}) == 401
    assert await status() == 401
    # With both, Authorization counts.
    assert await status(**{"x-api-key": "sk-lh-wrong"}, Authorization=f"Bearer {key}") == 200
    assert await status(**{"x-api-key": key}, Authorization="Bearer sk-lh-wrong") == 401


async def test_a_wrong_key_is_told_in_anthropics_form_and_never_shown(
    fake: Fake, make_key: MakeKey, start_herd: StartHerd
) -> None:
    make_key("claude", "inference")
    herd = await start_herd()
    answer = await herd.post(MESSAGES, asked("hi"), headers={"x-api-key": "sk-lh-wrong"})
    assert failed_as(answer) == (401, "authentication_error", "invalid_api_key")
    assert b"sk-lh-wrong" not in answer.body


async def test_limits_of_a_key_count_what_a_stream_took(fake: Fake, make_key: MakeKey, start_herd: StartHerd) -> None:
    key = make_key("small", "inference", tokens_per_day=6)
    herd = await start_herd()
    herd.key = key
    await events_of(herd, "one two", max_tokens=4)
    await until(lambda: not herd.in_flight)
    refused = await herd.post(MESSAGES, asked("again", max_tokens=1))
    assert failed_as(refused) == (429, "rate_limit_error", "rate_limit_exceeded")
    assert "Retry-After" in refused.headers


async def test_pages_may_send_anthropics_headers(fake: Fake, make_key: MakeKey, start_herd: StartHerd) -> None:
    key = make_key("page", "inference")
    origin = "https://app.example.org"
    herd = await start_herd(cors={"allowed_origins": [origin]})
    headers = "anthropic-dangerous-direct-browser-access,anthropic-version,content-type,x-api-key"
    preflight = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": headers,
    }
    asks = await herd.ask("OPTIONS", MESSAGES, headers=preflight)
    assert (asks.status, asks.headers["Access-Control-Allow-Headers"]) == (204, headers)
    answer = await herd.post(COUNT, asked("hi"), headers={"Origin": origin, "x-api-key": key})
    assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (200, origin)
