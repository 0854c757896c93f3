"""An engine of one's own: the example of docs/example-engine, installed as its reader would, in the real service."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest
from openai import APIStatusError, AsyncOpenAI, BadRequestError
from openai.types.chat import ChatCompletionMessageParam

from tests.e2e.service import PATIENCE, Service, running

pytestmark = pytest.mark.timeout(120)

EXAMPLE: Final = Path(__file__).parents[2] / "docs" / "example-engine"
HELLO: Final[list[ChatCompletionMessageParam]] = [{"role": "user", "content": "hello my herd"}]
MODELS: Final[dict[str, Any]] = {
    "loud": {
        "engine": "echo",
        "params": {"model": "shouting", "endWith": "!"},
        "personalities": {"pirate": "You are a pirate."},
    },
    "cold": {"engine": "echo", "params": {"model": "backwards", "word_delay": 0.001}},
    "mute": {"engine": "echo", "params": {"model": "whispering"}},
}


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the example installed in it, from a copy: a build leaves files beside its sources."""
    folder = tmp_path_factory.mktemp("packages")
    source = shutil.copytree(EXAMPLE, folder / "source")
    offline = ["--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--quiet"]
    subprocess.run(
        [sys.executable, "-m", "pip", "install", *offline, "--target", str(folder / "installed"), str(source)],
        check=True,
        timeout=PATIENCE,
    )
    return folder / "installed"


@pytest.fixture(scope="module")
def models_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("service") / "data"
    folder.mkdir()
    (folder / "models.json").write_text(json.dumps(MODELS))
    return folder / "models.json"


@pytest.fixture(scope="module")
def service(models_file: Path, packages: Path) -> Iterator[Service]:
    environment = {
        "PYTHONPATH": str(packages),
        "LLAMAHERD_LLAMA__LAUNCHER": "embedded",
        "LLAMAHERD_STORAGE__WATCH": "false",
    }
    with running(models_file.parents[1], environment) as service:
        yield service


def test_without_its_package_the_service_does_not_start(models_file: Path) -> None:
    """From a folder of its own the example can't be seen."""
    ended = subprocess.run(
        [sys.executable, "-m", "manager.cli", "serve", "--port", "0"],
        cwd=models_file.parents[1],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert ended.returncode == 2
    assert "models.json: loud.engine: there is no engine 'echo'" in ended.stderr


async def listed(async_client: AsyncOpenAI, name: str) -> dict[str, Any]:
    return (await async_client.models.retrieve(name)).model_dump()


async def test_it_is_listed_with_the_name_of_its_engine(async_client: AsyncOpenAI) -> None:
    models = {model.id: model.model_dump() async for model in async_client.models.list()}
    assert models.keys() == MODELS.keys()
    assert {model["backend"] for model in models.values()} == {"echo"}
    assert (models["mute"]["state"], models["mute"]["root"]) == ("stopped", "whispering")


async def test_a_chat_is_answered_whole_with_its_usage(async_client: AsyncOpenAI) -> None:
    answer = await async_client.chat.completions.create(model="loud", messages=HELLO, temperature=0.5)
    assert answer.object == "chat.completion"
    assert (answer.model, answer.choices[0].finish_reason) == ("loud", "stop")
    assert (answer.choices[0].message.role, answer.choices[0].message.content) == ("assistant", "HELLO MY HERD!")
    assert answer.usage
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (3, 3, 6)


async def test_a_chat_is_streamed_word_by_word(async_client: AsyncOpenAI) -> None:
    stream = await async_client.chat.completions.create(
        model="loud", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    words = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
    assert words == ["", "HELLO", " MY", " HERD!", None]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-2:] == [None, "stop"]
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[-1].usage
    assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens) == (3, 3)


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_is_cut_at_max_tokens(
    async_client: AsyncOpenAI, http: aiohttp.ClientSession, stream: bool
) -> None:
    body = {"model": "loud", "messages": HELLO, "max_tokens": 2, "stream": stream}
    async with http.post("/v1/chat/completions", json=body) as answer:
        text = await answer.text()
    assert answer.status == 200
    assert '"finish_reason":"length"' in text
    assert ("HELLO MY" in text) is not stream
    assert "HERD" not in text


