"""Request bodies: the bounded read, the one JSON parse, and the checks of the fields that we know."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import orjson
from aiohttp import web

from manager.errors import InvalidRequest
from manager.service import SERVICE
from routes.callers import authorise_again
from routes.captured import keep_request
from routes.schema.chat import ChatRequest
from routes.schema.checks import Check, checks_of
from routes.schema.completion import CompletionRequest, EmbeddingsRequest, TokenizeRequest

CTX_NAMES: Final = ("ctx", "context_window", "n_ctx")
# Fields of ours, which no engine knows.
OWN_FIELDS: Final = frozenset({*CTX_NAMES, "personality"})
# Bytes of a body that must come in a second, beyond server.body_timeout.
SLOWEST: Final = 4096

# What was read of a request.
BODY: Final[web.RequestKey[dict[str, Any]]] = web.RequestKey("body", dict)


class BrokenBody(InvalidRequest):
    """A body that could not be read to its end: what follows on its connection can't be told apart from it."""


class BodyTimeout(BrokenBody):
    """A body that came too slowly."""

    status = 408
    code = "request_timeout"


# What each known field must be; a field that is null counts as left out. Others are the engine's to judge.
FIELDS: Final[dict[str, tuple[Check, str]]] = {
    **checks_of(ChatRequest, CompletionRequest, EmbeddingsRequest, TokenizeRequest),
    # Of no use on our routes, but that it could hide from us what an answer took.
    "response_fields": (lambda value: False, "is not supported: answers have all of their fields"),
}


async def read_object(request: web.Request) -> tuple[bytes, dict[str, Any]]:
    """The body as it came and as the JSON object that it must be. Raises InvalidRequest with the place."""
    raw = await read_body(request)
    body = request[BODY] = parse_object(raw)
    return raw, body


def parse_object(raw: bytes) -> dict[str, Any]:
    """The JSON object that a body must be. Raises InvalidRequest with the place of the mistake."""
    if not raw:
        raise InvalidRequest("The request has no body; it must be a JSON object.")
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(
            f"The body is not valid JSON: {error.msg} (line {error.lineno}, column {error.colno})."
        ) from None
    if not isinstance(body, dict):
        raise InvalidRequest("The body must be a JSON object.")
    return body


async def read_body(request: web.Request) -> bytes:
    """The whole body, decompressed, up to server.max_body bytes of it.

    Raises HTTPRequestEntityTooLarge, BrokenBody, BodyTimeout where it comes more slowly than server.body_timeout
    allows, and InvalidKey or PermissionDenied where its sender would be let in no longer when it has come.
    """
    content = request.content
    try:
        if content.is_eof():  # as nearly always: it came with its head
            body = await request.read()
        else:
            body = await _read_on(request, request.app[SERVICE].settings.server.body_timeout)
            authorise_again(request, request.app[SERVICE])
    except web.RequestPayloadError:
        content.feed_eof()  # aiohttp would read on for what is left, and log that it can't
        raise BrokenBody("The body can't be read: it is not what its headers say (Content-Encoding).") from None
    except TimeoutError:
        content.feed_eof()
        raise BodyTimeout("The body of the request took too long to come.") from None
    captures = request.app[SERVICE].captures
    if captures.enabled:
        keep_request(request, captures, body)
    return body


async def _read_on(request: web.Request, seconds: float) -> bytes:
    """Read what is still coming, in `seconds` and one more for each SLOWEST bytes; else TimeoutError.

    Not request.read(): a compressed body would be inflated by that in steps of server.max_body.
    """
    content, most = request.content, request.client_max_size
    if (request.content_length or 0) > most:
        raise web.HTTPRequestEntityTooLarge(most)
    body = bytearray()
    latest = asyncio.get_running_loop().time() + seconds
    async with asyncio.timeout_at(latest) as deadline:
        while chunk := await content.readany():
            body += chunk
            if len(body) > most:
                raise web.HTTPRequestEntityTooLarge(most)
            deadline.reschedule(latest + content.total_raw_bytes / SLOWEST)
    return bytes(body)


def write_object(body: dict[str, Any]) -> bytes:
    """A changed body as JSON. Raises InvalidRequest where it has more levels than can be written (254)."""
    try:
        return orjson.dumps(body)
    except orjson.JSONEncodeError:
        raise InvalidRequest("The body is nested too deeply.") from None


def check_fields(body: dict[str, Any]) -> None:
    """Hold every known field to its type and range. Raises InvalidRequest that names the field."""
    for name, value in body.items():
        known = FIELDS.get(name)
        if known is not None and value is not None and not known[0](value):
            raise InvalidRequest(f"'{name}' {known[1]}.", param=name)


def wanted_context(body: dict[str, Any]) -> int | None:
    """The budget in tokens that the request sets, under whichever of its names."""
    return next((body[name] for name in CTX_NAMES if body.get(name) is not None), None)
