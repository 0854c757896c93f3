"""The HTTP face of the service. Every route is in the table below."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from manager.service import SERVICE
from manager.short_answers import always
from routes import (
    admin,
    anthropic,
    audio,
    chat,
    cors,
    events,
    headers,
    inner,
    logs,
    models,
    ollama,
    openai,
    probe,
    responses,
    status,
    straight,
    usage,
)
from routes.errors import anthropic_error, plain_error
from routes.middleware import Access, guarded
from routes.route import Route

OPEN: Final = Access(scope=None)
INFERENCE: Final = Access(scope="inference")
MODEL: Final = Access(scope="inference", metered=True)
ADMIN: Final = Access(scope="admin")
ACTION: Final = Access(scope="admin", audited=True)
# Routes of the original: their errors are {"error": "text"}.
ORIGINAL: Final = Access(scope="inference", errors=plain_error)
ORIGINAL_MODEL: Final = Access(scope="inference", errors=plain_error, metered=True)
ORIGINAL_ACTION: Final = Access(scope="admin", errors=plain_error, audited=True)
ANTHROPIC_MODEL: Final = Access(scope="inference", errors=anthropic_error, metered=True)
OLLAMA: Final = Access(scope="inference", errors=plain_error)
OLLAMA_MODEL: Final = Access(scope="inference", errors=plain_error, metered=True)

ROUTES: Final[tuple[Route, ...]] = (
    Route("GET", "/ping", probe.ping, OPEN),
    Route("GET", "/health", probe.health, OPEN),
    Route("GET", "/metrics", probe.metrics, ADMIN),
    Route("GET", "/status", status.status, ORIGINAL),
    Route("GET", "/models", models.loaded_models, ORIGINAL),
    Route("POST", "/loadModel", models.load_model, ORIGINAL_ACTION),
    Route("GET", "/unloadModel", models.unload_model, ORIGINAL_ACTION),
    Route("POST", "/unloadModel", models.unload_model, ORIGINAL_ACTION),
    Route("POST", "/chat/completions", chat.completions, MODEL),
    Route("GET", "/chat/errors", chat.errors, ORIGINAL),
    Route("GET", "/chat/ask", chat.ask, ORIGINAL_MODEL),
    Route("GET", "/v1/models", models.list_models, INFERENCE),
    Route("GET", "/v1/models/{id:.+}", models.show_model, INFERENCE),
    Route("POST", "/v1/chat/completions", openai.chat_completions, MODEL),
    Route("POST", "/v1/chat/completions/input_tokens", openai.input_tokens, MODEL),
    Route("POST", "/v1/completions", straight.completions, MODEL),
    Route("POST", "/v1/embeddings", straight.embeddings, MODEL),
    Route("POST", "/v1/responses", responses.create, MODEL),
    Route("POST", "/v1/responses/input_tokens", responses.count_input, MODEL),
    Route("POST", "/v1/messages", anthropic.create_message, ANTHROPIC_MODEL),
    Route("POST", "/v1/messages/count_tokens", anthropic.count_tokens, ANTHROPIC_MODEL),
    Route("POST", "/v1/rerank", straight.rerank, MODEL),
    Route("POST", "/v1/reranking", straight.rerank, MODEL),
    Route("POST", "/rerank", straight.rerank, MODEL),
    Route("POST", "/v1/audio/transcriptions", audio.transcriptions, MODEL),
    Route("POST", "/v1/audio/speech", audio.speech, MODEL),
    Route("POST", "/infill", straight.infill, MODEL),
    Route("POST", "/tokenize", straight.tokenize, MODEL),
    Route("POST", "/detokenize", straight.detokenize, MODEL),
    Route("POST", "/apply-template", openai.apply_template, MODEL),
    Route("GET", "/props", inner.props, INFERENCE),
    Route("GET", "/api/version", ollama.version, OLLAMA),
    Route("GET", "/api/tags", ollama.tags, OLLAMA),
    Route("GET", "/api/ps", ollama.ps, OLLAMA),
    Route("POST", "/api/show", ollama.show, OLLAMA),
    Route("POST", "/api/chat", ollama.chat, OLLAMA_MODEL),
    Route("POST", "/api/generate", ollama.generate, OLLAMA_MODEL),
    Route("POST", "/api/embed", ollama.embed, OLLAMA_MODEL),
    Route("POST", "/api/embeddings", ollama.embeddings, OLLAMA_MODEL),
    Route("GET", "/admin/models", admin.list_models, ADMIN),
    Route("GET", "/admin/models/{id:.+?}/logs", logs.logs, ADMIN),
    Route("POST", "/admin/models/{id:.+?}/load", admin.load_model, ACTION),
    Route("POST", "/admin/models/{id:.+?}/unload", admin.unload_model, ACTION),
    Route("GET", "/admin/models/{id:.+}", admin.show_model, ADMIN),
    Route("GET", "/admin/requests", admin.list_requests, ADMIN),
    Route("DELETE", "/admin/requests/{id}", admin.cancel_request, ACTION),
    Route("POST", "/admin/requests/{id}/cancel", admin.cancel_request, ACTION),
    Route("GET", "/admin/events", events.events, ADMIN),
    Route("POST", "/admin/reload", admin.reload, ACTION),
    Route("GET", "/admin/usage", usage.usage, ADMIN),
    Route("GET", "/upstream/{id:.+?}/{path:.*}", inner.upstream, ADMIN),
    Route("POST", "/upstream/{id:.+?}/{path:.*}", inner.upstream, ACTION),
)


def setup(app: web.Application) -> None:
    """Add the middleware and every route to `app`, which holds its service already."""
    settings = app[SERVICE].settings
    app[headers.ALWAYS] = always(settings.tls)
    origins = settings.cors.allowed_origins
    if origins:
        cors.setup(app, frozenset(origins))
    for method, path, handler, access, *_ in ROUTES:
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
