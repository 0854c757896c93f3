"""The HTTP face of the service. Every route is in the table below."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from manager.service import SERVICE
from manager.short_answers import always
from routes import admin, chat, cors, events, headers, logs, models, openai, probe, status, usage
from routes.middleware import Access, Handler, guarded

OPEN: Final = Access(scope=None)
INFERENCE: Final = Access(scope="inference")
MODEL: Final = Access(scope="inference", metered=True)
ADMIN: Final = Access(scope="admin")
ACTION: Final = Access(scope="admin", audited=True)
# Routes of the original: their errors are {"error": "text"}.
ORIGINAL: Final = Access(scope="inference", plain_errors=True)
ORIGINAL_MODEL: Final = Access(scope="inference", plain_errors=True, metered=True)
ORIGINAL_ACTION: Final = Access(scope="admin", plain_errors=True, audited=True)

ROUTES: Final[tuple[tuple[str, str, Handler, Access], ...]] = (
    ("GET", "/ping", probe.ping, OPEN),
    ("GET", "/health", probe.health, OPEN),
    ("GET", "/metrics", probe.metrics, ADMIN),
    ("GET", "/status", status.status, ORIGINAL),
    ("GET", "/models", models.loaded_models, ORIGINAL),
    ("POST", "/loadModel", models.load_model, ORIGINAL_ACTION),
    ("GET", "/unloadModel", models.unload_model, ORIGINAL_ACTION),
    ("POST", "/unloadModel", models.unload_model, ORIGINAL_ACTION),
    ("POST", "/chat/completions", chat.completions, MODEL),
    ("GET", "/chat/errors", chat.errors, ORIGINAL),
    ("GET", "/chat/ask", chat.ask, ORIGINAL_MODEL),
    ("GET", "/v1/models", models.list_models, INFERENCE),
    ("GET", "/v1/models/{id:.+}", models.show_model, INFERENCE),
    ("POST", "/v1/chat/completions", openai.chat_completions, MODEL),
    ("POST", "/v1/completions", openai.completions, MODEL),
    ("POST", "/v1/embeddings", openai.embeddings, MODEL),
    ("POST", "/tokenize", openai.tokenize, MODEL),
    ("POST", "/detokenize", openai.detokenize, MODEL),
    ("POST", "/apply-template", openai.apply_template, MODEL),
    ("GET", "/admin/models", admin.list_models, ADMIN),
    ("GET", "/admin/models/{id:.+?}/logs", logs.logs, ADMIN),
    ("POST", "/admin/models/{id:.+?}/load", admin.load_model, ACTION),
    ("POST", "/admin/models/{id:.+?}/unload", admin.unload_model, ACTION),
    ("GET", "/admin/models/{id:.+}", admin.show_model, ADMIN),
    ("GET", "/admin/requests", admin.list_requests, ADMIN),
    ("DELETE", "/admin/requests/{id}", admin.cancel_request, ACTION),
    ("POST", "/admin/requests/{id}/cancel", admin.cancel_request, ACTION),
    ("GET", "/admin/events", events.events, ADMIN),
    ("POST", "/admin/reload", admin.reload, ACTION),
    ("GET", "/admin/usage", usage.usage, ADMIN),
)


def setup(app: web.Application) -> None:
    """Add the middleware and every route to `app`, which holds its service already."""
    settings = app[SERVICE].settings
    app[headers.ALWAYS] = always(settings.tls)
    origins = settings.cors.allowed_origins
    if origins:
        cors.setup(app, frozenset(origins))
    for method, path, handler, access in ROUTES:
        app.router.add_route(method, path, guarded(handler, access, method, path))
        if access is OPEN:  # watchers like to ask with HEAD
            app.router.add_route("HEAD", path, guarded(handler, access, "HEAD", path))
    # Last, since the first route that matches counts.
    app.router.add_route("*", r"/{path:[\s\S]*}", guarded(_nowhere, INFERENCE, "*", "no route"))


async def _nowhere(request: web.Request) -> web.StreamResponse:
    """What is asked for under a path that no route has, or with a method that its routes don't take."""
    allowed: set[str] = set()
    for resource in request.app.router.resources():
        _, methods = await resource.resolve(request)
        allowed |= methods - {"*"}
    if allowed:
        raise web.HTTPMethodNotAllowed(request.method, sorted(allowed))
    raise web.HTTPNotFound
