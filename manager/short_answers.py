"""Answers that no application makes: to what is no request, came too late, or was one connection too many."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

import orjson
from aiohttp import web

from manager.errors import HerdError, InvalidRequest
from manager.settings_server import TlsSettings

# An answer is data: shown as a page it may run nothing, load nothing and be framed by nobody, and no cache keeps it.
# By default aiohttp would tell its version, and Python's.
SECURITY: Final = {
    "Server": "llamaherd",
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


class VersionNotSpoken(InvalidRequest):
    """A request of another HTTP than 1.0 and 1.1."""

    status = 505
    code = "http_version_not_supported"


class Refusal(InvalidRequest):
    """One with nothing to say but its status."""

    def __init__(self, status: int) -> None:
        super().__init__(f"{HTTPStatus(status).phrase}.")
        self.status = status


class TooManyConnections(HerdError):
    status = 503
    code = "too_many_connections"


def always(tls: TlsSettings) -> dict[str, str]:
    """Headers that every answer has."""
    if not tls.wanted or not tls.hsts:
        return dict(SECURITY)
    return {**SECURITY, "Strict-Transport-Security": f"max-age={tls.hsts}"}


def error_object(error: HerdError) -> dict[str, Any]:
    """The body of an error, as OpenAI's clients read it."""
    told = {"message": error.message, "type": error.type, "param": error.param, "code": error.code, **error.more}
    return {"error": told}


def closing_response(error: HerdError) -> web.Response:
    """An answer after which the connection is closed. The connection adds the headers that every answer has."""
    response = web.Response(body=orjson.dumps(error_object(error)), status=error.status, headers={"Content-Type": JSON})
    response.force_close()
    return response


def closing_bytes(error: HerdError, always: Mapping[str, str] = SECURITY) -> bytes:
    """The same as it goes over the wire, for a connection that has no request yet."""
    body = orjson.dumps(error_object(error))
    headers = {**always, "Content-Type": JSON, "Content-Length": str(len(body)), "Connection": "close"}
    if error.retry_after is not None:
        headers["Retry-After"] = str(int(error.retry_after))
    lines = [f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}", *(f"{k}: {v}" for k, v in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body
