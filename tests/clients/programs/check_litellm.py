"""litellm: models are `openai/NAME` (or `text-completion-openai/NAME`) with the service's base URL."""

# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import json
from typing import Any

import litellm
import pytest

from tests.clients.programs.conftest import Herd, run_example

HELLO = [{"role": "user", "content": "Name a colour."}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"]},
    },
}


@pytest.fixture
def to(herd: Herd) -> dict[str, Any]:
    """What every call needs."""
    return {"base_url": herd.v1, "api_key": herd.key, "temperature": 0, "max_tokens": 60}


def test_models_of_the_service_are_found(herd: Herd) -> None:
    found = litellm.get_valid_models(
        check_provider_endpoint=True, custom_llm_provider="openai", api_base=herd.url, api_key=herd.key
    )
    assert {"smol", "endless", "vectors"} <= set(found)


def test_a_chat_is_answered_whole_and_streamed(to: dict[str, Any]) -> None:
    asked = {"model": "openai/smol:exact", "messages": HELLO, "seed": 1, **to, "max_tokens": 16}
    whole = litellm.completion(**asked)
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    chunks = list(litellm.completion(**asked, stream=True, stream_options={"include_usage": True}))
    text = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    assert len(text) > 3
    assert "".join(text) == whole.choices[0].message.content
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens


async def test_a_chat_is_answered_to_asyncio_too(to: dict[str, Any]) -> None:
    answer = await litellm.acompletion(model="openai/smol", messages=HELLO, **to)
    assert answer.choices[0].message.content


def test_a_tool_is_called(to: dict[str, Any]) -> None:
    call = [{"role": "user", "content": "Call get_weather with Rome."}]
    answer = litellm.completion(model="openai/smol", messages=call, tools=[WEATHER], tool_choice="auto", **to)
    (called,) = answer.choices[0].message.tool_calls
    assert (called.function.name, json.loads(called.function.arguments)) == ("get_weather", {"city": "Rome"})


def test_an_answer_fits_a_schema(to: dict[str, Any]) -> None:
    schema = {"type": "object", "properties": {"bright": {"type": "boolean"}}, "required": ["bright"]}
    form = {"type": "json_schema", "json_schema": {"name": "colour", "schema": schema, "strict": True}}
    answer = litellm.completion(model="openai/smol", messages=HELLO, response_format=form, **to)
    assert type(json.loads(answer.choices[0].message.content)["bright"]) is bool


def test_a_text_is_completed(to: dict[str, Any]) -> None:
    answer = litellm.text_completion(model="text-completion-openai/smol", prompt="The sky is", **to)
    assert answer.choices[0].text


def test_embeddings_are_made(herd: Herd) -> None:
    made = litellm.embedding(
        model="openai/vectors", input=["a", "b"], api_base=herd.v1, api_key=herd.key, encoding_format="float"
    )
    first, second = (item["embedding"] for item in made.data)
    assert len(first) == len(second) > 100
    assert first != second
    assert made.usage.prompt_tokens > 0


def test_errors_have_their_classes(to: dict[str, Any]) -> None:
    with pytest.raises(litellm.NotFoundError):
        litellm.completion(model="openai/unknown", messages=HELLO, **to)
    with pytest.raises(litellm.AuthenticationError):
        litellm.completion(model="openai/smol", messages=HELLO, **{**to, "api_key": "sk-lh-wrong"})
    with pytest.raises(litellm.ContextWindowExceededError):
        litellm.completion(model="openai/smol", messages=[{"role": "user", "content": "word " * 5000}], **to)
    with pytest.raises(litellm.BadRequestError):
        litellm.completion(model="openai/smol", messages=HELLO, extra_body={"min_p": 7}, **to)
    with pytest.raises(litellm.Timeout):
        litellm.completion(
            model="openai/endless",
            messages=HELLO,
            timeout=0.2,
            max_retries=0,
            **{**to, "max_tokens": 2000},
        )


def test_the_example_runs(herd: Herd, capsys: pytest.CaptureFixture[str]) -> None:
    run_example(herd, "litellm")
    assert capsys.readouterr().out.strip()
