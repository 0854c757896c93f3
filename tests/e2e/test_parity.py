"""What comes through the service is, byte for byte, what the model's process says when it is asked directly."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any, Final

import aiohttp
import pytest

from tests.e2e.service import PATIENCE, Service

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

MODELS: Final = ("smol-one", "smol-tools", "tiny")
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
# Each computes its whole prompt anew, so that the same numbers are added up in the same order.
ALWAYS: Final = {"cache_prompt": False, "max_tokens": 6}
SCHEMA: Final = {"type": "object", "properties": {"colour": {"enum": ["red", "blue"]}}, "required": ["colour"]}
TOOL: Final = {"type": "function", "function": {"name": "look", "parameters": SCHEMA}}

PROMPTS: Final = (
    "Name a colour.",
    "Wie heißt die Hauptstadt von Österreich?",
    "日本の首都はどこですか。",
    "🦙 🦙 🦙",
    'Quote: "yes" \\ / \t\n end',
    "Count: one, two, three,",
    "x" * 120,
)

# Of a chat, beside its messages.
WAYS: Final[tuple[dict[str, Any], ...]] = (
    {"temperature": 0},
    {"temperature": 0.7, "seed": 1},
    {"temperature": 1.5, "seed": 2, "top_k": 5},
    {"temperature": 1.0, "seed": 3, "top_p": 0.5},
    {"temperature": 1.0, "seed": 4, "min_p": 0.2},
    {"temperature": 1.0, "seed": 5, "typical_p": 0.6},
    {"temperature": 0.8, "seed": 6, "repeat_penalty": 1.4},
    {"temperature": 0.8, "seed": 7, "presence_penalty": 1.5, "frequency_penalty": -0.5},
    {"temperature": 0.9, "seed": 8, "logit_bias": {"300": 5.0, "301": -100}},
    {"temperature": 1.0, "seed": 9, "stop": ["e", " a"]},
    {"temperature": 1.0, "seed": 10, "stop": "o"},
    {"temperature": 1.0, "seed": 11, "logprobs": True, "top_logprobs": 3},
    {"temperature": 1.0, "seed": 12, "n": 2},
    {"temperature": 1.0, "seed": 13, "ignore_eos": True, "max_tokens": 40},
    {"temperature": 1.0, "seed": 14, "max_tokens": 1},
    {"temperature": 1.5, "seed": 15, "response_format": {"type": "json_object"}},
    {"temperature": 1.5, "seed": 16, "response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}},
    {"temperature": 1.5, "seed": 17, "grammar": 'root ::= ("ja" | "nein") " "?'},
    {"temperature": 1.0, "seed": 18, "tools": [TOOL], "tool_choice": "required", "max_tokens": 24},
    {"temperature": 1.0, "seed": 19, "mirostat": 2},
    {"temperature": 1.0, "seed": 20, "dynatemp_range": 0.5},
    {"temperature": 1.0, "seed": 21, "stream_options": {"include_usage": True}},
)
# Of a completion, beside its prompt.
PLAIN: Final[tuple[dict[str, Any], ...]] = (
    {"temperature": 0},
    {"temperature": 1.2, "seed": 30},
    {"temperature": 1.0, "seed": 31, "logprobs": 2},
    {"temperature": 1.0, "seed": 32, "stop": ["\n"], "max_tokens": 20},
    {"temperature": 1.0, "seed": 33, "prompt": ["One", "Two"]},
    {"temperature": 1.0, "seed": 34, "prompt": [1, 300, 400]},
)


def requests() -> list[tuple[str, dict[str, Any]]]:
    """Paths and bodies: a part for a real model, the rest for one that says random bytes, and fast."""
    bodies = []
    for number, way in enumerate(WAYS):
        turns = [{"role": "system", "content": "Be brief."}] if number % 3 == 0 else []
        said = {"role": "user", "content": PROMPTS[number % len(PROMPTS)]}
        if number % 4 == 1:
            said["content"] = [{"type": "text", "text": said["content"]}]  # type: ignore[assignment]
        bodies.append((CHAT, {"messages": [*turns, said], **way}))
    bodies += [(TEXT, {"prompt": PROMPTS[number], **way}) for number, way in enumerate(PLAIN)]
    # What its vocabulary of bytes and its template can't do, the real model does, and some more.
    real = {"logit_bias", "tools", "grammar", "response_format", "logprobs"}
    named = []
    for number, (path, body) in enumerate(bodies):
        tokens = isinstance(body.get("prompt"), list) and isinstance(body["prompt"][0], int)
        if tokens or (number % 3 == 0 and "n" not in body) or real & set(body):  # it has one slot
            named.append((path, {"model": "smol-tools" if "tools" in body else "smol-one", **ALWAYS, **body}))
        if not tokens and not real & set(body):
            named += [(path, {**ALWAYS, **body, "model": "tiny", "seed": seed, "max_tokens": 30}) for seed in (7, 8)]
    return named


@pytest.fixture
async def sessions(service: Service) -> AsyncIterator[dict[str, aiohttp.ClientSession]]:
    """A way to each model's process, and under "service" the one through the service."""
    async with aiohttp.ClientSession(
        service.url, headers={"Authorization": f"Bearer {service.key}"}, timeout=aiohttp.ClientTimeout(PATIENCE)
    ) as through:
        found = {"service": through}
        for model in MODELS:
            async with through.post("/loadModel", json={"model": model}) as answer:
                assert answer.status == 200
            slots = service.slots(model)
            found[model] = aiohttp.ClientSession(
                "http://localhost",
                connector=aiohttp.UnixConnector(slots.path),
                headers={"Authorization": f"Bearer {slots.key}"},
            )
        yield found
        for model in MODELS:
            await found[model].close()


