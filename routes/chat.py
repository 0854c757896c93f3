"""The chat routes of the original, for clients that use whichever model is active."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import Any, Final

from aiohttp import web

from manager.errors import InvalidRequest
from manager.service import SERVICE
from routes import sse
from routes.admin import flag
from routes.body import read_object
from routes.callers import is_admin, may_use
from routes.errors import without_folders
from routes.form import Form
from routes.models import json_response
from routes.openai import chat


async def completions(request: web.Request) -> web.StreamResponse:
    """POST /chat/completions: as /v1/chat/completions, but an unknown `model` means the active one.

    A whole answer also carries `responses`, the texts of its choices.
    """
    raw, body = await read_object(request)
    return await chat(request, body, raw, form=_WITH_RESPONSES, lenient=True)


def _with_responses(answer: dict[str, Any]) -> dict[str, Any]:
    return {**answer, "responses": [_text(choice) for choice in answer.get("choices", [])]}


_WITH_RESPONSES: Final = Form(finish=_with_responses)


def _text(choice: dict[str, Any]) -> str:
    return choice.get("message", {}).get("content") or ""


async def errors(request: web.Request) -> web.Response:
    """GET /chat/errors: the recorded errors of the models, newest last. An engine's log is for admins."""
    service = request.app[SERVICE]
    records = [record.as_dict() for record in service.pool.errors]
    if not is_admin(request, service):
        records = [record for record in records if may_use(request, service.pool.catalog.get(record["model"]))]
        records = [{**record, "message": without_folders(record["message"]), "log": []} for record in records]
    return json_response({"errors": records})


async def ask(request: web.Request) -> web.StreamResponse:
    """GET /chat/ask?question=&stream=: one question to the active model.

    `{"question", "response"}`, or with `stream` events of `{"response": fragment}` and a closing [DONE].
    """
    question = request.query.get("question", "")
    if not question.strip():
        raise InvalidRequest("'question' is missing.", param="question")
    stream = flag(request, "stream", default=False)
    body: dict[str, Any] = {"messages": [{"role": "user", "content": question}], "stream": stream}
    if model := request.query.get("model"):
        body["model"] = model

    def finish(answer: dict[str, Any]) -> dict[str, Any]:
        return {"question": question, "response": "".join(_text(choice) for choice in answer["choices"][:1])}

    return await chat(
        request, body, form=Form(finish=finish, reframe=partial(_fragments, model=model or "")), lenient=True
    )


async def _fragments(chunks: AsyncIterator[bytes], model: str) -> AsyncIterator[bytes]:
    async for event in sse.chunks_of(chunks, model):
        for choice in event.get("choices", [])[:1]:
            fragment = choice.get("delta", {}).get("content")
            if fragment:
                yield sse.data_frame({"response": fragment})
    yield sse.DONE
