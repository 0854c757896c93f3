"""The Responses API with a real model, as the official client uses it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import openai
import pytest
from openai import OpenAI
from openai.types.responses import FunctionToolParam
from pydantic import BaseModel

from tests.e2e.service import PATIENCE, running

pytestmark = pytest.mark.timeout(180)

# Each run computes the whole prompt anew, so that two runs add up the same numbers in the same order.
ANEW = {"seed": 7, "cache_prompt": False}
WEATHER: FunctionToolParam = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather in a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}


# One that knows tools, which SmolLM2's own does not.
TEMPLATE = """\
{%- if tools %}<|im_start|>system
Call a function as <tool_call>{"name": ..., "arguments": ...}</tool_call>. There are:
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}<|im_end|>
{% endif %}
{%- for message in messages %}<|im_start|>{{ message.role }}
{{ message.content or '' }}
{%- for call in message.tool_calls or [] %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


class Capital(BaseModel):
    """A small form to fill in, of which no answer can be long."""

    country: Literal["France", "Spain"]
    coastal: bool


def test_a_streamed_response_says_the_same_as_a_whole_one(client: OpenAI) -> None:
    asked: dict[str, Any] = {
        "model": "smol",
        "instructions": "Be brief.",
        "input": "Name a colour.",
        "max_output_tokens": 12,
    }
    whole = client.responses.create(**asked, extra_body=ANEW)
    events = list(client.responses.create(**asked, stream=True, extra_body=ANEW))
    assert [event.type for event in events[:4]] == [
        *("response.created", "response.in_progress", "response.output_item.added", "response.content_part.added")
    ]
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == whole.output_text
    last = events[-1].response
    assert (last.output_text, last.status, last.usage) == (whole.output_text, whole.status, whole.usage)
    assert 0 < whole.usage.output_tokens <= 12
    assert (whole.status == "incomplete") == (whole.usage.output_tokens == 12)
    counted = client.responses.input_tokens.count(model="smol", instructions="Be brief.", input="Name a colour.")
    assert counted.input_tokens == whole.usage.input_tokens


@pytest.fixture(scope="module")
def caller(
    tmp_path_factory: pytest.TempPathFactory, model_files: Path, launcher: Mapping[str, str]
) -> Iterator[OpenAI]:
    """A client of a service whose model can be told of tools."""
    folder = tmp_path_factory.mktemp("tools")
    (folder / "data" / "templates").mkdir(parents=True)
    (folder / "data" / "templates" / "calls.jinja").write_text(TEMPLATE)
    params = {"model": "smol.gguf", "ctxSize": 2048, "parallel": 1, "threads": 1}
    (folder / "data" / "models.json").write_text(json.dumps({"smol": {"params": params, "template": "calls"}}))
    environment = {"LLAMAHERD_STORAGE__MODELS_FOLDER": str(model_files), **launcher}
    with (
        running(folder, environment) as service,
        OpenAI(base_url=service.openai_url, api_key=service.key, max_retries=0, timeout=PATIENCE) as client,
    ):
        yield client


def asked_before(city: str) -> list[dict[str, Any]]:
    """A question with its call and answer. A small model does as it did before."""
    return [
        {"role": "user", "content": f"What is the weather in {city}?"},
        {"type": "function_call", "call_id": city, "name": "get_weather", "arguments": json.dumps({"city": city})},
        {"type": "function_call_output", "call_id": city, "output": "Sunny."},
        {"role": "assistant", "content": "Sunny."},
    ]


def test_a_required_tool_is_called_and_its_result_is_answered(caller: OpenAI) -> None:
    question = {"role": "user", "content": "What is the weather in Paris?"}
    history: Any = [*asked_before("Rome"), *asked_before("Paris"), question]
    asked: dict[str, Any] = {"model": "smol", "tools": [WEATHER], "temperature": 0}
    with caller.responses.stream(**asked, input=history, tool_choice="required", max_output_tokens=60) as stream:
        events = list(stream)
    last = events[-1]
    assert last.type == "response.completed"
    (call,) = last.response.output
    assert call.type == "function_call"
    assert call.name == "get_weather"
    assert json.loads(call.arguments)["city"] in {"Paris", "Rome"}
    deltas = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
    assert "".join(deltas) == call.arguments
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "Rainy."}
    history += [call.to_dict(), result]
    answer = caller.responses.create(**asked, input=history, tool_choice="none", max_output_tokens=4)
    assert [item.type for item in answer.output] == ["message"]


def test_a_response_fills_in_a_form(client: OpenAI) -> None:
    response = client.responses.parse(
        model="smol", input="Tell me of France.", text_format=Capital, max_output_tokens=80, temperature=0
    )
    assert isinstance(response.output_parsed, Capital)


def test_log_probabilities_come_with_their_tokens(client: OpenAI) -> None:
    response = client.responses.create(
        model="smol",
        input="Name a colour.",
        max_output_tokens=4,
        top_logprobs=2,
        include=["message.output_text.logprobs"],
    )
    (message,) = response.output
    assert message.type == "message"
    (part,) = message.content
    assert part.type == "output_text"
    assert part.logprobs
    assert "".join(score.token for score in part.logprobs).startswith(part.text)
    assert {len(score.top_logprobs) for score in part.logprobs} == {2}


def test_a_bad_field_is_the_clients_class_of_error(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model="smol", input="hi", tools=[{"type": "web_search"}])
    assert caught.value.param == "tools[0]"
