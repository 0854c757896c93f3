"""A Hugging Face model in the service: what the official client asks of it, it gets, as from llama.cpp."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import math
from typing import Any, Final, Literal, cast

import aiohttp
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel, Field

from tests.e2e.conftest import PIRATE
from tests.e2e.counting import Messages, length_of, post, system
from tests.e2e.hf_watching import Watch, counted, loaded_part
from tests.e2e.service import Service

pytest.importorskip("transformers", reason="the extra hf is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

CAPITAL: Final[Any] = {"role": "user", "content": "What is the capital of France?"}
COUNT: Final[Any] = {"role": "user", "content": "Count: one, two, three, four, five, six"}
GREEDY: Final[dict[str, Any]] = {"model": "smollm", "temperature": 0, "max_tokens": 16}
TOOL: Final = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tell the weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "enum": ["Paris", "Rome"]},
                "unit": {"type": "string", "enum": ["C", "F"]},
            },
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}


class City(BaseModel):
    name: str = Field(max_length=12)
    country: Literal["France", "Italy", "Peru"]
    large: bool
    founded: list[Literal[1, 100, 1000]] = Field(max_length=2)


@pytest.fixture
def service(hf_service: Service) -> Service:
    """The one that the clients below speak to."""
    return hf_service


def chat(client: OpenAI, *messages: Any, **fields: Any) -> ChatCompletion:
    return cast(ChatCompletion, client.chat.completions.create(messages=list(messages), **{**GREEDY, **fields}))


def streamed(client: OpenAI, *messages: Any, **fields: Any) -> list[ChatCompletionChunk]:
    return list(client.chat.completions.create(messages=list(messages), **{**GREEDY, **fields}, stream=True))


def text_of(answer: ChatCompletion | list[ChatCompletionChunk]) -> str:
    if isinstance(answer, ChatCompletion):
        return answer.choices[0].message.content or ""
    return "".join(chunk.choices[0].delta.content or "" for chunk in answer if chunk.choices)


def test_folders_and_entries_are_listed(client: OpenAI) -> None:
    models = {model.id: model.model_dump() for model in client.models.list()}
    for name in ("smollm", "tiny-text", "tiny-vision", "tiny-encoder"):
        assert models[name]["backend"] == "hf"
    assert models["tiny"]["backend"] == "gguf"
    assert not any("unavailable" in model for model in models.values())


async def test_a_load_and_an_unload_are_told_as_they_go_on(
    http: aiohttp.ClientSession, async_client: AsyncOpenAI
) -> None:
    async with Watch(http, "/status") as states, Watch(http, "/admin/events") as events:
        request = asyncio.create_task(
            async_client.chat.completions.create(model="smollm-cold", messages=[CAPITAL], max_tokens=1)
        )
        parts = await loaded_part(http, "smollm-cold", request)
        assert (await request).choices
        async with http.get("/models") as answer:
            assert "smollm-cold" in await answer.json()
        async with http.get("/unloadModel", params={"model": "smollm-cold"}) as answer:
            assert (await answer.json())["message"] == "Model unloaded."
        await states.until(
            lambda told: told["status"] in {"idle", "ready"} and "smollm-cold is unloaded" in told["info"]
        )
        lives = await events.until(lambda told: told.get("name") == "smollm-cold" and told.get("state") == "stopped")
    assert parts == sorted(parts)
    assert len({part for part in parts if 0 < part < 1}) > 3  # it grows
    told = [told["status"] for told in states.seen if "smollm-cold" in told["info"]]
    assert list(dict.fromkeys(told))[:3] == ["loading", "ready", "unloading"]
    life = [told["state"] for told in lives if told.get("name") == "smollm-cold" and "state" in told]
    assert list(dict.fromkeys(life)) == ["starting", "ready", "draining", "stopping", "stopped"]


async def test_a_model_is_loaded_and_unloaded_by_hand(http: aiohttp.ClientSession) -> None:
    async with http.post("/loadModel", json={"model": "smollm-cold"}) as answer:
        assert (answer.status, (await answer.json())["message"]) == (200, "Model loaded successfully")
    async with http.get("/admin/models/smollm-cold") as answer:
        model = await answer.json()
    assert (model["state"], model["engine"], model["active"], model["pid"]) == ("ready", "hf", True, None)
    weights = next(part["size"] for part in model["estimate"]["parts"] if part["name"] == "weights")
    assert 250e6 < weights < model["memory"]["expected"]["host"]
    async with http.get("/unloadModel") as answer:
        assert (await answer.json())["model"] == "smollm-cold"
    async with http.get("/admin/models/smollm-cold") as answer:
        model = await answer.json()
    assert (model["state"], model["memory"]["expected"]) == ("stopped", {})
    assert weights * 0.9 < model["memory"]["measured"]["host"] < weights * 1.5


async def test_tokens_are_counted_under_the_models_name(http: aiohttp.ClientSession, async_client: AsyncOpenAI) -> None:
    names = ("llamaherd_generated_tokens_total", "llamacpp:tokens_predicted_total")
    prompt = ("llamaherd_prompt_tokens_total", "llamacpp:prompt_tokens_total")
    fields: dict[str, Any] = {"model": "tiny-text", "max_tokens": 9, "extra_body": {"cache_prompt": False}}
    await async_client.chat.completions.create(messages=[CAPITAL], **fields)
    before = [await counted(http, name, "tiny-text") for name in (*names, *prompt)]
    answer = await async_client.chat.completions.create(messages=[CAPITAL], **fields)
    after = [await counted(http, name, "tiny-text") for name in (*names, *prompt)]
    assert answer.usage
    new, old = answer.usage.completion_tokens, answer.usage.prompt_tokens
    assert [end - begin for begin, end in zip(before, after, strict=True)] == [new, new, old, old]


def test_a_chat_is_answered_whole_and_streamed_with_its_usage(client: OpenAI) -> None:
    whole = chat(client, CAPITAL)
    assert "Paris" in text_of(whole)
    chunks = streamed(client, CAPITAL, stream_options={"include_usage": True})
    assert text_of(chunks) == text_of(whole)
    assert len(chunks) > 5  # it did come bit by bit
    assert chunks[-1].choices == []
    assert chunks[-1].usage
    assert whole.usage
    assert whole.usage.completion_tokens == chunks[-1].usage.completion_tokens
    assert whole.usage.prompt_tokens == chunks[-1].usage.prompt_tokens
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason == "stop"


def test_a_text_completion_is_answered_whole_and_streamed(client: OpenAI) -> None:
    asked: dict[str, Any] = {**GREEDY, "prompt": "The capital of France is"}
    whole = client.completions.create(**asked).choices[0].text
    assert "Paris" in whole
    assert "".join(chunk.choices[0].text for chunk in client.completions.create(stream=True, **asked)) == whole


def test_several_answers_differ_and_the_same_seed_gives_them_again(client: OpenAI) -> None:
    fields: dict[str, Any] = {"n": 3, "seed": 7, "temperature": 1.2}
    first, second = (
        [choice.message.content for choice in chat(client, CAPITAL, COUNT, **fields).choices] for _ in range(2)
    )
    assert first == second
    assert len(set(first)) == 3


@pytest.mark.parametrize("how", ["whole", "streamed"])
def test_an_answer_ends_before_the_stop_text(client: OpenAI, how: str) -> None:
    full = text_of(chat(client, COUNT))
    middle = full[len(full) // 2 :]
    stop = middle[1:5]  # it begins and ends within tokens
    fields: dict[str, Any] = {"stop": ["never said", stop], "max_tokens": 24}
    answer = chat(client, COUNT, **fields) if how == "whole" else streamed(client, COUNT, **fields)
    assert text_of(answer) == full[: full.index(stop)]
    end = answer if isinstance(answer, ChatCompletion) else answer[-1]
    assert end.choices[0].finish_reason == "stop"


def test_max_tokens_ends_an_answer(client: OpenAI) -> None:
    answer = chat(client, COUNT, max_tokens=5)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage
    assert answer.usage.completion_tokens == 5


def test_log_probabilities_come_with_each_token_and_a_bias_forbids_one(client: OpenAI) -> None:
    def told(**fields: Any) -> Any:
        choice = chat(client, CAPITAL, logprobs=True, top_logprobs=3, **fields).choices[0]
        assert choice.logprobs
        assert "".join(token.token for token in choice.logprobs.content or []) in {
            choice.message.content,
            f"{choice.message.content}<|im_end|>",
        }
        return choice.logprobs.content

    tokens = told()
    assert len(tokens) > 4
    assert all(token.logprob == token.top_logprobs[0].logprob <= 0 and len(token.top_logprobs) == 3 for token in tokens)
    first, second = tokens[0].top_logprobs[:2]
    forbidden = told(logit_bias={str(first.id): -100})
    assert forbidden[0].token == second.token
    # What is told is the model's own, whatever the bias.
    assert forbidden[0].logprob == pytest.approx(second.logprob, abs=0.01)


def test_an_answer_is_parsed_into_a_model_of_pydantic(client: OpenAI) -> None:
    answer = client.chat.completions.parse(
        model="smollm",
        messages=[{"role": "user", "content": "Name a city."}],
        response_format=City,
        temperature=1.5,
        max_tokens=120,
        n=4,
        seed=3,
    )
    cities = [choice.message.parsed for choice in answer.choices]
    assert [type(city) for city in cities] == [City] * 4
    assert len({str(city) for city in cities}) > 1


def test_a_required_tool_is_called_whole_and_streamed(client: OpenAI) -> None:
    fields: dict[str, Any] = {"tools": [TOOL], "tool_choice": "required", "max_tokens": 80}
    choice = chat(client, {"role": "user", "content": "How warm is it in Rome?"}, **fields).choices[0]
    assert choice.finish_reason == "tool_calls"
    [call] = cast(Any, choice.message.tool_calls)
    assert (call.type, call.function.name, bool(call.id)) == ("function", "get_weather", True)
    arguments = json.loads(call.function.arguments)
    assert arguments.keys() == {"city", "unit"}
    assert arguments["city"] in {"Paris", "Rome"}
    chunks = streamed(client, {"role": "user", "content": "How warm is it in Rome?"}, **fields)
    deltas = [each for chunk in chunks for each in chunk.choices[0].delta.tool_calls or []]
    assert [delta.function.name for delta in deltas if delta.function and delta.function.name] == ["get_weather"]
    assert json.loads("".join((delta.function and delta.function.arguments) or "" for delta in deltas)) == arguments
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    assert text_of(chunks) == ""


def test_a_function_of_before_there_were_tools_is_called_whole_and_streamed(client: OpenAI) -> None:
    name = TOOL["function"]["name"]  # type: ignore[index]
    fields: dict[str, Any] = {"functions": [{"name": "clock"}, TOOL["function"]], "function_call": {"name": name}}
    asked = {"role": "user", "content": "How warm is it in Rome?"}
    choice = chat(client, asked, **fields, max_tokens=80).choices[0]
    assert choice.finish_reason == "function_call"
    assert choice.message.tool_calls is None
    assert choice.message.function_call
    assert choice.message.function_call.name == name
    assert json.loads(choice.message.function_call.arguments).keys() == {"city", "unit"}
    chunks = streamed(client, asked, **fields, max_tokens=80)
    deltas = [delta for chunk in chunks if chunk.choices and (delta := chunk.choices[0].delta.function_call)]
    assert [delta.name for delta in deltas if delta.name] == [name]
    assert "".join(delta.arguments or "" for delta in deltas) == choice.message.function_call.arguments
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "function_call"


@pytest.mark.parametrize(
    ("wrong", "param", "code"),
    [
        ({"mirostat": 2}, "mirostat", "invalid_request"),
        ({"dry_multiplier": 0.8}, "dry_multiplier", "invalid_request"),
        ({"temperature": -1}, "temperature", "invalid_request"),
        ({"grammar": "root ::= ("}, "grammar", "invalid_request"),
        ({"logit_bias": {"99999999": 1}}, "logit_bias", "invalid_request"),
        ({"ctx": 0}, "ctx", "invalid_request"),
        ({"messages": [{"role": "user", "content": "x" * 5000}]}, "messages", "context_length_exceeded"),
        ({"ctx": 64, "messages": [{"role": "user", "content": "x" * 500}]}, "messages", "context_length_exceeded"),
    ],
)
def test_what_cannot_be_honoured_is_a_bad_request_that_names_it(
    client: OpenAI, wrong: dict[str, Any], param: str, code: str
) -> None:
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(
                model="tiny-text",
                messages=[CAPITAL],
                stream=stream,
                extra_body=wrong,
            )
        assert (caught.value.param, caught.value.code) == (param, code)


async def test_a_budget_drops_the_oldest_turns_and_no_more_than_needed(
    http: aiohttp.ClientSession, async_client: AsyncOpenAI
) -> None:
    turns: Messages = [
        {"role": role, "content": f"{role} says a few words, and then {number}."}
        for number in range(12)
        for role in ("user", "assistant")
    ]
    long: Messages = [system("Be kind."), *turns, {"role": "user", "content": "And now?"}]
    answer = await async_client.chat.completions.create(
        model="smollm",
        messages=long,  # type: ignore[arg-type]  # plain dictionaries
        max_tokens=16,
        extra_body={"ctx": 200, "ignore_eos": True},
    )
    lengths = [await length_of(http, [long[0], *long[1 + 2 * dropped :]], "smollm") for dropped in range(13)]
    assert answer.usage
    assert answer.usage.prompt_tokens == next(length for length in lengths if length + 16 <= 200) < lengths[0]
    assert answer.usage.total_tokens <= 200


async def test_a_personality_is_the_system_prompt(http: aiohttp.ClientSession, client: OpenAI) -> None:
    expected = await length_of(http, [system(PIRATE), CAPITAL], "smollm")
    plain = await length_of(http, [system("."), CAPITAL], "smollm")
    assert expected != plain
    for fields in ({"model": "smollm:pirate"}, {"extra_body": {"personality": "pirate"}}):
        answer = await asyncio.to_thread(chat, client, CAPITAL, max_tokens=1, **fields)
        assert answer.usage
        assert answer.usage.prompt_tokens == expected


def with_image(*colours: tuple[int, int, int]) -> dict[str, Any]:
    """A question with a picture whose left half has the first colour, and its right one the last."""
    from PIL import Image

    picture = Image.new("RGB", (64, 64), colours[0])
    picture.paste(colours[-1], (32, 0, 64, 64))
    file = io.BytesIO()
    picture.save(file, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    parts = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": url}}]
    return {"role": "user", "content": parts}


def test_an_image_is_seen(client: OpenAI) -> None:
    def told(*messages: Any) -> tuple[list[float], int]:
        answer = chat(client, *messages, model="tiny-vision", max_tokens=4, logprobs=True, top_logprobs=5)
        logprobs = answer.choices[0].logprobs
        assert logprobs
        assert logprobs.content
        assert answer.usage
        return [top.logprob for token in logprobs.content for top in token.top_logprobs], answer.usage.prompt_tokens

    red, blue = (200, 20, 20), (20, 20, 200)
    first, length = told(with_image(red))
    assert told(with_image(red))[0] == first
    assert told(with_image(blue))[0] != first
    assert told(with_image(red, blue))[0] != first
    _, without = told({"role": "user", "content": "What is it?"})
    assert length >= without + 4  # as many as a tile has


@pytest.mark.parametrize("model", ["tiny-vision", "smollm"])
async def test_input_tokens_are_those_that_the_answer_reports(
    http: aiohttp.ClientSession, client: OpenAI, model: str
) -> None:
    message = with_image((200, 20, 20)) if model == "tiny-vision" else CAPITAL
    counted = await post(http, "/v1/chat/completions/input_tokens", model=model, messages=[message])
    answer = await asyncio.to_thread(chat, client, message, model=model, max_tokens=1)
    assert answer.usage
    assert counted == {"input_tokens": answer.usage.prompt_tokens, "object": "response.input_tokens"}


def test_an_image_for_a_model_of_text_is_a_bad_request_that_names_the_part(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        chat(client, with_image((0, 0, 0)), model="tiny-text")
    assert caught.value.param == "messages[0].content[1]"


def test_embeddings_are_the_same_as_numbers_and_as_bytes(client: OpenAI) -> None:
    texts = ["A llama.", "Ein Lama, das Grüße sendet.", "A llama."]
    # The client itself asks for base64, and decodes it.
    packed = client.embeddings.create(model="tiny-encoder", input=texts)
    plain = client.embeddings.create(model="tiny-encoder", input=texts, encoding_format="float")
    vectors = [item.embedding for item in plain.data]
    assert [item.embedding for item in packed.data] == [pytest.approx(vector, abs=1e-7) for vector in vectors]
    assert [len(vector) for vector in vectors] == [32] * 3
    assert [math.hypot(*vector) for vector in vectors] == pytest.approx([1] * 3, abs=1e-5)
    assert vectors[0] == pytest.approx(vectors[2], abs=1e-5)
    assert vectors[0] != pytest.approx(vectors[1], abs=1e-2)
    assert plain.usage.prompt_tokens == packed.usage.prompt_tokens > 3 * len("A llama.")


def test_models_say_what_they_are_not_made_for(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as chatting:
        chat(client, CAPITAL, model="tiny-encoder")
    with pytest.raises(openai.BadRequestError) as completing:
        client.completions.create(model="tiny-encoder", prompt="a")
    with pytest.raises(openai.BadRequestError) as embedding:
        client.embeddings.create(model="tiny-text", input="a")
    assert {error.value.code for error in (chatting, completing, embedding)} == {"endpoint_not_supported"}
