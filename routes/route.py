"""A route as the table of `routes` has it: how it is reached, and what /openapi.json says of it."""

from __future__ import annotations

from typing import Final, NamedTuple

from pydantic import BaseModel

from routes.middleware import Access, Handler

JSON: Final = "application/json"
TEXT: Final = "text/plain"
HTML: Final = "text/html"
FILE: Final = "*/*"
FORM: Final = "multipart/form-data"
EVENTS: Final = "text/event-stream"
LINES: Final = "application/x-ndjson"


class Route(NamedTuple):
    """`path` is a pattern of aiohttp's. What the route does is told by the docstring of `handler`.

    `takes` is the body, `query` what may stand in the URL, `gives` the whole answer, of JSON or of another content
    type, and `streams` one event of the answer where it may be a stream. `body_optional`: it may be left out;
    `later`: the answer may be a 202; `creates`: it is a 201; `conflicts`: it may be a 409.
    """

    method: str
    path: str
    handler: Handler
    access: Access
    takes: type[BaseModel] | None = None
    gives: type[BaseModel] | str | None = None
    streams: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    body_type: str = JSON
    body_optional: bool = False
    stream_type: str = EVENTS
    later: bool = False
    creates: bool = False
    conflicts: bool = False
