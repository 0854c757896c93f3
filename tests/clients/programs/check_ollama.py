"""ollama: the host is the service's address; the key goes into a header, or into OLLAMA_API_KEY."""

# mypy: disable-error-code="import-not-found"

from __future__ import annotations

from typing import Any, Literal

import httpx
import ollama
import pytest
from pydantic import BaseModel

from tests.clients.programs.conftest import Herd, run_example

HELLO = [{"role": "user", "content": "Name a colour."}]
SHORT = {"temperature": 0, "seed": 1, "num_predict": 16}


class Colour(BaseModel):
    name: Literal["red", "green", "blue"]
    bright: bool


def get_weather(city: str) -> str:
    """The weather of a city.

    Args:
        city: its name
    """
    return f"Sunny in {city}."


def headers(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture(scope="module")
def client(herd: Herd) -> Any:
    return ollama.Client(host=herd.url, headers=headers(herd.key), timeout=60)


def test_models_are_listed_shown_and_seen_running(client: Any) -> None:
    listed = {model.model: model for model in client.list().models}
    assert {"smol", "endless", "vectors"} <= {name.removesuffix(":latest") for name in listed}
    assert all(model.size and model.modified_at and model.details.format == "gguf" for model in listed.values())
    shown = client.show("smol")
    assert "completion" in shown.capabilities
    assert any(name.endswith(".context_length") for name in shown.modelinfo)
    assert client.show("smol:latest").details == shown.details
    client.chat("smol", HELLO, options={"num_predict": 1})
    assert "smol" in {model.model.removesuffix(":latest") for model in client.ps().models}


def test_a_chat_is_answered_whole_and_streamed(client: Any) -> None:
    whole = client.chat("smol:exact", HELLO, options=SHORT)
    assert (whole.done, whole.done_reason, whole.message.role) == (True, "length", "assistant")
    assert (whole.prompt_eval_count, whole.eval_count) == (13, 16)
    chunks = list(client.chat("smol:exact", HELLO, options=SHORT, stream=True))
    assert len(chunks) > 3
    assert [chunk.done for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert "".join(chunk.message.content for chunk in chunks) == whole.message.content
    assert chunks[-1].eval_count == 16


async def test_a_chat_is_answered_to_asyncio_too(herd: Herd) -> None:
    client = ollama.AsyncClient(host=herd.url, headers=headers(herd.key))
    pieces = [piece.message.content async for piece in await client.chat("smol", HELLO, options=SHORT, stream=True)]
    assert "".join(pieces)


def test_a_text_is_generated_whole_and_streamed(client: Any) -> None:
    whole = client.generate("smol:exact", "Name a colour.", options=SHORT)
    assert whole.response
    chunks = list(client.generate("smol:exact", "Name a colour.", options=SHORT, stream=True))
    assert "".join(chunk.response for chunk in chunks) == whole.response
    assert client.generate("smol").done  # only loads it


def test_a_tool_is_called_and_its_result_goes_into_the_answer(client: Any) -> None:
    said: list[Any] = [{"role": "user", "content": "Call get_weather with Rome."}]
    asked = client.chat("smol", said, tools=[get_weather], options={"temperature": 0})
    (call,) = asked.message.tool_calls
    assert (call.function.name, call.function.arguments) == ("get_weather", {"city": "Rome"})
    said += [asked.message, {"role": "tool", "content": get_weather("Rome"), "tool_name": "get_weather"}]
    assert client.chat("smol", said, tools=[get_weather], options=SHORT).message.content


def test_an_answer_fits_a_schema(client: Any) -> None:
    answer = client.chat("smol", HELLO, format=Colour.model_json_schema(), options={"temperature": 0})
    Colour.model_validate_json(answer.message.content)


def test_embeddings_are_made(client: Any) -> None:
    made = client.embed("vectors", ["A red apple.", "The law of the sea."])
    first, second = made.embeddings
    assert len(first) == len(second) > 100
    assert made.prompt_eval_count > 0
    assert client.embeddings("vectors", "A red apple.").embedding == pytest.approx(first, abs=1e-4)


def test_errors_tell_the_status(client: Any, herd: Herd) -> None:
    with pytest.raises(ollama.ResponseError, match="unknown") as unknown:
        client.chat("unknown", HELLO)
    assert unknown.value.status_code == 404
    with pytest.raises(ollama.ResponseError) as denied:
        ollama.Client(host=herd.url, headers=headers("sk-lh-wrong")).list()
    assert denied.value.status_code == 401
    with pytest.raises(ollama.ResponseError) as wrong:
        client.chat("smol", HELLO, options={"temperature": "hot"})
    assert wrong.value.status_code == 400
    with pytest.raises(httpx.ReadTimeout):
        ollama.Client(host=herd.url, headers=headers(herd.key), timeout=0.2).generate(
            "endless", "Name a colour.", options={"num_predict": 2000}
        )


def test_the_example_runs(herd: Herd, capsys: pytest.CaptureFixture[str]) -> None:
    run_example(herd, "ollama")
    assert capsys.readouterr().out.strip()
