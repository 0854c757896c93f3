"""A route as the table of `routes` has it: how it is reached, and what /openapi.json says of it."""

from __future__ import annotations

from typing import NamedTuple

from pydantic import BaseModel

from routes.middleware import Access, Handler


class Route(NamedTuple):
    """`path` is a pattern of aiohttp's. What the route does is told by the docstring of `handler`.

    `takes` is the JSON body, `query` what may stand in the URL, `gives` the answer (None: not JSON), and `streams` one
    event of the answer where it may be a stream.
    """

    method: str
    path: str
    handler: Handler
    access: Access
    takes: type[BaseModel] | None = None
    gives: type[BaseModel] | None = None
    streams: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
