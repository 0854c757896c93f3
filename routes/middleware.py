"""What happens around every request: its id, its host, its key, errors as answers, metrics, audit and access log."""

from __future__ import annotations

import copy
import itertools
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from manager.errors import HerdError, InvalidKey, RateLimited
from manager.key_rules import NoKey
from manager.log_lines import ANSWERING, Answering
from manager.quota import Admission
from manager.service import SERVICE, Service
from manager.short_answers import error_object
from routes.body import BrokenBody
from routes.callers import KEY, authorise, client_of, is_admin
from routes.captured import keep_answer
from routes.errors import ErrorForm, error_response, from_http_exception, without_folders
from routes.foreign import refuse_unknown_host
from routes.headers import ADMISSION, REQUEST_ID, mark
from routes.outcome import leased_model, note_refusal
from routes.pattern import plain_path

logger = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
TARGET: Final = web.RequestKey("target", str)  # what an action is done to, where its path does not tell
ROUTE: Final = web.RequestKey("route", str)  # its pattern
# Nobody reads an answer; this is what the log and the metrics say of it.
CLIENT_LEFT: Final = 499
# Not what stands in the place of an id in /admin/requests/history: to cancel that request would forget the history.
_ACCEPTABLE_ID: Final = re.compile(r"(?!history\Z)[A-Za-z0-9._-]{1,64}")
# Ids need to be unlike each other, not unguessable: a random prefix per process and a count.
_PREFIX: Final = secrets.token_hex(4)
_count = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Access:
    """What a route asks of its caller. `scope` None: open to all, ANY: any key; `errors`: how its API says an error.

    What is `audited` goes to the audit log, whatever comes of it, unless a stranger tried it. What is `metered` counts
    for the limits of the key, from before its body is read until its answer is out. What is `linked` is a page with
    nothing of anybody's in it: any other page may have a link to it.
    """

    scope: str | None
    errors: ErrorForm = error_object
    audited: bool = False
    metered: bool = False
    linked: bool = False


def guarded(handler: Handler, access: Access, method: str, route: str) -> Handler:
    """`handler` with everything around it. `route` is the pattern that counts in the metrics.

    A wrapper made once per route and not an aiohttp middleware: those are looked up and entered anew for every
    request, and this is on the way of every one.
    """

    # What a request asks for, where the route tells; else its URL is parsed.
    path = route if route.startswith("/") and "{" not in route else None

    async def guard(request: web.Request) -> web.StreamResponse:
        started = time.perf_counter()
        service = request.app[SERVICE]
        request_id = request[REQUEST_ID] = _request_id(request)
        request[ROUTE] = route
        answering = Answering(request_id)
        ANSWERING.set(answering)
        status = CLIENT_LEFT
        admission: Admission | None = None
        let_in = False
        try:
            refuse_unknown_host(request, service)
            if not authorise(request, service, access.scope, action=access.audited, linked=access.linked):
                await service.guesses.slow_down(client_of(request, service))
            let_in = True
            if access.metered:
                admission = request[ADMISSION] = service.quotas.admit(request.get(KEY))
            response = await handler(request)
            status = response.status
        except InvalidKey as error:
            response = await _answer_to_guess(error, request, service, access)
            status = response.status
        except Exception as error:
            response = _answer_to(error, request, access)
            status = response.status
            if access.metered and let_in and status != CLIENT_LEFT:
                note_refusal(request, service, route, error, time.perf_counter() - started)
        finally:
            answering.id = None  # tasks that it has begun may go on
            if admission is not None:
                admission.release()
            seconds = time.perf_counter() - started
            service.metrics.observe(method, route, status, seconds)
            if service.access_log is not None:
                key = request.get(KEY)
                shown = path or request.path
                key_id = key.id if key else "-"
                model = leased_model(request)
                service.access_log.add(request_id, request.method, shown, status, seconds, key_id, model)
            if access.audited and (let_in or KEY in request):
                audit(request, service, status)
        if not response.prepared:
            mark(request, response)
            if service.captures.enabled and status != CLIENT_LEFT:
                keep_answer(request, response)
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
        answer = error_response(as_herd_error(request, error), access.errors)
        if isinstance(error, BrokenBody):
            answer.force_close()
        return answer
    answer = error_response(from_http_exception(error, request), access.errors)
    if "Allow" in error.headers:
        answer.headers["Allow"] = error.headers["Allow"]
    return answer


def as_herd_error(request: web.Request, error: Exception) -> HerdError:
    """The error itself where it is one of ours; else a general one, and the log gets the traceback."""
    if isinstance(error, HerdError):
        message = error.message if is_admin(request, request.app[SERVICE]) else without_folders(error.message)
        if message != error.message:  # a copy: others hear of the same one
            error = copy.copy(error)
            error.message = message
        return error
    request_id = request[REQUEST_ID]
    logger.error("the request failed", exc_info=error)
    return HerdError(f"The service made a mistake. Its log has more under the request id {request_id}.")


async def _answer_to_guess(error: InvalidKey, request: web.Request, service: Service, access: Access) -> web.Response:
    if not isinstance(error, NoKey):
        try:
            await service.guesses.slow_down(client_of(request, service))
        except RateLimited as refusal:
            return _answer_to(refusal, request, access)
    return _answer_to(error, request, access)


def audit(request: web.Request, service: Service, status: int) -> None:
    """Note an action: who did what to whom, and what came of it."""
    key = request.get(KEY)
    service.audit.add(
        {
            "actor": key.id if key else "-",
            "address": client_of(request, service),
            "request": request[REQUEST_ID],
            "action": f"{request.method} {plain_path(request[ROUTE])}",
            "target": request.get(TARGET) or request.match_info.get("id"),
            "status": status,
        }
    )
