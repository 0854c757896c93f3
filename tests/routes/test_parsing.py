"""Bodies as typed objects: what is wrong is found soon, and large ones hold nobody up."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from manager.errors import InvalidRequest
from routes import anthropic, responses
from routes.anthropic.request import MessageRequest
from routes.ollama.asked import ChatRequest, EmbedRequest, GenerateRequest
from routes.parsing import LARGE, RequestBody, parse, prepared
from routes.responses.request import ResponseRequest
from tests.routes.herd import Herd
from tests.routes.stage import Fake

BAD = [1] * 1000
MANY = {str(number): number for number in range(1000)}


@pytest.mark.parametrize(
    ("model", "body", "param"),
    [
        (ResponseRequest, {"input": BAD}, "input[0]"),
        (ResponseRequest, {"input": [{"role": "user", "content": BAD}]}, "input[0].content[0]"),
        (ResponseRequest, {"input": [{"type": "reasoning", "content": BAD}]}, "input[0].content[0]"),
        (ResponseRequest, {"input": "x", "tools": BAD}, "tools[0]"),
        (ResponseRequest, {"input": "x", "include": BAD}, "include[0]"),
        (ResponseRequest, {"input": "x", "metadata": MANY}, "metadata.0"),
        (MessageRequest, {"max_tokens": 1, "messages": BAD}, "messages[0]"),
        (MessageRequest, {"max_tokens": 1, "messages": [{"role": "user", "content": BAD}]}, "messages[0].content[0]"),
        (MessageRequest, {"max_tokens": 1, "messages": [], "system": BAD}, "system[0]"),
        (MessageRequest, {"max_tokens": 1, "messages": [], "stop_sequences": BAD}, "stop_sequences[0]"),
        (ChatRequest, {"messages": BAD}, "messages[0]"),
        (ChatRequest, {"messages": [{"role": "user", "images": BAD}]}, "messages[0].images[0]"),
        (ChatRequest, {"messages": [{"role": "assistant", "tool_calls": BAD}]}, "messages[0].tool_calls[0]"),
        (GenerateRequest, {"context": ["a"] * 1000}, "context[0]"),
        (GenerateRequest, {"options": {"stop": BAD}}, "options.stop"),
        (EmbedRequest, {"input": BAD}, "input"),
    ],
)
def test_the_first_wrong_item_of_many_is_the_only_error(
    model: type[RequestBody], body: dict[str, Any], param: str
) -> None:
    with pytest.raises(ValidationError) as found:
        model.model_validate(body)
    assert found.value.error_count() <= 2, "one for each member of a union"
    with pytest.raises(InvalidRequest) as refused:
        parse(model, body)
    assert refused.value.param == param


async def test_large_bodies_are_worked_on_in_a_thread() -> None:
    assert await prepared(b" " * (LARGE - 1), threading.get_ident) == threading.get_ident()
    assert await prepared(b" " * LARGE, threading.get_ident) != threading.get_ident()


async def test_what_is_raised_in_the_thread_is_raised_here() -> None:
    with pytest.raises(InvalidRequest):
        await prepared(b" " * LARGE, lambda: parse(ResponseRequest, {}))


@pytest.mark.parametrize("size", [0, LARGE])
@pytest.mark.parametrize(
    ("path", "module", "body"),
    [
        ("/v1/responses", responses, {"input": "one"}),
        ("/v1/responses/input_tokens", responses, {"input": "one"}),
        ("/v1/messages", anthropic, {"max_tokens": 5, "messages": [{"role": "user", "content": "one"}]}),
        ("/v1/messages/count_tokens", anthropic, {"messages": [{"role": "user", "content": "one"}]}),
    ],
)
async def test_a_large_request_is_read_and_translated_in_a_thread(
    herd: Herd, fake: Fake, monkeypatch: pytest.MonkeyPatch, path: str, module: Any, body: dict[str, Any], size: int
) -> None:
    threads = []

    def noted(work: Callable[..., Any]) -> Callable[..., Any]:
        def note(*given: Any) -> Any:
            threads.append(threading.get_ident())
            return work(*given)

        return note

    translation = "to_chat" if module is responses else "translate"
    for name in ("parse", translation):
        monkeypatch.setattr(module, name, noted(getattr(module, name)))
    raw = json.dumps({**body, "metadata": {"user_id": "x" * size}}).encode()
    assert (await herd.post(path, raw=raw)).status == 200
    assert len(threads) == 2
    assert {thread == threading.get_ident() for thread in threads} == {size == 0}
