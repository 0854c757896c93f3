"""OpenAI's Responses API, by way of a chat. Nothing is kept: there is no response to go on from, or to fetch later."""

from __future__ import annotations

from functools import partial
from typing import Any

from aiohttp import web

from manager.errors import InvalidRequest
from routes.body import BODY, read_object, write_object
from routes.conversation import COUNT_PATH
from routes.form import Form
from routes.openai import CHAT_PATH, chat
from routes.parsing import parse, prepared
from routes.responses.answer import whole
from routes.responses.chat_body import Chat, to_chat
from routes.responses.request import ResponseRequest
from routes.responses.stream import ResponseStream


async def create(request: web.Request) -> web.StreamResponse:
    """POST /v1/responses: OpenAI's response, streamed with `"stream": true`."""
    raw, body = await read_object(request)
    asked, made = await prepared(raw, partial(_prepare, body))

    def settled() -> dict[str, Any]:
        return request[BODY]  # with what the model's entry did to it

    events = ResponseStream(asked, made, settled)
    form = Form(finish=lambda answer: whole(asked, answer, settled()), reframe=events.reframe, failed=events.failed)
    return await _answered(request, made, CHAT_PATH, form)


async def count_input(request: web.Request) -> web.StreamResponse:
    """POST /v1/responses/input_tokens: how many tokens the model would have to read for that response."""
    raw, body = await read_object(request)
    _, made = await prepared(raw, partial(_prepare, body, counted=True))
    return await _answered(request, made, COUNT_PATH, Form(finish=_count))


def _prepare(body: dict[str, Any], *, counted: bool = False) -> tuple[ResponseRequest, Chat]:
    """What is asked, and the chat for it; what is only counted is not streamed."""
    asked = parse(ResponseRequest, body)
    if counted:
        asked = asked.model_copy(update={"stream": None})
    write_object({"response": body})  # what is too deep to be said again is refused before any work is done
    return asked, to_chat(asked)


def _count(answer: dict[str, Any]) -> dict[str, Any]:
    return {"object": "response.input_tokens", "input_tokens": answer["input_tokens"]}


async def _answered(request: web.Request, made: Chat, path: str, form: Form) -> web.StreamResponse:
    try:
        return await chat(request, made.body, path=path, form=form)
    except InvalidRequest as error:
        raise made.in_its_words(error) from None
