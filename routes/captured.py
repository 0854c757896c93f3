"""What of a request and its answer goes into a capture, where capturing is on."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from manager.capture import Capture, Captures, Redactor
from manager.inflight import Running

CAPTURE: Final = web.RequestKey("capture", Capture)


def keep_request(request: web.Request, captures: Captures, body: bytes) -> None:
    """What came, once it is read. Nothing holds it longer than the request, until `hold`."""
    request[CAPTURE] = captures.begin(request.method, request.path_qs, request.headers, body)


def hold(request: web.Request, captures: Captures) -> Capture | None:
    """The capture of an inference request, from now on held; None where there is none."""
    if not captures.enabled:
        return None
    if CAPTURE not in request:
        if request.body_exists:
            return None  # it was read before capturing was switched on
        keep_request(request, captures, b"")
    captures.hold(request[CAPTURE])
    return request[CAPTURE]


def keep_head(request: web.Request, running: Running, response: web.StreamResponse) -> None:
    """The head of an answer that goes out in parts."""
    if running.capture is not None:
        running.capture.answer_begins(response.status, response.headers, Redactor(request.headers))


def keep_end(request: web.Request, running: Running) -> None:
    """No more parts go out."""
    if running.capture is not None:
        running.capture.close(Redactor(request.headers))


def keep_answer(request: web.Request, response: web.StreamResponse) -> None:
    """A whole answer that is about to go out, an error too."""
    capture = request.get(CAPTURE)
    if capture is None or not isinstance(response, web.Response):
        return
    redactor = Redactor(request.headers)
    capture.answer_begins(response.status, response.headers, redactor)
    capture.sent(response.body if isinstance(response.body, bytes) else b"")
    capture.close(redactor)
