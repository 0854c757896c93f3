"""The official client for Python: what tests/e2e has not got. Its chats, streams and classes of errors are there."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal

import openai
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam
from pydantic import BaseModel

from tests.clients.programs.conftest import Herd, run_example
from tests.e2e.service import PATIENCE, Service

pytestmark = pytest.mark.timeout(180)

HELLO: Final[list[ChatCompletionMessageParam]] = [{"role": "user", "content": "Name a colour."}]
CALL: Final[list[ChatCompletionMessageParam]] = [{"role": "user", "content": "Call get_weather with Rome."}]
WEATHER: Final[ChatCompletionToolParam] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


class Colour(BaseModel):
    name: Literal["red", "green", "blue"]
    bright: bool


class get_weather(BaseModel):
    """The weather of a city."""

    city: Literal["Paris", "Rome"]


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[OpenAI]:
    with OpenAI(base_url=service.openai_url, api_key=service.inference_key, max_retries=0, timeout=PATIENCE) as client:
        yield client


def test_a_tool_is_called_and_its_result_goes_into_the_answer(client: OpenAI) -> None:
    asked = client.chat.completions.create(model="smol", messages=CALL, tools=[WEATHER], temperature=0)
    assert asked.choices[0].finish_reason == "tool_calls"
    (call,) = asked.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert call.id
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments) == {"city": "Rome"}
    result: list[Any] = [
        *CALL,
        asked.choices[0].message,
        {"role": "tool", "tool_call_id": call.id, "content": "Sunny, 24 degrees."},
    ]
    told = client.chat.completions.create(model="smol", messages=result, tools=[WEATHER], temperature=0, max_tokens=16)
    assert told.choices[0].message.content


def test_a_streamed_call_adds_up_to_the_whole_one(client: OpenAI) -> None:
    with client.chat.completions.stream(model="smol", messages=CALL, tools=[WEATHER], temperature=0) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_completion()
    assert kinds.count("tool_calls.function.arguments.delta") > 1
    assert kinds.count("tool_calls.function.arguments.done") == 1
    (call,) = final.choices[0].message.tool_calls or []
    assert json.loads(call.function.arguments) == {"city": "Rome"}
    assert final.choices[0].finish_reason == "tool_calls"


def test_a_tool_made_of_a_class_has_its_arguments_parsed(client: OpenAI) -> None:
    answer = client.chat.completions.parse(
        model="smol", messages=CALL, tools=[openai.pydantic_function_tool(get_weather)], temperature=0
    )
    (call,) = answer.choices[0].message.tool_calls or []
    assert call.function.parsed_arguments == get_weather(city="Rome")


def test_an_answer_is_parsed_into_a_class(client: OpenAI) -> None:
    answer = client.chat.completions.parse(
        model="smol", messages=HELLO, response_format=Colour, temperature=0, max_tokens=60
    )
    assert isinstance(answer.choices[0].message.parsed, Colour)


def test_a_streamed_answer_is_parsed_into_a_class(client: OpenAI) -> None:
    with client.chat.completions.stream(
        model="smol", messages=HELLO, response_format=Colour, temperature=0, max_tokens=60
    ) as stream:
        pieces = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion().choices[0].message
    assert len(pieces) > 1
    assert "".join(pieces) == final.content
    assert isinstance(final.parsed, Colour)


def test_embeddings_come_as_bytes_and_as_numbers_one_for_each_input(client: OpenAI) -> None:
    texts = ["A red apple.", "A green apple.", "The law of the sea."]
    packed = client.embeddings.create(model="vectors", input=texts)  # the client asks for base64 by itself
    plain = client.embeddings.create(model="vectors", input=texts, encoding_format="float")
    vectors = [item.embedding for item in packed.data]
    assert [item.index for item in packed.data] == [0, 1, 2]
    assert [item.embedding for item in plain.data] == [pytest.approx(vector, abs=1e-6) for vector in vectors]
    assert all(math.isclose(math.hypot(*vector), 1, abs_tol=1e-4) for vector in vectors)
    red, green, law = vectors
    assert math.dist(red, green) < math.dist(red, law)
    assert packed.usage.prompt_tokens == packed.usage.total_tokens > 0
    assert packed.model == "vectors"


def test_a_model_of_chats_makes_no_embeddings(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="smol") as caught:
        client.embeddings.create(model="smol", input="a")
    assert caught.value.code == "endpoint_not_supported"


def test_the_raw_answer_has_the_request_id_that_errors_have_too(client: OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model="smol", messages=HELLO, max_tokens=1, extra_headers={"X-Request-ID": "mine-1"}
    )
    assert raw.headers["x-request-id"] == "mine-1"
    assert raw.parse()._request_id == "mine-1"
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="unknown", messages=HELLO)
    assert caught.value.request_id


def test_a_response_is_answered_whole_and_streamed(client: OpenAI) -> None:
    asked: dict[str, Any] = {
        "model": "smol:exact",
        "input": "Name a colour.",
        "temperature": 0,
        "max_output_tokens": 16,
    }
    whole = client.responses.create(**asked)
    assert whole.output_text
    assert whole.usage
    assert whole.usage.total_tokens == whole.usage.input_tokens + whole.usage.output_tokens
    events = list(client.responses.create(**asked, stream=True))
    assert events[0].type == "response.created"
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == whole.output_text
    assert events[-1].type in {"response.completed", "response.incomplete"}
    assert events[-1].response.output_text == whole.output_text


def test_a_response_calls_a_tool_and_is_parsed_into_a_class(client: OpenAI) -> None:
    tool: Any = {"type": "function", **WEATHER["function"]}
    called = client.responses.create(model="smol", input="Call get_weather with Rome.", tools=[tool], temperature=0)
    (call,) = [item for item in called.output if item.type == "function_call"]
    assert (call.name, json.loads(call.arguments)) == ("get_weather", {"city": "Rome"})
    parsed = client.responses.parse(
        model="smol", input="Name a colour.", text_format=Colour, temperature=0, max_output_tokens=60
    )
    assert isinstance(parsed.output_parsed, Colour)


def test_a_response_for_an_unknown_model_is_not_found(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.responses.create(model="unknown", input="Hi")
    assert caught.value.code == "model_not_found"


def test_a_timeout_is_the_clients_own_error_and_frees_the_slot(client: OpenAI) -> None:
    client.chat.completions.create(model="endless", messages=HELLO, max_tokens=1)
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.3).chat.completions.create(model="endless", messages=HELLO, max_tokens=2000)
    started = time.monotonic()
    client.chat.completions.create(model="endless", messages=HELLO, max_tokens=1)
    assert time.monotonic() - started < 10  # 2000 tokens would take several times as long


@pytest.fixture
def patient(
    faulty_service: Service, authority: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[OpenAI, list[Any]]]:
    """A client that tries again, and the requests that it sends. Whom it trusts it knows from the environment."""
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    url, key, sent = faulty_service.openai_url, faulty_service.inference_key, list[Any]()
    with (
        openai.DefaultHttpxClient(event_hooks={"request": [sent.append]}) as transport,
        OpenAI(base_url=url, api_key=key, http_client=transport, timeout=PATIENCE) as client,
    ):
        yield client, sent


def test_what_may_succeed_later_is_tried_again_when_the_service_says(patient: tuple[OpenAI, list[Any]]) -> None:
    client, sent = patient
    started = time.monotonic()
    answer = client.chat.completions.create(model="flaky-python", messages=HELLO)
    assert answer.choices[0].message.content == "Name a colour."
    assert len(sent) == 2
    assert time.monotonic() - started >= 1  # Retry-After; the client's own first pause is half of it


def test_what_cannot_succeed_is_not_tried_again(patient: tuple[OpenAI, list[Any]]) -> None:
    client, sent = patient
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(model="broken", messages=HELLO)
    assert caught.value.code == "model_load_failed"
    assert len(sent) == 1


def test_a_service_whose_authority_is_not_trusted_gets_nothing(faulty_service: Service) -> None:
    url, key = faulty_service.openai_url, faulty_service.inference_key
    with (
        OpenAI(base_url=url, api_key=key, max_retries=0) as client,
        pytest.raises(openai.APIConnectionError),
    ):
        client.models.list()


def test_the_example_of_the_documentation_runs(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    run_example(Herd(service.url, service.inference_key), "openai for Python")
    assert capsys.readouterr().out.strip()
