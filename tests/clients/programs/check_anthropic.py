"""anthropic: the base URL is the service's, without /v1."""

# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import anthropic
import pytest
from anthropic import Anthropic, AsyncAnthropic
from pydantic import BaseModel

from tests.clients.programs.conftest import Herd, run_example

HELLO: list[Any] = [{"role": "user", "content": "Name a colour."}]
CALL: list[Any] = [{"role": "user", "content": "Call get_weather with Rome."}]
WEATHER: dict[str, Any] = {
    "name": "get_weather",
    "description": "The weather of a city.",
    "input_schema": {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"]},
}
COLD: dict[str, Any] = {"temperature": 0}  # this client's own methods have no place for it any more
EXACT: dict[str, Any] = {"model": "smol:exact", "messages": HELLO, "max_tokens": 16, "extra_body": COLD}


class Colour(BaseModel):
    name: Literal["red", "green", "blue"]
    bright: bool


@pytest.fixture(scope="module")
def client(herd: Herd) -> Iterator[Any]:
    with Anthropic(base_url=herd.url, api_key=herd.key, max_retries=0, timeout=60) as client:
        yield client


@contextmanager
def counting(herd: Herd) -> Iterator[tuple[Any, list[Any]]]:
    """A client that tries again, and the requests that it sends."""
    sent: list[Any] = []
    with (
        anthropic.DefaultHttpxClient(event_hooks={"request": [sent.append]}) as transport,
        Anthropic(base_url=herd.url, api_key=herd.key, http_client=transport, timeout=60) as client,
    ):
        yield client, sent


def test_models_are_listed_and_retrieved(client: Any) -> None:
    assert {"smol", "endless", "vectors"} <= {model.id for model in client.models.list()}
    assert client.models.retrieve("smol").id == "smol"


def test_a_message_is_answered_whole_and_streamed(client: Any) -> None:
    whole = client.messages.create(**EXACT)
    assert (whole.type, whole.role, whole.stop_reason) == ("message", "assistant", "max_tokens")
    assert (whole.usage.input_tokens, whole.usage.output_tokens) == (13, 16)
    with client.messages.stream(**EXACT) as stream:
        texts = list(stream.text_stream)
        final = stream.get_final_message()
    assert len(texts) > 3
    assert "".join(texts) == final.content[0].text == whole.content[0].text
    assert (final.usage.input_tokens, final.usage.output_tokens) == (13, 16)
    kinds = [event.type for event in client.messages.create(**EXACT, stream=True)]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]


async def test_a_message_is_answered_to_asyncio_too(herd: Herd) -> None:
    async with AsyncAnthropic(base_url=herd.url, auth_token=herd.key, max_retries=0) as client:  # as Authorization
        answer = await client.messages.create(**EXACT, system="Answer in one word.", stop_sequences=["never said"])
    assert answer.content[0].text


def test_a_tool_is_called_and_its_result_goes_into_the_answer(client: Any) -> None:
    asked = client.messages.create(model="smol", messages=CALL, tools=[WEATHER], max_tokens=40, extra_body=COLD)
    assert asked.stop_reason == "tool_use"
    (call,) = [block for block in asked.content if block.type == "tool_use"]
    assert (call.name, call.input) == ("get_weather", {"city": "Rome"})
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "Sunny, 24 degrees."}
    said = [*CALL, {"role": "assistant", "content": asked.content}, {"role": "user", "content": [result]}]
    told = client.messages.create(model="smol", messages=said, tools=[WEATHER], max_tokens=16, extra_body=COLD)
    assert told.content[0].text


def test_a_streamed_call_adds_up_to_the_whole_one(client: Any) -> None:
    with client.messages.stream(model="smol", messages=CALL, tools=[WEATHER], max_tokens=40, extra_body=COLD) as stream:
        parts = [event.partial_json for event in stream if event.type == "input_json"]
        (call,) = [block for block in stream.get_final_message().content if block.type == "tool_use"]
    assert len(parts) > 1
    assert call.input == {"city": "Rome"}


def test_an_answer_is_parsed_into_a_class(client: Any) -> None:
    answer = client.messages.parse(model="smol", messages=HELLO, output_format=Colour, max_tokens=60, extra_body=COLD)
    assert isinstance(answer.parsed_output, Colour)


def test_tokens_are_counted_as_they_are_read(client: Any) -> None:
    assert client.messages.count_tokens(model="smol", messages=HELLO).input_tokens == 13
    assert client.messages.count_tokens(model="smol", messages=CALL, tools=[WEATHER]).input_tokens > 50


def test_errors_have_their_classes(client: Any) -> None:
    with pytest.raises(anthropic.NotFoundError) as unknown:
        client.messages.create(**{**EXACT, "model": "unknown"})
    assert unknown.value.body["error"]["type"] == "not_found_error"
    with pytest.raises(anthropic.AuthenticationError):
        client.with_options(api_key="sk-lh-wrong").messages.create(**EXACT)
    with pytest.raises(anthropic.BadRequestError):
        client.messages.create(**{**EXACT, "extra_body": {"top_p": 2}})


def test_a_timeout_is_the_clients_own_error_and_frees_the_slot(client: Any) -> None:
    client.messages.create(model="endless", messages=HELLO, max_tokens=1)
    with pytest.raises(anthropic.APITimeoutError):
        client.with_options(timeout=0.3).messages.create(model="endless", messages=HELLO, max_tokens=2000)
    started = time.monotonic()
    client.messages.create(model="endless", messages=HELLO, max_tokens=1)
    assert time.monotonic() - started < 10  # 2000 tokens would take several times as long


def test_what_may_succeed_later_is_tried_again_when_the_service_says(faulty_herd: Herd) -> None:
    with counting(faulty_herd) as (client, sent):
        started = time.monotonic()
        answer = client.messages.create(model="flaky-anthropic", messages=HELLO, max_tokens=16)
    assert answer.content[0].text == "Name a colour."
    assert len(sent) == 2
    assert time.monotonic() - started >= 1  # Retry-After; its own first pause is half of it


def test_what_cannot_succeed_is_not_tried_again(faulty_herd: Herd) -> None:
    with counting(faulty_herd) as (client, sent), pytest.raises(anthropic.InternalServerError):
        client.messages.create(model="broken", messages=HELLO, max_tokens=16)
    assert len(sent) == 1


def test_the_example_runs(herd: Herd, capsys: pytest.CaptureFixture[str]) -> None:
    run_example(herd, "anthropic")
    assert capsys.readouterr().out.strip()