async def test_a_personality_counts_and_a_budget_drops_the_oldest_turns(async_client: AsyncOpenAI) -> None:
    turns: list[ChatCompletionMessageParam] = [
        {"role": "user", "content": "one two three four five six seven"},
        {"role": "assistant", "content": "eight nine"},
        *HELLO,
    ]
    answer = await async_client.chat.completions.create(model="loud:pirate", messages=turns)
    assert answer.usage
    assert answer.usage.prompt_tokens == 16
    answer = await async_client.chat.completions.create(model="loud:pirate", messages=turns, extra_body={"ctx": 12})
    assert answer.usage
    assert answer.usage.prompt_tokens == 7


@pytest.mark.parametrize(
    ("more", "code", "param", "says"),
    [
        ({"min_p": 0.1}, None, "min_p", "'min_p' is not supported"),
        ({"n": 2}, None, "n", "'n' is not supported"),
        ({"messages": [{"role": "user", "content": " "}]}, None, "messages", "nothing to echo"),
        ({"messages": [{"role": "user", "content": "word " * 1001}]}, "context_length_exceeded", "messages", "1001"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_what_it_can_not_do_is_a_400_that_names_it(
    async_client: AsyncOpenAI, more: dict[str, Any], code: str | None, param: str, says: str, stream: bool
) -> None:
    with pytest.raises(BadRequestError, match=says) as caught:
        await async_client.chat.completions.create(model="loud", messages=HELLO, stream=stream, extra_body=more)
    assert caught.value.param == param
    assert code in {None, caught.value.code}


async def test_what_it_never_answers_is_refused_and_does_not_load_it(async_client: AsyncOpenAI) -> None:
    with pytest.raises(BadRequestError, match="The model 'cold' can't do this") as caught:
        await async_client.embeddings.create(model="cold", input="hello")
    assert caught.value.code == "endpoint_not_supported"
    assert (await listed(async_client, "cold"))["state"] == "stopped"


async def test_it_is_loaded_and_unloaded_on_demand(async_client: AsyncOpenAI, http: aiohttp.ClientSession) -> None:
    async with http.post("/loadModel", json={"model": "cold"}) as answer:
        assert answer.status == 200
    assert (await listed(async_client, "cold"))["state"] == "ready"
    answered = await async_client.chat.completions.create(model="cold", messages=HELLO)
    assert answered.choices[0].message.content == "dreh ym olleh"
    async with http.get("/unloadModel", params={"model": "cold"}) as answer:
        assert answer.status == 200
    assert (await listed(async_client, "cold"))["state"] == "stopped"


async def test_a_load_that_fails_says_why(async_client: AsyncOpenAI, service: Service) -> None:
    with pytest.raises(APIStatusError, match="There is no voice 'whispering'; there are: shouting, backwards"):
        await async_client.chat.completions.create(model="mute", messages=HELLO)
    await asyncio.to_thread(service.wait_for_log, r"model=mute state=failed .*whispering")


async def test_a_reload_checks_its_params_and_takes_new_entries(
    models_file: Path, async_client: AsyncOpenAI, http: aiohttp.ClientSession
) -> None:
    async def reload(**params: Any) -> tuple[int, str]:
        entries = {**MODELS, "new": {"engine": "echo", "params": params}}
        await asyncio.to_thread(models_file.write_text, json.dumps(entries))
        async with http.post("/admin/reload") as answer:
            return answer.status, await answer.text()

    status, text = await reload(model="shouting", endWith="!", gpuLayers=3)
    assert (status, "new.params.gpuLayers: unknown key" in text) == (400, True)
    status, text = await reload(model="shouting", endWith=".", wordDelay="long")
    assert status == 400
    assert "new.params.endWith: should be '', '!' or '?' (got '.')" in text
    assert "new.params.wordDelay: should be a valid number (got 'long')" in text
    assert {model.id async for model in async_client.models.list()} == MODELS.keys()
    assert (await reload(model="backwards", endWith="?"))[0] == 200
    answer = await async_client.chat.completions.create(model="new", messages=HELLO)
    assert answer.choices[0].message.content == "dreh ym olleh?"
