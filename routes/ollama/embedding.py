"""POST /api/embed and /api/embeddings: the vectors of /v1/embeddings, as Ollama has them."""

from __future__ import annotations

import time
from functools import partial
from typing import Any, Final

from aiohttp import web

from routes.body import BODY, read_object
from routes.form import Form
from routes.models import json_response
from routes.ollama.asked import EmbeddingsRequest, EmbedRequest
from routes.ollama.models import DIMENSIONS, asked_model, load_or_unload, without_chat
from routes.parsing import parse, prepared
from routes.straight import check_embeds
from routes.vectors import cut

PATH: Final = "/v1/embeddings"


async def embed(request: web.Request) -> web.StreamResponse:
    """POST /api/embed: a vector for each input. Without input the model is loaded."""
    began = time.monotonic_ns()
    raw, body = await read_object(request)
    asked = await prepared(raw, partial(parse, EmbedRequest, body))
    found = asked_model(request, asked.model)
    model = asked.model or found.entry.name
    check_embeds(found.entry)
    if not asked.input:
        await load_or_unload(request, asked)
        return json_response({"model": model, "embeddings": [], **_took(began, {})})

    def finish(answer: dict[str, Any]) -> dict[str, Any]:
        return {"model": model, "embeddings": _vectors(request, answer), **_took(began, answer)}

    inputs = [asked.input] if isinstance(asked.input, str) else asked.input
    body = _body(found.entry.name, inputs, asked.dimensions)
    return await without_chat(request, found, PATH, body, Form(finish=finish))


async def embeddings(request: web.Request) -> web.StreamResponse:
    """POST /api/embeddings, which /api/embed has replaced: the vector of one prompt."""
    raw, body = await read_object(request)
    asked = await prepared(raw, partial(parse, EmbeddingsRequest, body))
    found = asked_model(request, asked.model)
    check_embeds(found.entry)
    if not asked.prompt:
        await load_or_unload(request, asked)
        return json_response({"embedding": []})
    form = Form(finish=lambda answer: {"embedding": _vectors(request, answer)[0]})
    return await without_chat(request, found, PATH, _body(found.entry.name, [asked.prompt]), form)


def _body(model: str, inputs: list[str], dimensions: int | None = None) -> dict[str, Any]:
    body = {"model": model, "input": inputs, "encoding_format": "float"}
    return {**body, DIMENSIONS: dimensions} if dimensions else body


def _vectors(request: web.Request, answer: dict[str, Any]) -> list[Any]:
    """As long as the request asks, or what its model's entry does to requests."""
    vectors, dimensions = [one["embedding"] for one in answer["data"]], request[BODY].get(DIMENSIONS)
    return vectors if dimensions is None else [cut(vector, dimensions) for vector in vectors]


def _took(began: int, answer: dict[str, Any]) -> dict[str, int]:
    """How long it took, in nanoseconds, and how much was read."""
    read = (answer.get("usage") or {}).get("prompt_tokens", 0)
    return {"total_duration": time.monotonic_ns() - began, "load_duration": 0, "prompt_eval_count": read}
