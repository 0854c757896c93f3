"""Headers that every answer has: its request's id, what browsers may do with it, and the limits of its key."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from manager.quota import Admission

REQUEST_ID: Final = web.RequestKey("request_id", str)
ADMISSION: Final = web.RequestKey("admission", Admission)
ALWAYS: Final = web.AppKey("headers", dict[str, str])


def mark(request: web.Request, response: web.StreamResponse) -> None:
    """Before its head goes out. What a handler says itself, as a page its policy, stays.

    Not by aiohttp's signal on_response_prepare, which costs every answer some microseconds more.
    """
    headers = response.headers
    for name, value in request.app[ALWAYS].items():
        if name not in headers:
            headers[name] = value
    headers["X-Request-ID"] = request[REQUEST_ID]
    if (admission := request.get(ADMISSION)) is not None:
        headers.update(admission.headers)
