"""The one place where errors become answers: our error tree, aiohttp's HTTP errors, and what engines report."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, Final

import orjson
from aiohttp import web

from manager.errors import (
    BodyTooLarge,
    ContextLengthExceeded,
    EndpointUnsupported,
    GenerationFailed,
    HerdError,
    InsufficientMemory,
    InvalidKey,
    InvalidRequest,
    RateLimited,
    Unavailable,
    UpstreamError,
)
from manager.short_answers import error_object
from manager.strict_json import sendable

# Where a request may hold token ids: an id that the model does not have fails in there.
_TOKENS_IN: Final = {"/detokenize": "tokens", "/tokenize": "content", "/v1/completions": "prompt"}
# llama-server's words, with status 500, for an input of embeddings that is longer than its batch.
_TOO_LARGE: Final = "is too large to process"
_INPUTS: Final = {
    "/v1/embeddings": "input",
    "/v1/completions": "prompt",
    "/v1/rerank": "documents",
    "/infill": "input_prefix",
}
# Its words, with status 500 as well, for images and sounds that the model's projector can't read.
_WITHOUT_SENSE: Final = " input is not supported - hint"
_OUT_OF_RANGE: Final = "_M_range_check"
# The folders of an absolute path; not the path of a URL.
_FOLDERS: Final = re.compile(r"(?<![\w/:.)\]}~-])/(?:[\w.~+@-][^/\s'\"]*/)+(?=[\w.-])")


# Anthropic's names for what went wrong, where they are not those for all of 4xx and 5xx.
_ANTHROPIC_TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


# How an API says an error. OpenAI's is error_object.
ErrorForm = Callable[[HerdError], dict[str, Any]]


def plain_error(error: HerdError) -> dict[str, Any]:
    """As the routes of the original say it, and Ollama."""
    return {"error": error.message}


def anthropic_error(error: HerdError) -> dict[str, Any]:
    """As Anthropic's API says it, with our `param` and `code` beside its own fields."""
    kind = _ANTHROPIC_TYPES.get(error.status)
    if kind is None:
        kind = "invalid_request_error" if error.status < 500 else "api_error"
    told = {"type": kind, "message": error.message, "param": error.param, "code": error.code}
    return {"type": "error", "error": told}


def error_response(error: HerdError, form: ErrorForm = error_object) -> web.Response:
    """An answer for `error`, in the form of an API."""
    response = web.Response(
        body=orjson.dumps(sendable(form(error))), status=error.status, content_type="application/json", charset="utf-8"
    )
    if error.retry_after is not None:
        response.headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    if error.should_retry is not None:
        response.headers["x-should-retry"] = "true" if error.should_retry else "false"
    if isinstance(error, RateLimited):
        response.headers.update(error.headers)
    if isinstance(error, InvalidKey):
        response.headers["WWW-Authenticate"] = 'Bearer realm="llamaherd"'
    return response


class HttpProblem(HerdError):
    """A request that aiohttp itself turned down: no such route, wrong method, bad upload."""

    type = "invalid_request_error"
    code = "invalid_request"

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def from_http_exception(error: web.HTTPException, request: web.Request) -> HerdError:
    """Our error for one that aiohttp raised."""
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return BodyTooLarge("The request's body is larger than the limit (setting server.max_body).")
    if error.status == 404:
        return HttpProblem(f"There is no route {request.method} {request.path}.", 404)
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        return HttpProblem(f"{request.path} takes {allowed}, not {request.method}.", 405)
    return HttpProblem(error.reason, error.status)


def without_folders(text: str) -> str:
    """The text with files named only by their names: where they lie is nobody's business."""
    return _FOLDERS.sub("", text) if "/" in text else text


def from_engine(status: int, body: bytes, model: str, path: str = "") -> HerdError:
    """Our error for an engine's answer of 400 or more to a request for `path`."""
    try:
        reported = orjson.loads(body)["error"]
        message, kind = without_folders(str(reported["message"])), str(reported.get("type"))
        field = reported.get("param")
    except (ValueError, KeyError, TypeError, AttributeError):
        message, kind, field = f"The engine of '{model}' answered with status {status}.", "", None
    if kind == "exceed_context_size_error" or (path in _INPUTS and _TOO_LARGE in message):
        return ContextLengthExceeded(message, param=field or _INPUTS.get(path, "messages"))
    if kind == "not_supported_error" or status in {404, 405, 501} or _WITHOUT_SENSE in message:
        return EndpointUnsupported(f"The model '{model}' can't do this: {message}", param=field)
    if "--jinja" in message:  # a built-in template, rendered by llama.cpp's own code; reported with status 500
        return InvalidRequest(f"The template of '{model}' knows no tools; a Jinja template can.", param="tools")
    if _OUT_OF_RANGE in message and path in _TOKENS_IN:
        param = _TOKENS_IN[path]
        return InvalidRequest(f"'{param}' has a token id that the model '{model}' does not know.", param=param)
    if status in {401, 403}:
        return UpstreamError(f"The engine of '{model}' did not accept the service.")
    if status < 500:
        return InvalidRequest(message, param=field)
    if kind == "insufficient_memory":
        return InsufficientMemory(message)
    if status == 503:
        return Unavailable(message, retry_after=1)
    return GenerationFailed(message)
