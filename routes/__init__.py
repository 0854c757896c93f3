"""The HTTP face of the service. Every route is in routes/table.py."""

from __future__ import annotations

import functools

from aiohttp import web

from manager.service import SERVICE
from manager.short_answers import always
from routes import cors, docs, headers, openapi, web_app
from routes.heartbeat import HEARTBEAT, Heartbeat
from routes.middleware import guarded
from routes.table import ANTHROPIC, INFERENCE, OLLAMA, ROUTES

__all__ = ["ROUTES", "setup"]


def setup(app: web.Application) -> None:
    """Add the middleware and every route to `app`, which holds its service already."""
    settings = app[SERVICE].settings
    app[headers.ALWAYS] = always(settings.tls)
    app[HEARTBEAT] = Heartbeat(settings.limits.stream_heartbeat)
    app[openapi.DOCUMENT] = _document()
    app[docs.ASSETS] = docs.read_assets()
    app[web_app.FILES] = web_app.read_files()
    origins = settings.cors.allowed_origins
    if origins:
        cors.setup(app, frozenset(origins))
    for method, path, handler, access, *_ in ROUTES:
        app.router.add_route(method, path, guarded(handler, access, method, path))
        if access.scope is None:  # watchers like to ask with HEAD
            app.router.add_route("HEAD", path, guarded(handler, access, "HEAD", path))
    # Last, since the first route that matches counts.
    for path, access in (("/v1/messages", ANTHROPIC), ("/api/", OLLAMA), ("/", INFERENCE)):
        app.router.add_route("*", path + r"{path:[\s\S]*}", guarded(_nowhere, access, "*", "no route"))


@functools.cache
def _document() -> bytes:
    return openapi.document(ROUTES)


async def _nowhere(request: web.Request) -> web.StreamResponse:
    """What is asked for under a path that no route has, or with a method that its routes don't take."""
    allowed: set[str] = set()
    for resource in request.app.router.resources():
        _, methods = await resource.resolve(request)
        allowed |= methods - {"*"}
    if allowed:
        raise web.HTTPMethodNotAllowed(request.method, sorted(allowed))
    raise web.HTTPNotFound
