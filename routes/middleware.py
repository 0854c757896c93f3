"""What happens around every request: its id, its key, errors as answers, metrics and the access log."""

from __future__ import annotations

import itertools
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from manager.auth import ApiKey
from manager.errors import HerdError, InvalidKey, PermissionDenied
from manager.service import SERVICE, Service
from routes.body import BrokenBody
from routes.errors import error_response, from_http_exception
from routes.foreign import refuse_foreign_pages

logger = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
REQUEST_ID: Final = web.RequestKey("request_id", str)
KEY: Final = web.RequestKey("key", ApiKey)
ROUTE: Final = web.RequestKey("route", str)  # its pattern
# Nobody reads an answer; this is what the log and the metrics say of it.
CLIENT_LEFT: Final = 499
_ACCEPTABLE_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
# Ids need to be unlike each other, not unguessable: a random prefix per process and a count.
_PREFIX: Final = secrets.token_hex(4)
_count = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Access:
    """What a route asks of its caller. `scope` None: open to all; `plain_errors`: `{"error": "text"}`."""

    scope: str | None
    plain_errors: bool = False


def guarded(handler: Handler, access: Access, method: str, route: str) -> Handler:
    """`handler` with everything around it. `route` is the pattern that counts in the metrics.

    A wrapper made once per route and not an aiohttp middleware: those are looked up and entered anew for every
    request, and this is on the way of every one.
    """

    path = None if "{" in route else route  # what a request asks for, where the route tells; else its URL is parsed

    async def guard(request: web.Request) -> web.StreamResponse:
        started = time.perf_counter()
        service = request.app[SERVICE]
        request_id = request[REQUEST_ID] = _request_id(request)
        request[ROUTE] = route
        status = CLIENT_LEFT
        try:
            authorise(request, service, access.scope)
            response = await handler(request)
            status = response.status
        except Exception as error:
            response = _answer_to(error, request, access)
            status = response.status
        finally:
            seconds = time.perf_counter() - started
            service.metrics.observe(method, route, status, seconds)
            if service.access_log is not None:
                key = request.get(KEY)
                shown = path or request.path
                service.access_log.add(request_id, request.method, shown, status, seconds, key.id if key else "-")
        if not response.prepared:
            response.headers["X-Request-ID"] = request_id
        return response

    return guard


def _request_id(request: web.Request) -> str:
    offered = request.headers.get("X-Request-ID")
    if offered and _ACCEPTABLE_ID.fullmatch(offered):
        return offered
    return f"{_PREFIX}-{next(_count):x}"


def _answer_to(error: Exception, request: web.Request, access: Access) -> web.Response:
    if isinstance(error, ConnectionError) and (request.transport is None or request.transport.is_closing()):
        return web.Response(status=CLIENT_LEFT)  # raised, it would be a traceback in the log for every such client
    if not isinstance(error, web.HTTPException):
        answer = error_response(as_herd_error(request, error), plain=access.plain_errors)
        if isinstance(error, BrokenBody):
            answer.force_close()
        return answer
    answer = error_response(from_http_exception(error, request), plain=access.plain_errors)
    if "Allow" in error.headers:
        answer.headers["Allow"] = error.headers["Allow"]
    return answer


def as_herd_error(request: web.Request, error: Exception) -> HerdError:
    """The error itself where it is one of ours; else a general one, and the log gets the traceback."""
    if isinstance(error, HerdError):
        return error
    request_id = request[REQUEST_ID]
    logger.error("request=%s failed", request_id, exc_info=error)
    return HerdError(f"The service made a mistake. Its log has more under the request id {request_id}.")


def authorise(request: web.Request, service: Service, scope: str | None) -> None:
    """Find the caller's key and hold it to `scope`; without keys, keep pages from elsewhere out.

    Raises InvalidKey or PermissionDenied.
    """
    if not service.keys_required:
        refuse_foreign_pages(request, service.settings.cors.allowed_origins)
        return
    header = request.headers.get("Authorization")
    if scope is None:
        if header is not None:
            _remember_if_valid(request, service, header)
        return
    if header is None:
        raise InvalidKey("This service needs an API key: send it as 'Authorization: Bearer <key>'.")
    key = service.keys.authenticate(_token(header))
    request[KEY] = key
    if scope not in key.scopes:
        raise PermissionDenied(f"This API key lacks the scope '{scope}'.")


def is_admin(request: web.Request, service: Service) -> bool:
    """Whether the caller may see what concerns others: its key has the scope `admin`, or none is asked for."""
    key = request.get(KEY)
    return not service.keys_required or (key is not None and "admin" in key.scopes)


def knows_caller(request: web.Request, service: Service) -> bool:
    """Whether the caller may see names: it holds a key, or none is asked for."""
    return not service.keys_required or request.get(KEY) is not None


def _remember_if_valid(request: web.Request, service: Service, header: str) -> None:
    try:
        request[KEY] = service.keys.authenticate(_token(header))
    except InvalidKey:
        return


def _token(header: str) -> str:
    if header.startswith("Bearer "):
        return header[7:].strip()
    kind, _, token = header.partition(" ")
    if kind.lower() != "bearer":
        raise InvalidKey("The Authorization header must read 'Bearer <key>'.")
    return token.strip()
