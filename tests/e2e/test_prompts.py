"""What the engine sees: personalities, templates, the budget of tokens, and the defaults of an entry."""

from __future__ import annotations

from typing import Any

import aiohttp
import openai
import pytest
from openai import AsyncOpenAI

from tests.e2e.conftest import PIRATE, TEACHER
from tests.e2e.counting import Messages, length_of, post, prompt_of, system

pytestmark = pytest.mark.timeout(180)

QUESTION = {"role": "user", "content": "Where is Rome?"}


async def used(
    client: AsyncOpenAI, messages: Messages, model: str = "smol", **more: Any
) -> openai.types.CompletionUsage:
    answer = await client.chat.completions.create(
        model=model,
        messages=messages,  # type: ignore[arg-type]  # plain dictionaries, as they come from JSON
        max_tokens=more.pop("max_tokens", 1),
        extra_body=more,
    )
    assert answer.usage
    return answer.usage


async def test_the_template_of_the_entry_makes_the_prompt(http: aiohttp.ClientSession) -> None:
    assert await prompt_of(http, [system("Be kind."), QUESTION]) == (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nWhere is Rome?<|im_end|>\n<|im_start|>assistant\n"
    )


async def test_prompt_tokens_are_what_template_and_tokenizer_say(
    http: aiohttp.ClientSession, async_client: AsyncOpenAI
) -> None:
    usage = await used(async_client, [QUESTION])
    assert usage.prompt_tokens == await length_of(http, [QUESTION])


TOOL = {"type": "function", "function": {"name": "ask", "parameters": {"type": "object", "properties": {}}}}


@pytest.mark.parametrize(
    "fields", [{}, {"model": "smol-tools", "tools": [TOOL]}, {"model": "smol:pirate"}, {"ctx": 256, "stream": True}]
)
async def test_input_tokens_are_those_that_the_answer_reports(
    http: aiohttp.ClientSession, async_client: AsyncOpenAI, fields: dict[str, Any]
) -> None:
    asked = {"model": "smol", "messages": conversation(20), "max_tokens": 1, **fields}
    counted = await post(http, "/v1/chat/completions/input_tokens", **asked)
    answered = await post(http, "/v1/chat/completions", **{**asked, "stream": False})
    assert counted["object"] == "response.input_tokens"
    assert counted["input_tokens"] == answered["usage"]["prompt_tokens"] > 0


@pytest.mark.parametrize(
    ("model", "body", "prompt"),
    [
        ("smol", {"personality": "pirate"}, PIRATE),
        ("smol:pirate", {}, PIRATE),
        ("smol:geography teacher", {}, TEACHER),
        ("smol:pirate", {"personality": "geography teacher"}, TEACHER),
    ],
)
async def test_a_personality_is_the_system_prompt(
    http: aiohttp.ClientSession, async_client: AsyncOpenAI, model: str, body: dict[str, Any], prompt: str
) -> None:
    usage = await used(async_client, [QUESTION], model, **body)
    assert usage.prompt_tokens == await length_of(http, [system(prompt), QUESTION])


async def test_a_system_message_comes_after_the_personality(
    http: aiohttp.ClientSession, async_client: AsyncOpenAI
) -> None:
    usage = await used(async_client, [system("Be kind."), QUESTION], personality="pirate")
    assert usage.prompt_tokens == await length_of(http, [system(f"{PIRATE}\n\nBe kind."), QUESTION])


def conversation(turns: int) -> Messages:
    past = [
        message
        for turn in range(turns)
        for message in (
            {"role": "user", "content": f"What is {turn} plus {turn}, and why do you think so?"},
            {"role": "assistant", "content": f"It is {turn + turn}, because I have counted it with great care."},
        )
    ]
    return [system("Be kind."), *past, QUESTION]


@pytest.mark.parametrize("name", ["ctx", "context_window", "n_ctx"])
async def test_a_budget_drops_the_oldest_turns_and_no_more_than_needed(
    http: aiohttp.ClientSession, async_client: AsyncOpenAI, name: str
) -> None:
    long = conversation(20)
    budget: dict[str, Any] = {name: 256}
    usage = await used(async_client, long, max_tokens=16, **budget)
    assert usage.total_tokens <= 256
    lengths = [await length_of(http, [long[0], *long[1 + 2 * dropped :]]) for dropped in range(8, 21)]
    assert usage.prompt_tokens == next(length for length in lengths if length + 16 <= 256)


async def test_a_budget_without_max_tokens_bounds_the_answer_too(async_client: AsyncOpenAI) -> None:
    usage = await used(async_client, conversation(20), max_tokens=None, ctx=128, ignore_eos=True)
    assert usage.total_tokens == 128


async def test_a_single_message_beyond_the_budget_is_refused(async_client: AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await used(async_client, [{"role": "user", "content": "word " * 300}], ctx=256)
    assert caught.value.code == "context_length_exceeded"
    assert caught.value.param == "messages"


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_prompt_beyond_the_window_is_refused_without_a_budget(
    async_client: AsyncOpenAI, streamed: bool
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await async_client.chat.completions.create(
            model="tiny-small-window", messages=[{"role": "user", "content": "x" * 5000}], stream=streamed
        )
    assert caught.value.code == "context_length_exceeded"


async def test_a_budget_is_at_most_the_window(async_client: AsyncOpenAI) -> None:
    long: Messages = [{"role": "user", "content": "x" * 40}, {"role": "assistant", "content": "y" * 40}] * 10
    usage = await used(
        async_client, [*long, {"role": "user", "content": "z"}], "tiny-small-window", max_tokens=8, ctx=100_000
    )
    assert usage.total_tokens <= 256


async def test_sampling_defaults_of_the_entry_reach_the_engine_and_a_request_overrides_them(
    async_client: AsyncOpenAI,
) -> None:
    async def text(**more: Any) -> str | None:
        answer = await async_client.chat.completions.create(
            model="tiny-greedy",
            messages=[{"role": "user", "content": "Hi"}],
            extra_body={"cache_prompt": False},
            **more,
        )
        assert answer.usage
        assert answer.usage.completion_tokens == more.get("max_tokens", 40)  # nPredict of the entry
        content: str | None = answer.choices[0].message.content
        return content

    assert await text() == await text()
    assert len({await text(temperature=1.5) for _ in range(3)}) > 1
    await text(max_tokens=7)


async def test_tokens_make_the_text_again(http: aiohttp.ClientSession) -> None:
    text = "Grüße, 世界! 🦙🦙 \n\tend"
    for model in ("smol", "tiny"):
        tokens = (await post(http, "/tokenize", model=model, content=text))["tokens"]
        assert (await post(http, "/detokenize", model=model, tokens=tokens))["content"] == text


async def test_answers_of_broken_characters_are_still_frames_of_json(
    http: aiohttp.ClientSession, async_client: AsyncOpenAI
) -> None:
    asked = {"model": "tiny", "messages": [{"role": "user", "content": "🦙 Grüße 世界"}], "max_tokens": 300, "seed": 1}
    frames = b""
    async with http.post("/v1/chat/completions", json={**asked, "stream": True}) as answer:
        frames = await answer.read()
    *events, done, end = frames.decode().split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    stream = [event.removeprefix("data: ") for event in events if not event.startswith(":")]
    chunks = [openai.types.chat.ChatCompletionChunk.model_validate_json(event) for event in stream]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert "\ufffd" in text  # the model did say what is no UTF-8
    whole = await async_client.chat.completions.create(**asked)  # type: ignore[call-overload]
    assert whole.choices[0].message.content
