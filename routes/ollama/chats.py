"""POST /api/chat and /api/generate: chats and completions of any engine, as Ollama has them."""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Iterator
from functools import partial
from typing import Final

from aiohttp import web

from manager.errors import EndpointUnsupported, InvalidRequest
from routes import openai
from routes.body import read_object
from routes.models import json_response
from routes.ollama.answers import Answers, as_message, as_response
from routes.ollama.asked import ChatRequest, GenerateRequest
from routes.ollama.bodies import chat_body, completion_body, prompt_chat
from routes.ollama.models import asked_model, known_as, load_or_unload, without_chat
from routes.parsing import parse, prepared

# Places in the body of a chat, and what they were in Ollama's; images are the first parts of a content.
Places = tuple[tuple[re.Pattern[str], str], ...]
_OF_CHAT: Final[Places] = (
    (re.compile(r"(messages\[\d+\])\.content\[(\d+)\](?:\.image_url)?(?:\.url)?"), r"\1.images[\2]"),
)
_OF_PROMPT: Final[Places] = (
    (re.compile(r"messages\[\d+\]\.content\[(\d+)\](?:\.image_url)?(?:\.url)?"), r"images[\1]"),
    (re.compile(r"messages(?:\[\d+\])?(?:\.content)?"), "prompt"),
)
# Ollama's fields that can't be had, and what stands in for them.
_NOT_HAD: Final = {
    "template": "a model's template is set where the model is (template in models.json)",
    "context": "chat instead, with the messages so far",
}


async def chat(request: web.Request) -> web.StreamResponse:
    """POST /api/chat: a stream of lines unless `stream` is false. Without messages the model is loaded."""
    raw, body = await read_object(request)
    asked = await prepared(raw, partial(parse, ChatRequest, body))
    name = asked.model or asked_model(request, None).entry.name
    if not asked.messages:
        return json_response(Answers(name, as_message).without_prompt(await load_or_unload(request, asked)))
    ready = await prepared(raw, partial(chat_body, asked, known_as(request, asked.model)))
    answers = Answers(name, as_message, ready["messages"], asked.top_logprobs)
    with _naming(_OF_CHAT):
        return await openai.chat(request, ready, form=answers.form)


async def generate(request: web.Request) -> web.StreamResponse:
    """POST /api/generate: a stream of lines unless `stream` is false. Without a prompt the model is loaded."""
    raw, body = await read_object(request)
    asked = await prepared(raw, partial(parse, GenerateRequest, body))
    for name, instead in _NOT_HAD.items():
        if getattr(asked, name):
            raise EndpointUnsupported(f"'{name}' is not supported: {instead}.", param=name)
    found = asked_model(request, asked.model)
    answers = Answers(asked.model or found.entry.name, as_response, likeliest=asked.top_logprobs)
    if asked.asks_nothing:
        return json_response(answers.without_prompt(await load_or_unload(request, asked)))
    model = known_as(request, asked.model)
    if asked.raw or asked.suffix or not found.entry.params.instruct:
        path = "/infill" if asked.suffix else "/v1/completions"
        return await without_chat(request, found, path, completion_body(asked, model), answers.form)
    ready = await prepared(raw, partial(prompt_chat, asked, model))
    with _naming(_OF_PROMPT):
        return await openai.chat(request, ready, form=answers.form)


@contextlib.contextmanager
def _naming(places: Places) -> Iterator[None]:
    """Name the fields of the caller's request in what is refused, not those that were made of them."""
    try:
        yield
    except InvalidRequest as error:
        named = copy.copy(error)
        for place, field in places:
            named.message = place.sub(field, named.message)
            named.param = named.param and place.sub(field, named.param)
        raise named from None
