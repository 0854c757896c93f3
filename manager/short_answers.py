"""Answers that no application makes: to what is no request, came too late, or was one connection too many."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

import orjson
from aiohttp import web

from manager.errors import HerdError, InvalidRequest

# An answer is data: shown as a page it may run nothing, load nothing and be framed by nobody, and no cache keeps it.
SECURITY: Final = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}
JSON: Final = "application/json; charset=utf-8"


class HeadTimeout(InvalidRequest):
    """The head of a request did not come in time."""

    status = 408
    code = "request_timeout"


class HeadTooLarge(InvalidRequest):
    status = 431
    code = "head_too_large"


class Refusal(InvalidRequest):
    """One with nothing to say but its status."""

    def __init__(self, status: int) -> None:
        super().__init__(f"{HTTPStatus(status).phrase}.")
        self.status = status


class TooManyConnections(HerdError):
    status = 503
    code = "too_many_connections"


def error_object(error: HerdError) -> dict[str, Any]:
    """The body of an error, as OpenAI's clients read it."""
    return {"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}}


def closing_response(error: HerdError) -> web.Response:
    """An answer after which the connection is closed."""
    body = orjson.dumps(error_object(error))
    response = web.Response(body=body, status=error.status, headers={**SECURITY, "Content-Type": JSON})
    response.force_close()
    return response


def closing_bytes(error: HerdError) -> bytes:
    """The same as it goes over the wire, for a connection that has no request yet."""
    body = orjson.dumps(error_object(error))
    headers = {**SECURITY, "Content-Type": JSON, "Content-Length": str(len(body)), "Connection": "close"}
    if error.retry_after is not None:
        headers["Retry-After"] = str(int(error.retry_after))
    lines = [f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}", *(f"{k}: {v}" for k, v in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body
