"""langchain-openai: ChatOpenAI and OpenAIEmbeddings with the service's base URL."""

# mypy: disable-error-code="import-not-found"

from __future__ import annotations

from typing import Any, Literal

import openai
import pytest
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel

from tests.clients.programs.conftest import Herd, run_example

CALL = "Call get_weather with Rome."


class Colour(BaseModel):
    """A colour."""

    name: Literal["red", "green", "blue"]
    bright: bool


@tool  # type: ignore[untyped-decorator]
def get_weather(city: Literal["Paris", "Rome"]) -> str:
    """The weather of a city."""
    return f"Sunny in {city}."


def chat(herd: Herd, model: str = "smol", **more: Any) -> Any:
    settings = {"api_key": herd.key, "temperature": 0, "max_retries": 0, "max_tokens": 60, **more}
    return ChatOpenAI(model=model, base_url=herd.v1, **settings)


def test_a_chat_is_answered_whole_and_streamed(herd: Herd) -> None:
    model = chat(herd, "smol:exact", max_tokens=16, seed=1, stream_usage=True)
    whole = model.invoke("Name a colour.")
    chunks = list(model.stream("Name a colour."))
    assert len([chunk for chunk in chunks if chunk.content]) > 3
    added = chunks[0]
    for chunk in chunks[1:]:
        added += chunk
    assert added.content == whole.content
    assert added.usage_metadata["total_tokens"] == whole.usage_metadata["total_tokens"]
    assert whole.response_metadata["model_name"] == "smol"


async def test_several_chats_at_once_are_answered(herd: Herd) -> None:
    answers = await chat(herd, max_tokens=4).abatch(["Name a colour.", "Name a city.", "Name a river."])
    assert [bool(answer.content) for answer in answers] == [True] * 3


def test_a_tool_is_called_and_its_result_goes_into_the_answer(herd: Herd) -> None:
    model = chat(herd).bind_tools([get_weather])
    asked = model.invoke(CALL)
    (call,) = asked.tool_calls
    assert (call["name"], call["args"]) == ("get_weather", {"city": "Rome"})
    result = get_weather.invoke(call)
    assert isinstance(result, ToolMessage)
    assert chat(herd).invoke([HumanMessage(CALL), asked, result]).content


def test_a_streamed_call_adds_up_to_the_whole_one(herd: Herd) -> None:
    chunks = list(chat(herd).bind_tools([get_weather]).stream(CALL))
    added = chunks[0]
    for chunk in chunks[1:]:
        added += chunk
    assert [(call["name"], call["args"]) for call in added.tool_calls] == [("get_weather", {"city": "Rome"})]
    assert len([chunk for chunk in chunks if chunk.tool_call_chunks]) > 1


def test_an_answer_is_parsed_into_a_class(herd: Herd) -> None:
    answer = chat(herd).with_structured_output(Colour).invoke("Name a colour.")
    assert isinstance(answer, Colour)


def test_embeddings_are_made(herd: Herd) -> None:
    # Without the setting it sends token ids of OpenAI's own models, which no other model knows.
    model = OpenAIEmbeddings(model="vectors", base_url=herd.v1, api_key=herd.key, check_embedding_ctx_length=False)
    first, second = model.embed_documents(["A red apple.", "The law of the sea."])
    assert len(first) == len(second) > 100
    assert model.embed_query("A red apple.") == pytest.approx(first, abs=1e-4)


def test_a_response_is_answered(herd: Herd) -> None:
    answer = chat(herd, use_responses_api=True, max_tokens=16).invoke("Name a colour.")
    assert answer.text
    assert answer.usage_metadata["output_tokens"] > 0


def test_errors_are_those_of_the_official_client(herd: Herd) -> None:
    with pytest.raises(openai.NotFoundError, match="unknown"):
        chat(herd, "unknown").invoke("Hi")
    with pytest.raises(openai.AuthenticationError):
        chat(herd, api_key="sk-lh-wrong").invoke("Hi")
    with pytest.raises(openai.APITimeoutError):
        chat(herd, "endless", timeout=0.2, max_tokens=2000).invoke("Hi")


def test_the_example_runs(herd: Herd, capsys: pytest.CaptureFixture[str]) -> None:
    run_example(herd, "langchain-openai")
    assert capsys.readouterr().out.strip()
