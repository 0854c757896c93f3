"""The official client, synchronous: what it asks for it gets, and errors come as the classes that it has for them."""

from __future__ import annotations

import json
import time
from typing import Any

import openai
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam

from tests.e2e.service import PATIENCE, Service

pytestmark = pytest.mark.timeout(180)

HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Name a colour."}]
# Each run computes the whole prompt anew, so that two runs add up the same numbers in the same order.
ANEW = {"cache_prompt": False}
# Goes on until it is stopped.
ENDLESS = {"ignore_eos": True, "max_tokens": 1500}


def test_models_are_listed_whether_loaded_or_not(client: OpenAI) -> None:
    models = {model.id: model for model in client.models.list()}
    assert {"smol", "tiny", "broken", "some-hf-model"} <= set(models)
    assert models["smol"].object == "model"
    assert models["smol"].owned_by == "local"
    assert models["smol"].created > 0
    assert models["smol"].model_dump()["backend"] == "gguf"


def test_one_model_can_be_retrieved_by_name_and_by_alias(client: OpenAI) -> None:
    assert client.models.retrieve("smol").id == "smol"
    assert client.models.retrieve("gpt-4o-mini").id == "smol"


def test_a_chat_is_answered_with_its_usage(client: OpenAI) -> None:
    answer = client.chat.completions.create(model="smol", messages=HELLO, max_tokens=12)
    assert answer.object == "chat.completion"
    assert answer.model == "smol"
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason in {"stop", "length"}
    assert answer.usage
    assert 0 < answer.usage.completion_tokens <= 12
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_streamed_chat_says_the_same_as_a_whole_one(client: OpenAI) -> None:
    whole = client.chat.completions.create(
        model="smol", messages=HELLO, max_tokens=12, seed=7, temperature=0.7, extra_body=ANEW
    )
    chunks = list(
        client.chat.completions.create(
            model="smol",
            messages=HELLO,
            max_tokens=12,
            seed=7,
            temperature=0.7,
            stream=True,
            stream_options={"include_usage": True},
            extra_body=ANEW,
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == 1
    assert not chunks[-1].choices
    assert chunks[-1].usage
    assert whole.usage
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens


def test_the_same_seed_gives_the_same_text_and_another_one_another(client: OpenAI) -> None:
    def text(seed: int) -> str | None:
        answer = client.chat.completions.create(
            model="smol", messages=HELLO, max_tokens=20, seed=seed, temperature=1.2, extra_body=ANEW
        )
        return answer.choices[0].message.content

    assert text(42) == text(42)
    assert len({text(seed) for seed in (42, 43, 44)}) > 1


def test_max_tokens_ends_an_answer(client: OpenAI) -> None:
    answer = client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=5)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage
    assert answer.usage.completion_tokens == 5


def test_an_answer_ends_before_the_stop_text(client: OpenAI) -> None:
    def text(**more: Any) -> tuple[str, str]:
        choice = client.chat.completions.create(
            model="smol",
            messages=[{"role": "user", "content": "Count: one, two, three, four, five, six"}],
            max_tokens=24,
            temperature=0,
            extra_body=ANEW,
            **more,
        ).choices[0]
        return choice.message.content or "", choice.finish_reason

    full, _ = text()
    stop = full[len(full) // 2 :][:3]
    assert text(stop=stop) == (full[: full.index(stop)], "stop")
    assert text(stop=["never said", stop]) == (full[: full.index(stop)], "stop")


def test_several_answers_come_as_several_choices(client: OpenAI) -> None:
    answer = client.chat.completions.create(model="smol", messages=HELLO, max_tokens=4, n=2)
    assert [choice.index for choice in answer.choices] == [0, 1]


def test_log_probabilities_come_with_each_token(client: OpenAI) -> None:
    answer = client.chat.completions.create(model="smol", messages=HELLO, max_tokens=3, logprobs=True, top_logprobs=2)
    logprobs = answer.choices[0].logprobs
    assert logprobs
    assert logprobs.content
    assert all(token.logprob <= 0 and len(token.top_logprobs) == 2 for token in logprobs.content)


def test_an_answer_keeps_to_a_json_schema(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model="smol",
        messages=HELLO,
        max_tokens=30,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "colour", "schema": {"type": "string", "enum": ["red", "blue"]}},
        },
    )
    assert json.loads(answer.choices[0].message.content or "") in {"red", "blue"}


def test_a_text_completion_is_answered_whole_and_streamed(client: OpenAI) -> None:
    asked: dict[str, Any] = {
        "model": "smol",
        "prompt": "The sky is",
        "max_tokens": 6,
        "temperature": 0,
        "extra_body": ANEW,
    }
    whole = client.completions.create(**asked)
    assert whole.object == "text_completion"
    streamed = "".join(chunk.choices[0].text for chunk in client.completions.create(stream=True, **asked))
    assert streamed == whole.choices[0].text