async def said(session: aiohttp.ClientSession, path: str, body: dict[str, Any]) -> Any:
    """What a whole answer says, without what is new each time; of an error its message."""
    async with session.post(path, json=body) as answer:
        told = json.loads(await answer.read())
    return [answer.status, told["choices"], told["usage"]] if answer.status == 200 else [answer.status]


async def streamed(session: aiohttp.ClientSession, path: str, body: dict[str, Any]) -> Any:
    """What a streamed answer says: the deltas of each choice in their order, and the reports."""
    choices: dict[int, list[Any]] = defaultdict(list)
    usage = []
    async with session.post(path, json={**body, "stream": True}) as answer:
        raw = await answer.read()
    if answer.status != 200:
        return [answer.status]
    frames = [frame for frame in raw.split(b"\n\n") if frame.startswith(b"data: ")]
    assert frames[-1] == b"data: [DONE]"
    for frame in frames[:-1]:
        chunk = json.loads(frame[6:]) or {}  # llama.cpp sends null where a prompt of several has nothing to say
        for choice in chunk.get("choices", []):
            choices[choice["index"]].append(choice)
        usage.append(chunk.get("usage"))
    return [answer.status, dict(choices), usage]


def ids_replaced(told: Any) -> str:
    """The answer as JSON. Ids of calls are drawn anew each time."""

    def cleaned(value: Any) -> Any:
        if isinstance(value, dict):
            kept = {name: cleaned(item) for name, item in value.items()}
            return {**kept, "id": "-"} if "function" in kept and "id" in kept else kept
        return [cleaned(item) for item in value] if isinstance(value, list) else value

    return json.dumps(cleaned(told), ensure_ascii=False, sort_keys=True)


async def test_fifty_requests_say_the_same_through_the_service(sessions: dict[str, aiohttp.ClientSession]) -> None:
    asked = requests()
    assert len(asked) >= 50
    for path, body in asked:
        for ask in (said, streamed):
            direct = ids_replaced(await ask(sessions[body["model"]], path, body))
            through = ids_replaced(await ask(sessions["service"], path, body))
            assert through == direct, (path, body, ask.__name__)
            assert direct.startswith("[200"), (path, body, "is one that the model answers")
