"""What requests were, what was captured of them, and how busy the service has been: for administrators to look at."""

from __future__ import annotations

import logging

from aiohttp import web

from manager.capture import Captures
from manager.errors import InvalidRequest
from manager.service import SERVICE
from routes.admin import RequestNotFound
from routes.body import read_object
from routes.middleware import TARGET, audit
from routes.models import json_response
from routes.parsing import parse
from routes.schema.activity import LIMIT, LIMIT_MOST, N_DIGITS, CaptureSwitch

logger = logging.getLogger(__name__)


async def list_history(request: web.Request) -> web.Response:
    """GET /admin/requests/history: the inference requests that have ended, newest first.

    `before` is the `n` of the last one that was read: those that ended before it follow.
    """
    limit = _number(request, "limit", 1, LIMIT_MOST) or LIMIT
    found = request.app[SERVICE].history.newest(limit, _number(request, "before", 1))
    return json_response({"requests": [ended.as_dict() for ended in found]})


async def show_ended(request: web.Request) -> web.Response:
    """GET /admin/requests/history/{n}: one of them, with what was captured of it (null: nothing)."""
    name = request.match_info["n"]
    ended = request.app[SERVICE].history.find(int(name)) if _is_number(name) else None
    if ended is None:
        raise RequestNotFound(f"No request with the number '{name}' is remembered.", param="n")
    capture = ended.running.capture
    if capture is not None:
        await capture.settled()
    told = capture.as_dict() if capture else None
    if told is not None:  # somebody reads what others wrote
        request[TARGET] = str(ended.n)
        audit(request, request.app[SERVICE], 200)
    return json_response({**ended.as_dict(), "capture": told})


async def forget_history(request: web.Request) -> web.Response:
    """DELETE /admin/requests/history: forget all of them, and whatever is captured, also of those that still run."""
    service = request.app[SERVICE]
    service.captures.forget()
    forgotten = {"forgotten": service.history.forget()}
    service.pool.feed.publish("history", forgotten)
    return json_response(forgotten)


async def show_capture(request: web.Request) -> web.Response:
    """GET /admin/capture: whether bodies of requests and answers are captured, and how much is held."""
    return json_response(_capture_object(request.app[SERVICE].captures))


async def switch_capture(request: web.Request) -> web.Response:
    """PUT /admin/capture: on, or off, which forgets what was captured. The next start goes by the settings again."""
    service = request.app[SERVICE]
    enabled = parse(CaptureSwitch, (await read_object(request))[1]).enabled
    request[TARGET] = "on" if enabled else "off"
    if service.captures.switch(enabled):
        logger.info("capture=%s", request[TARGET])
        service.pool.feed.publish("capture", {"enabled": enabled})
    return json_response(_capture_object(service.captures))


async def list_samples(request: web.Request) -> web.Response:
    """GET /admin/samples: requests, tokens per second and memory, a look every few seconds, oldest first.

    `limit`: only so many of the newest.
    """
    samples = request.app[SERVICE].samples
    return json_response({"every": samples.every, "samples": samples.newest(_number(request, "limit", 1))})


def _capture_object(captures: Captures) -> dict[str, int]:
    held = len(captures)
    return {"enabled": captures.enabled, "captures": held, "size": captures.size, "keep": captures.keep}


def _number(request: web.Request, name: str, least: int, most: int | None = None) -> int | None:
    """A number of the query; None where it is left out. Raises InvalidRequest."""
    text = request.query.get(name)
    if text is None:
        return None
    if not _is_number(text) or int(text) < least or (most is not None and int(text) > most):
        limits = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise InvalidRequest(f"'{name}' must be a number {limits}.", param=name)
    return int(text)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= N_DIGITS