def test_an_unknown_model_is_not_found_and_the_nearest_name_told(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="smol") as caught:
        client.chat.completions.create(model="smoll", messages=HELLO)
    assert caught.value.code == "model_not_found"
    assert caught.value.param == "model"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nothing-like-it")


def test_an_unknown_personality_is_not_found(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="pirate"):
        client.chat.completions.create(model="smol:pirat", messages=HELLO)
    with pytest.raises(openai.NotFoundError, match="pirate") as caught:
        client.chat.completions.create(model="smol", messages=HELLO, extra_body={"personality": "pirat"})
    assert caught.value.param == "personality"


def test_a_wrong_key_is_an_authentication_error_that_does_not_repeat_it(service: Service) -> None:
    with OpenAI(base_url=service.openai_url, api_key="sk-lh-wrong", max_retries=0, timeout=PATIENCE) as client:
        with pytest.raises(openai.AuthenticationError) as caught:
            client.chat.completions.create(model="smol", messages=HELLO)
        with pytest.raises(openai.AuthenticationError):
            client.models.list()
    assert caught.value.code == "invalid_api_key"
    assert "sk-lh-wrong" not in caught.value.message


def test_a_key_without_the_scope_is_denied(service: Service) -> None:
    with (
        OpenAI(base_url=service.openai_url, api_key=service.admin_key, max_retries=0, timeout=PATIENCE) as client,
        pytest.raises(openai.PermissionDeniedError, match="inference") as caught,
    ):
        client.chat.completions.create(model="smol", messages=HELLO)
    assert caught.value.code == "insufficient_scope"
    with (
        OpenAI(base_url=service.url, api_key=service.inference_key, max_retries=0, timeout=PATIENCE) as client,
        pytest.raises(openai.PermissionDeniedError) as caught,
    ):
        client.post("/loadModel", cast_to=object, body={"model": "tiny"})
    assert caught.value.response.json() == {"error": "This API key lacks the scope 'admin'."}


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"temperature": -1}, "temperature"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [*HELLO, {"role": "king", "content": "Hi"}]}, "messages[1].role"),
        ({"stop": [1]}, "stop"),
        ({"ctx": 0}, "ctx"),
    ],
)
def test_a_wrong_field_is_a_bad_request_that_names_it(client: OpenAI, wrong: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="tiny", messages=HELLO, extra_body=wrong)
    assert caught.value.param == param
    assert caught.value.code == "invalid_request"


def test_a_model_that_cannot_be_loaded_is_an_error_that_is_not_retried(service: Service) -> None:
    requests: list[Any] = []
    with (
        openai.DefaultHttpxClient(event_hooks={"request": [requests.append]}) as transport,
        OpenAI(
            base_url=service.openai_url, api_key=service.key, max_retries=3, timeout=PATIENCE, http_client=transport
        ) as client,
    ):
        with pytest.raises(openai.InternalServerError, match=r"broken\.gguf is cut off") as caught:
            client.chat.completions.create(model="broken", messages=HELLO)
        assert caught.value.status_code == 503
        assert caught.value.code == "model_load_failed"
        assert caught.value.response.headers["x-should-retry"] == "false"
        assert len(requests) == 1
        assert client.chat.completions.create(model="tiny", messages=HELLO).choices


@pytest.mark.alone
def test_closing_a_stream_frees_the_slot_within_200_ms(client: OpenAI, service: Service) -> None:
    client.chat.completions.create(model="smol-one", messages=HELLO, max_tokens=1)
    slots = service.slots("smol-one")

    def seconds() -> float:
        stream = client.chat.completions.create(model="smol-one", messages=HELLO, stream=True, extra_body=ENDLESS)
        next(iter(stream))
        assert slots.busy() == 1
        stream.close()
        return slots.seconds_until_free()

    # Other work on this machine may delay one of them.
    assert min(seconds() for _ in range(3)) < 0.2


def test_after_a_stream_was_closed_the_only_slot_serves_the_next_request(client: OpenAI) -> None:
    stream = client.chat.completions.create(model="smol-one", messages=HELLO, stream=True, extra_body=ENDLESS)
    next(iter(stream))
    stream.close()
    started = time.monotonic()
    answer = client.chat.completions.create(model="smol-one", messages=HELLO, max_tokens=1)
    # The 1500 tokens of the first one would have taken more than ten times as long as this one's prompt.
    assert answer.choices
    assert time.monotonic() - started < 5
