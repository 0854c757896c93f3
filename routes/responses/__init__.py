"""OpenAI's Responses API, by way of a chat. Nothing is kept: there is no response to go on from, or to fetch later."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from manager.errors import InvalidRequest
from routes.body import read_object, write_object
from routes.conversation import COUNT_PATH
from routes.form import Form
from routes.openai import CHAT_PATH, chat
from routes.parsing import parse
from routes.responses.answer import whole
from routes.responses.chat_body import Chat, to_chat
from routes.responses.request import ResponseRequest
from routes.responses.stream import ResponseStream


async def create(request: web.Request) -> web.StreamResponse:
    """POST /v1/responses: OpenAI's response, streamed with `"stream": true`."""
    _, body = await read_object(request)
    asked = parse(ResponseRequest, body)
    write_object({"response": body})  # what is too deep to be said again is refused before any work is done
    made = to_chat(asked)
    events = ResponseStream(asked, made)
    form = Form(finish=lambda answer: whole(asked, answer), reframe=events.reframe, failed=events.failed)
    return await _answered(request, made, CHAT_PATH, form)


async def count_input(request: web.Request) -> web.StreamResponse:
    """POST /v1/responses/input_tokens: how many tokens the model would have to read for that response."""
    _, body = await read_object(request)
    made = to_chat(parse(ResponseRequest, body).model_copy(update={"stream": None}))
    return await _answered(request, made, COUNT_PATH, Form(finish=_count))


def _count(answer: dict[str, Any]) -> dict[str, Any]:
    return {"object": "response.input_tokens", "input_tokens": answer["input_tokens"]}


async def _answered(request: web.Request, made: Chat, path: str, form: Form) -> web.StreamResponse:
    try:
        return await chat(request, made.body, path=path, form=form)
    except InvalidRequest as error:
        raise made.in_its_words(error) from None
