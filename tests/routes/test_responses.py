"""The Responses API over HTTP: what the official client makes of it, and of what goes wrong."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from tests.routes.conftest import StartHerd, outside
from tests.routes.herd import Events, Herd, until
from tests.routes.stage import Fake, Stage

PATH = "/v1/responses"
COUNT = f"{PATH}/input_tokens"
BEGIN = ["response.created", "response.in_progress"]


@pytest.fixture
async def client(herd: Herd) -> AsyncIterator[AsyncOpenAI]:
    async with client_of(herd) as client:
        yield client


def client_of(herd: Herd) -> AsyncOpenAI:
    url = str(herd.server.make_url("/v1"))
    return outside(lambda: AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=10))


async def events_of(events: Events) -> list[dict[str, Any]]:
    frames = [frame for frame in await events.rest() if not frame.startswith(b":")]
    return [json.loads(frame.partition(b"\ndata: ")[2]) for frame in frames]


async def test_the_official_client_reads_a_whole_response(client: AsyncOpenAI, fake: Fake) -> None:
    response = await client.responses.create(
        model="alpha", instructions="Be brief.", input="one two three", metadata={"a": "b"}, extra_body={"seed": 3}
    )
    assert (response.output_text, response.status, response.model) == ("one two three", "completed", "alpha")
    assert response.usage
    assert (response.usage.input_tokens, response.usage.output_tokens, response.usage.total_tokens) == (8, 3, 11)
    assert (response.instructions, response.metadata) == ("Be brief.", {"a": "b"})
    (request,) = fake.requests()
    system, user = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "one two three"}
    assert request["body"] == {"model": "alpha", "seed": 3, "messages": [system, user]}


async def test_the_official_client_reads_a_stream(client: AsyncOpenAI) -> None:
    async with client.responses.stream(model="alpha", input="one two three", max_output_tokens=2) as stream:
        events = [event async for event in stream]
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert deltas == ["one", " two"]
    last = events[-1]
    assert last.type == "response.incomplete"
    assert last.response.output_text == "one two"
    assert last.response.incomplete_details
    assert last.response.incomplete_details.reason == "max_output_tokens"
    assert last.response.usage
    assert last.response.usage.output_tokens == 2
    async with client.responses.stream(model="alpha", input="one two three") as stream:
        final = await stream.get_final_response()
    assert (final.output_text, final.status) == ("one two three", "completed")


async def test_events_come_as_the_tokens_do_and_no_done_follows(herd: Herd, fake: Fake) -> None:
    fake.hold_streams()
    async with herd.open("POST", PATH, {"input": "one two", "stream": True}) as response:
        assert response.headers["Content-Type"].startswith("text/event-stream")
        events = Events(response)
        frames = [await events.next() for _ in range(5)]
        assert b'"delta":"one"' in (frames[-1] or b"")
        fake.release_streams()
        rest = await events.rest()
    assert rest[-1].startswith(b"event: response.completed\ndata: {")


async def test_the_conversation_goes_on_with_the_output_of_before(client: AsyncOpenAI, fake: Fake) -> None:
    first = await client.responses.create(input="one")
    history: list[Any] = [{"role": "user", "content": "one"}, *(item.to_dict() for item in first.output)]
    second = await client.responses.create(input=[*history, {"role": "user", "content": "two"}])
    assert second.output_text == "two"
    assert [message["role"] for message in fake.requests()[-1]["body"]["messages"]] == ["user", "assistant", "user"]


async def test_personalities_and_budgets_work_as_in_a_chat(client: AsyncOpenAI, fake: Fake) -> None:
    await client.responses.create(model="alpha:pirate", instructions="Be brief.", input="hi", truncation="auto")
    (request,) = fake.requests()
    assert request["body"]["messages"][0]["content"] == "Talk like a pirate.\n\nBe brief."
    assert 0 < request["body"]["max_tokens"] < 4096
    assert "ctx" not in request["body"]


async def test_tokens_of_an_input_are_counted(client: AsyncOpenAI, fake: Fake) -> None:
    counted = await client.responses.input_tokens.count(model="alpha", instructions="Be brief.", input="one two")
    assert (counted.object, counted.input_tokens) == ("response.input_tokens", 7)
    assert fake.requests() == []


@pytest.mark.parametrize("path", [PATH, COUNT])
@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "input"),
        ({"input": 5}, "input"),
        ({"input": "a", "previous_response_id": "resp_1"}, "previous_response_id"),
        ({"input": "a", "background": True}, "background"),
        ({"input": "a", "tools": [{"type": "web_search"}]}, "tools[0]"),
        ({"input": "a", "seed": "x"}, "seed"),
        ({"input": "a", "max_output_tokens": 0}, "max_output_tokens"),
        (
            {
                "instructions": "b",
                "input": [{"role": "user", "content": [{"type": "input_image", "image_url": "file:///etc/passwd"}]}],
            },
            "input[0].content[0]",
        ),
        (
            {
                "input": [
                    {"role": "user", "content": "a"},
                    {"type": "function_call_output", "call_id": "c", "output": ""},
                ]
            },
            "input[1].call_id",
        ),
    ],
)
async def test_mistakes_are_named_and_load_nothing(
    herd: Herd, fake: Fake, path: str, fields: dict[str, Any], param: str
) -> None:
    answer = await herd.post(path, fields)
    assert (answer.status, answer.error["param"], answer.error["type"]) == (400, param, "invalid_request_error")
    assert f"'{param}'" in answer.error["message"]
    assert fake.starts() == []


async def test_what_is_nested_too_deeply_to_be_said_again_is_refused(herd: Herd, fake: Fake) -> None:
    deep = json.loads('{"a":' * 300 + "1" + "}" * 300)
    tools = [{"type": "function", "name": "f", "parameters": deep}, {"type": "function", "name": "g"}]
    fields = {"input": "a", "tools": tools, "tool_choice": {"type": "function", "name": "g"}}
    answer = await herd.post(PATH, fields)
    assert (answer.status, answer.error["message"]) == (400, "The body is nested too deeply.")
    assert fake.starts() == []


async def test_the_official_client_raises_its_classes(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.responses.create(input="hi", previous_response_id="resp_1")
    assert (caught.value.param, caught.value.code) == ("previous_response_id", "invalid_request")
    with pytest.raises(openai.NotFoundError):
        await client.responses.create(model="nobody", input="hi")


async def test_an_input_that_does_not_fit_is_the_inputs_fault(herd: Herd) -> None:
    for stream in (False, True):
        answer = await herd.post(PATH, {"input": "word " * 5000, "stream": stream})
        assert (answer.status, answer.error["code"]) == (400, "context_length_exceeded")
        assert answer.error["param"] == "input"


@pytest.mark.parametrize(
    ("fault", "code"),
    [({"error_stream_after": 2}, "generation_failed"), ({"cut_stream_after": 2}, "upstream_closed")],
)
async def test_a_stream_that_fails_ends_with_the_failed_response(
    herd: Herd, fake: Fake, fault: dict[str, int], code: str
) -> None:
    fake.knobs(**fault)
    async with herd.open("POST", PATH, {"input": "one two three", "stream": True}) as response:
        events = await events_of(Events(response))
    assert [event["type"] for event in events[:2]] == BEGIN
    assert [event["type"] for event in events[-2:]] == ["error", "response.failed"]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[-2]["error"]["code"] == code
    assert events[-1]["response"]["error"]["code"] == "server_error"
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == "one two"
    async with client_of(herd) as client:
        with pytest.raises(openai.APIError) as caught:
            async for _ in await client.responses.create(input="one two three", stream=True):
                pass
    assert caught.value.code == code


async def test_a_load_that_fails_after_signs_of_life_is_a_failed_response(stage: Stage, start_herd: StartHerd) -> None:
    fake = stage.model("alpha")
    fake.close_gate(exit_during_load={"after": 0.2, "code": 1, "lines": ["no such tensor"]})
    herd = await start_herd(limits={"stream_heartbeat": 0.02})
    async with herd.open("POST", PATH, {"model": "alpha", "input": "hi", "stream": True}) as response:
        events = Events(response)
        assert (await events.next() or b"").startswith(b": ")
        told = await events_of(events)
    assert [event["type"] for event in told] == [*BEGIN, "error", "response.failed"]
    assert told[-2]["code"] == "model_load_failed"
    assert told[-1]["response"]["error"]["code"] == "server_error"
    assert told[-1]["response"]["model"] == "alpha"


async def test_a_response_tells_what_the_entry_made_of_the_request(stage: Stage, start_herd: StartHerd) -> None:
    stage.model("alpha", request={"set": {"temperature": 0.25, "max_completion_tokens": 2}})
    herd = await start_herd()
    body = {"model": "alpha", "input": "one two three", "temperature": 1.5, "max_output_tokens": 9}
    whole = (await herd.post(PATH, body)).json
    async with herd.open("POST", PATH, {**body, "stream": True}) as response:
        events = await events_of(Events(response))
    for told in (whole, events[0]["response"], events[-1]["response"]):
        assert (told["temperature"], told["max_output_tokens"]) == (0.25, 2)


async def test_who_leaves_a_stream_frees_the_engine(herd: Herd, fake: Fake) -> None:
    fake.hold_streams()
    async with herd.open("POST", PATH, {"input": "one two", "stream": True}) as response:
        await Events(response).next()
    await until(lambda: len(fake.disconnects()) == 1)
    await until(lambda: herd.in_flight == 0)
