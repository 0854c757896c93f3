"""What a request becomes on its way to the thread that generates, and what of it is refused before."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from manager.engines import UpstreamRequest
from manager.engines.hf.engine import HfEngine
from manager.entry import ModelEntry
from manager.errors import UpstreamClosed
from manager.params import HfParams

COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"


@pytest.fixture
async def engine(tiny_text_folder: Path) -> AsyncIterator[HfEngine]:
    params = HfParams(model=str(tiny_text_folder))
    engine = HfEngine(ModelEntry(name="tiny", path=tiny_text_folder, params=params, engine="hf"))
    await engine.start()
    yield engine
    await engine.stop()


async def asked(engine: HfEngine, path: str, body: dict[str, Any]) -> tuple[int, Any]:
    async with engine.open(UpstreamRequest("POST", path, json.dumps(body).encode())) as answer:
        return answer.status, json.loads(await answer.read())


class Watched:
    """A generator that notes what is made and begun. It makes nothing before `going`, and begins as many as it may."""

    def __init__(self, generator: Any, *, going: bool = True, may_begin: int = 1000) -> None:
        self.made: list[threading.Thread] = []
        self.begun: list[Any] = []
        self.cancelled: list[Any] = []
        self.asked = threading.Event()
        self.going = threading.Event()
        if going:
            self.going.set()
        self._may_begin = may_begin
        self._generator = generator

    def make(self, generation: Any, sink: Any) -> Any:
        self.asked.set()
        assert self.going.wait(30)
        self.made.append(threading.current_thread())
        return self._generator.make(generation, sink)

    def begin(self, sequence: Any) -> None:
        if len(self.begun) == self._may_begin:
            raise UpstreamClosed("The model was unloaded.")
        self.begun.append(sequence)
        self._generator.begin(sequence)

    def cancel(self, sequence: Any) -> None:
        self.cancelled.append(sequence)
        self._generator.cancel(sequence)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._generator, name)


def watch(engine: HfEngine, **how: Any) -> Watched:
    residence: Any = engine._residence
    residence.generator = watched = Watched(residence.generator, **how)
    return watched


@pytest.mark.parametrize(
    ("path", "body", "param", "kind"),
    [
        (COMPLETIONS, {"prompt": ["a"] * 5, "n": 26}, "n", "invalid_request_error"),
        (COMPLETIONS, {"prompt": ["a"] * 129}, "prompt", "invalid_request_error"),
        (COMPLETIONS, {"prompt": ["a", 5.5]}, "prompt", "invalid_request_error"),
        (COMPLETIONS, {"prompt": [["a", None]]}, "prompt", "invalid_request_error"),
        (COMPLETIONS, {"prompt": [["a", True]]}, "prompt", "invalid_request_error"),
        (COMPLETIONS, {"prompt": "x" * 60_000}, "prompt", "exceed_context_size_error"),
        (CHAT, {"messages": [{"role": "user", "content": "x" * 60_000}]}, "messages", "exceed_context_size_error"),
        ("/tokenize", {"content": ["a", 99999]}, "content", "invalid_request_error"),
        ("/tokenize", {"content": [{}]}, "content", "invalid_request_error"),
        ("/tokenize", {"content": {}}, "content", "invalid_request_error"),
        ("/tokenize", {"content": "a", "add_special": 1}, "add_special", "invalid_request_error"),
        ("/tokenize", {"content": "a", "with_pieces": "yes"}, "with_pieces", "invalid_request_error"),
        ("/detokenize", {"tokens": "ab"}, "tokens", "invalid_request_error"),
        ("/detokenize", {"tokens": ["a"]}, "tokens", "invalid_request_error"),
    ],
)
async def test_what_is_wrong_is_named(engine: HfEngine, path: str, body: dict[str, Any], param: str, kind: str) -> None:
    status, answer = await asked(engine, path, body)
    assert (status, answer["error"]["param"], answer["error"]["type"]) == (400, param, kind)


async def test_a_text_that_cant_fit_is_refused_before_its_tokens_are_looked_for(engine: HfEngine) -> None:
    _, fits = await asked(engine, COMPLETIONS, {"prompt": "x" * 5000})
    assert "5000 tokens" in fits["error"]["message"]
    _, longer = await asked(engine, COMPLETIONS, {"prompt": "x" * 60_000})
    assert "60000 characters" in longer["error"]["message"]
    status, tokens = await asked(engine, "/tokenize", {"content": "x" * 60_000})
    assert (status, len(tokens["tokens"])) == (200, 60_000)


async def test_sequences_are_made_in_a_thread_and_as_many_as_asked_for(engine: HfEngine) -> None:
    watched = watch(engine)
    status, answer = await asked(engine, COMPLETIONS, {"prompt": ["a", "b"], "n": 3, "max_tokens": 1})
    assert (status, len(answer["choices"]), len(watched.begun)) == (200, 6, 6)
    assert threading.current_thread() not in watched.made


async def test_biases_are_made_once_for_all_sequences_of_a_request(engine: HfEngine) -> None:
    watched = watch(engine)
    await asked(engine, COMPLETIONS, {"prompt": "a", "n": 3, "seed": 5, "max_tokens": 1, "logit_bias": {"5": 1}})
    assert len({id(sequence.sampler.bias.tokens) for sequence in watched.begun}) == 1


async def test_who_leaves_while_sequences_are_made_leaves_none_running(engine: HfEngine) -> None:
    watched = watch(engine, going=False)
    asking = asyncio.create_task(asked(engine, COMPLETIONS, {"prompt": "a", "n": 2, "ignore_eos": True}))
    assert await asyncio.to_thread(watched.asked.wait, 30)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    watched.going.set()
    status, _ = await asked(engine, COMPLETIONS, {"prompt": "a", "max_tokens": 1})
    assert (status, len(watched.begun)) == (200, 1)


async def test_an_engine_that_closes_meanwhile_leaves_none_running(engine: HfEngine) -> None:
    watched = watch(engine, may_begin=2)
    with pytest.raises(UpstreamClosed):
        await asked(engine, COMPLETIONS, {"prompt": "a", "n": 4, "ignore_eos": True})
    assert set(watched.begun) <= set(watched.cancelled)


async def test_a_request_for_no_tokens_begins_nothing(engine: HfEngine) -> None:
    watched = watch(engine)
    _, answer = await asked(engine, COMPLETIONS, {"prompt": "abc", "n": 2, "max_tokens": 0})
    assert (answer["usage"]["prompt_tokens"], answer["timings"]["prompt_n"], len(watched.made)) == (3, 0, 0)


async def test_a_failure_is_logged_by_its_place_and_quotes_nothing(
    engine: HfEngine, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing:
        def read(self, chat: bool, body: Any) -> Any:
            raise ValueError(body["prompt"])

    api: Any = engine._api
    api._prompts = Failing()
    with caplog.at_level("DEBUG"):
        status, answer = await asked(engine, COMPLETIONS, {"prompt": "a secret"})
    assert status == 500
    assert "ValueError at test_api.py:" in caplog.text
    assert "secret" not in caplog.text + json.dumps(answer)


async def test_what_rules_out_all_tokens_is_said(engine: HfEngine) -> None:
    status, answer = await asked(engine, COMPLETIONS, {"prompt": "a", "logit_bias": [[at, False] for at in range(288)]})
    assert (status, "No token may come next" in answer["error"]["message"]) == (500, True)


async def test_grammars_are_ready_with_the_load(engine: HfEngine) -> None:
    api: Any = engine._api
    assert api._prompts._grammars._tokenizer is not None
