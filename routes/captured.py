"""What of a request and its answer goes into a capture, where capturing is on."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from manager.capture import Capture, Captures
from manager.inflight import Running
from manager.redaction import Redactor

CAPTURE: Final = web.RequestKey("capture", Capture)
# Lives no longer than the request: it knows the secrets.
_REDACTOR: Final = web.RequestKey("redactor", Redactor)
# The body that came, and the generation of captures at that time.
_CAME: Final[web.RequestKey[tuple[bytes, int]]] = web.RequestKey("came", tuple)


def keep_request(request: web.Request, captures: Captures, body: bytes) -> None:
    """What came, once it is read. Nothing is made of it before `hold`, and most requests are never held."""
    request[_CAME] = body, captures.generation


def hold(request: web.Request, captures: Captures) -> Capture | None:
    """The capture of an inference request, which is held from the first call on; None where there is none."""
    if not captures.enabled or CAPTURE in request:
        return request.get(CAPTURE)
    # A body may have been read before capturing was switched on, or all was forgotten.
    none = b"", None if request.body_exists else captures.generation
    body, generation = request.get(_CAME, none)
    if generation != captures.generation:
        return None
    redactor = request[_REDACTOR] = Redactor(request.headers, request.path_qs)
    capture = request[CAPTURE] = captures.hold(request.method, request.path_qs, request.headers, body, redactor)
    return capture


def keep_head(request: web.Request, running: Running, response: web.StreamResponse) -> None:
    """The head of an answer that goes out in parts."""
    if running.capture is not None:
        running.capture.answer_begins(response.status, response.headers, request[_REDACTOR])


def keep_end(request: web.Request, running: Running, *, ok: bool) -> None:
    """No more parts go out. What was not `ok` was cut off, unless its client could be told of it."""
    if running.capture is not None:
        gone = request.transport is None or request.transport.is_closing()
        running.capture.answer_ends(request[_REDACTOR], cut_off=gone and not ok)


def keep_answer(request: web.Request, response: web.StreamResponse) -> None:
    """A whole answer that is about to go out, an error too. Where one has begun, this one reaches nobody."""
    capture = request.get(CAPTURE)
    if capture is None or capture.begun or not isinstance(response, web.Response):
        return
    redactor = request[_REDACTOR]
    capture.answer_begins(response.status, response.headers, redactor)
    capture.sent(response.body if isinstance(response.body, bytes) else b"")
    capture.answer_ends(redactor)
