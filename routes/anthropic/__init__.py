"""Anthropic's Messages API, by way of a chat."""

from __future__ import annotations

from functools import partial
from typing import Any, TypeVar

from aiohttp import web

from manager.errors import HerdError, InvalidRequest
from routes.anthropic.answer import count_of, message_of
from routes.anthropic.request import CountRequest, MessageRequest
from routes.anthropic.stream import events_of, failure, ping
from routes.anthropic.translation import Translated, translate
from routes.body import read_object
from routes.conversation import COUNT_PATH
from routes.form import Form
from routes.openai import CHAT_PATH, chat
from routes.parsing import parse, prepared

Asked = TypeVar("Asked", bound=CountRequest)


async def create_message(request: web.Request) -> web.StreamResponse:
    """POST /v1/messages. `model` may be left out, and fields of ours and of engines may be there."""
    raw, body = await read_object(request)
    asked, translated = await prepared(raw, partial(_prepare, MessageRequest, body))
    shows = asked.thinking is None or asked.thinking.display != "omitted"

    def failed(error: HerdError) -> bytes:
        return failure(translated.retold(error))

    form = Form(
        finish=partial(message_of, thinking=shows, messages=translated.body["messages"]),
        reframe=partial(events_of, model=asked.model or "", thinking=shows),
        failed=failed,
        pulse=ping,
    )
    return await _answer(request, translated, CHAT_PATH, form)


async def count_tokens(request: web.Request) -> web.StreamResponse:
    """POST /v1/messages/count_tokens, with the body of a message: `{"input_tokens"}`, those of its prompt."""
    raw, body = await read_object(request)
    _, translated = await prepared(raw, partial(_prepare, CountRequest, body))
    return await _answer(request, translated, COUNT_PATH, Form(finish=count_of))


def _prepare(model: type[Asked], body: dict[str, Any]) -> tuple[Asked, Translated]:
    asked = parse(model, body)
    return asked, translate(asked)


async def _answer(request: web.Request, translated: Translated, path: str, form: Form) -> web.StreamResponse:
    try:
        return await chat(request, translated.body, path=path, form=form)
    except InvalidRequest as error:
        raise translated.retold(error) from None
