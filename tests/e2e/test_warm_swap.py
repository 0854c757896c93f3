"""A conversation goes on after its model was unloaded and loaded again, without its prompt being processed anew."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest
from openai import OpenAI

from tests.e2e.service import PATIENCE, Service

pytestmark = pytest.mark.timeout(180)

QUESTION: Any = {
    "role": "user",
    "content": "Tell me about this: " + "the quick brown fox jumps over the lazy dog. " * 20,
}


def test_the_next_turn_after_a_swap_finds_its_cache(fresh_service: Service) -> None:
    with OpenAI(base_url=fresh_service.openai_url, api_key=fresh_service.key, timeout=PATIENCE) as client:

        def ask(messages: list[Any]) -> Any:
            return client.chat.completions.create(model="smol", messages=messages, max_tokens=4, temperature=0)

        first = ask([QUESTION])
        said = first.choices[0].message.content
        messages = [QUESTION, {"role": "assistant", "content": said}, {"role": "user", "content": "Go on."}]
        before = first.usage.prompt_tokens
        with OpenAI(base_url=fresh_service.url, api_key=fresh_service.key) as root:
            root.post("/unloadModel", cast_to=object)
        after = ask(messages)
    assert before > 200
    # All of the first prompt but at most its last token, which is always computed.
    assert after.timings["cache_n"] >= before - 1
    assert after.timings["prompt_n"] < 30
    assert "slots saved=1" in fresh_service.log
    assert "slots restored=1" in fresh_service.log


async def test_an_answer_after_a_swap_is_the_one_from_the_cache_before_it(fresh_service: Service) -> None:
    body = {"model": "smol", "messages": [QUESTION], "max_tokens": 12, "temperature": 0, "seed": 1}
    headers = {"Authorization": f"Bearer {fresh_service.key}"}
    async with aiohttp.ClientSession(fresh_service.url, headers=headers, raise_for_status=True) as http:

        async def ask() -> str:
            async with http.post("/v1/chat/completions", json=body) as answer:
                text: str = (await answer.json())["choices"][0]["message"]["content"]
                return text

        await ask()  # its whole prompt in one batch, which rounds otherwise than what follows
        before = await ask()
        await http.post("/unloadModel")
        assert await ask() == before
