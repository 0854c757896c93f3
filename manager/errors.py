"""The error tree. Each class carries its status, type and code on the wire; routes render them in one place.

HerdError                         500 server_error        internal_error
├── ConfigError                   (of a start, a reload, a file; routes say it with an error of their own)
├── InvalidRequest                400 invalid_request_error invalid_request
│   ├── EndpointUnsupported       400                     endpoint_not_supported
│   └── ContextLengthExceeded     400                     context_length_exceeded
├── ModelNotFound                 404 not_found_error     model_not_found
├── GenerationFailed              500 server_error        generation_failed
├── RequestCancelled              409 server_error        request_cancelled
├── BodyTooLarge                  413 invalid_request_error body_too_large
├── InvalidKey                    401 authentication_error invalid_api_key
├── PermissionDenied              403 permission_error    insufficient_scope
│   └── ModelNotAllowed           403                     model_not_allowed
├── MisdirectedRequest            421 invalid_request_error unknown_host
├── RateLimited                   429 rate_limit_error    rate_limit_exceeded
├── QueueFull                     429 rate_limit_error    queue_full
├── Unavailable                   503 server_error        model_unavailable
│   ├── LoadTimeout               503 server_error        model_loading
│   ├── LoadAborted               503 server_error        model_unloaded
│   ├── ShuttingDown              503 server_error        shutting_down
│   └── LoadFailed                503 server_error        model_load_failed
│       └── InsufficientMemory    503 server_error        insufficient_memory
└── UpstreamError                 502 server_error        upstream_error
    ├── UpstreamConnectError      502 server_error        upstream_unreachable
    ├── UpstreamClosed            502 server_error        upstream_closed
    └── UpstreamTimeout           504 server_error        upstream_timeout

What is refused before it is a whole request, or at the port of plain HTTP, has classes of its own beside the tree:
short_answers, redirect, and routes/body.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any


class HerdError(Exception):
    """Base of every error that the service raises on purpose.

    `param` names the field at fault, `retry_after` is in seconds, `should_retry=False` tells clients that the
    same request can't succeed by being sent again (`x-should-retry`).
    """

    status: int = 500
    type: str = "server_error"
    code: str = "internal_error"
    # More of it on the wire, beside these, where an error is an object as OpenAI's are.
    more: Mapping[str, Any] = MappingProxyType({})

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        retry_after: float | None = None,
        should_retry: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after
        self.should_retry = should_retry


class ConfigError(HerdError):
    """A mistake in a file, a variable or an option. The message names the place; at start it means exit 2."""


class InvalidRequest(HerdError):
    status = 400
    type = "invalid_request_error"
    code = "invalid_request"


class EndpointUnsupported(InvalidRequest):
    code = "endpoint_not_supported"


class ContextLengthExceeded(InvalidRequest):
    code = "context_length_exceeded"


class ModelNotFound(HerdError):
    status = 404
    type = "not_found_error"
    code = "model_not_found"


class GenerationFailed(HerdError):
    """The engine took the request and reported a failure of its own."""

    code = "generation_failed"


class RequestCancelled(HerdError):
    """Somebody who may end any request has ended this one."""

    status = 409
    code = "request_cancelled"


class BodyTooLarge(HerdError):
    status = 413
    type = "invalid_request_error"
    code = "body_too_large"


class InvalidKey(HerdError):
    status = 401
    type = "authentication_error"
    code = "invalid_api_key"


class PermissionDenied(HerdError):
    status = 403
    type = "permission_error"
    code = "insufficient_scope"


class ModelNotAllowed(PermissionDenied):
    """The caller's key may not use this model."""

    code = "model_not_allowed"


class MisdirectedRequest(HerdError):
    """The request is for a host whose name this service does not have."""

    status = 421
    type = "invalid_request_error"
    code = "unknown_host"


class RateLimited(HerdError):
    """More than the caller may have. `headers` tell of its limits (`x-ratelimit-*`)."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"
    headers: Mapping[str, str] = MappingProxyType({})


class QueueFull(RateLimited):
    code = "queue_full"


class Unavailable(HerdError):
    """The model can't answer now."""

    status = 503
    code = "model_unavailable"


class LoadTimeout(Unavailable):
    code = "model_loading"


class LoadAborted(Unavailable):
    code = "model_unloaded"


class ShuttingDown(Unavailable):
    code = "shutting_down"


class LoadFailed(Unavailable):
    """`exit_code` is that of the engine's process, where it ended by itself; negative for a signal."""

    code = "model_load_failed"
    exit_code: int | None = None


class InsufficientMemory(LoadFailed):
    """The model did not get the memory that it needs, of the host or of a GPU."""

    code = "insufficient_memory"


class UpstreamError(HerdError):
    """The engine did not answer as it should."""

    status = 502
    code = "upstream_error"


class UpstreamConnectError(UpstreamError):
    code = "upstream_unreachable"


class UpstreamClosed(UpstreamError):
    code = "upstream_closed"


class UpstreamTimeout(UpstreamError):
    status = 504
    code = "upstream_timeout"
