"""Asks the engine, through the service, how it renders and counts a conversation."""

from __future__ import annotations

from typing import Any

import aiohttp

Messages = list[dict[str, str]]


def system(text: str) -> dict[str, str]:
    return {"role": "system", "content": text}


async def post(http: aiohttp.ClientSession, path: str, **body: Any) -> Any:
    async with http.post(path, json=body) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.json()


async def prompt_of(http: aiohttp.ClientSession, messages: Messages, model: str = "smol") -> str:
    answer = await post(http, "/apply-template", model=model, messages=messages)
    prompt: str = answer["prompt"]
    return prompt


async def length_of(http: aiohttp.ClientSession, messages: Messages, model: str = "smol") -> int:
    """Tokens of the prompt that these messages make."""
    content = await prompt_of(http, messages, model)
    answer = await post(http, "/tokenize", model=model, content=content, add_special=True, parse_special=True)
    return len(answer["tokens"])
