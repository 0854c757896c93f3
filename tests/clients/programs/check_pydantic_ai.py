"""pydantic-ai: an agent with OpenAIChatModel and the service's base URL."""

# mypy: disable-error-code="import-not-found"

from __future__ import annotations

from typing import Any, Literal

import pytest
from pydantic import BaseModel
from pydantic_ai import Agent, ModelHTTPError, NativeOutput, UnexpectedModelBehavior
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from tests.clients.programs.conftest import Herd, run_example


class Colour(BaseModel):
    name: Literal["red", "green", "blue"]
    bright: bool


def agent(herd: Herd, model: str = "smol", *, key: str | None = None, tokens: int = 60, **more: Any) -> Any:
    provider = OpenAIProvider(base_url=herd.v1, api_key=key or herd.key)
    settings = {"temperature": 0.0, "seed": 1, "max_tokens": tokens}
    return Agent(OpenAIChatModel(model, provider=provider), model_settings=settings, **more)


async def test_a_chat_is_answered_whole_and_streamed(herd: Herd) -> None:
    exact = agent(herd, "smol:exact", tokens=16)
    whole = await exact.run("Name a colour.")
    assert whole.usage.output_tokens > 0
    async with exact.run_stream("Name a colour.") as stream:
        pieces = [piece async for piece in stream.stream_text(delta=True, debounce_by=None)]
    assert len(pieces) > 3
    assert "".join(pieces) == whole.output
    assert stream.usage.total_tokens == whole.usage.total_tokens


async def test_a_conversation_goes_on(herd: Herd) -> None:
    first = await agent(herd, tokens=8).run("Name a colour.")
    second = await agent(herd, tokens=8).run("And another one.", message_history=first.all_messages())
    assert second.usage.input_tokens > first.usage.input_tokens


async def test_an_answer_is_parsed_into_a_class(herd: Herd) -> None:
    answer = await agent(herd, output_type=NativeOutput(Colour)).run("Name a colour.")
    assert isinstance(answer.output, Colour)


async def test_a_tool_is_called_and_its_result_sent_back(herd: Herd) -> None:
    called: list[str] = []

    def get_weather(city: Literal["Paris", "Rome"]) -> str:
        called.append(city)
        return f"Sunny in {city}."

    answer = await agent(herd, tools=[get_weather]).run("Call get_weather with Rome.")
    assert called == ["Rome"]
    assert answer.output
    assert answer.usage.requests == 2


async def test_errors_tell_the_status(herd: Herd) -> None:
    with pytest.raises(ModelHTTPError) as unknown:
        await agent(herd, "unknown").run("Hi")
    assert unknown.value.status_code == 404
    with pytest.raises(ModelHTTPError) as denied:
        await agent(herd, key="sk-lh-wrong").run("Hi")
    assert denied.value.status_code == 401
    with pytest.raises(UnexpectedModelBehavior):  # the answer was cut off before it was whole
        await agent(herd, output_type=NativeOutput(Colour), tokens=2).run("Name a colour.")


def test_the_example_runs(herd: Herd, capsys: pytest.CaptureFixture[str]) -> None:
    run_example(herd, "pydantic-ai")
    assert capsys.readouterr().out.strip()
