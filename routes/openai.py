"""The OpenAI routes: chat completions and what goes straight to an engine."""

from __future__ import annotations

from typing import Any

import orjson
from aiohttp import web

from manager.engines import UpstreamRequest
from manager.entry import ModelEntry
from manager.errors import EndpointUnsupported, InvalidRequest, ModelNotFound
from manager.lease import Lease
from manager.service import SERVICE, Service
from routes.body import OWN_FIELDS, check_fields, check_messages, read_object, wanted_context
from routes.conversation import fit_to_budget, with_personality
from routes.middleware import Handler
from routes.relay import Finish, Reframe, relay

CHAT_PATH = "/v1/chat/completions"


async def chat_completions(request: web.Request) -> web.StreamResponse:
    """POST /v1/chat/completions. `model` may be left out; a name that is not known is a 404."""
    return await _chat_of_named_model(request, CHAT_PATH)


async def chat(
    request: web.Request,
    service: Service,
    entry: ModelEntry,
    personality: str | None,
    raw: bytes,
    body: dict[str, Any],
    *,
    path: str = CHAT_PATH,
    finish: Finish | None = None,
    reframe: Reframe | None = None,
) -> web.StreamResponse:
    """Check a chat request and answer it. `personality` is the one that the model's id names, if it does."""
    check_fields(body)
    check_messages(body)
    if not entry.params.instruct:
        raise EndpointUnsupported(f"The model '{entry.name}' is not one for chats (instruct is false).", param="model")
    wanted = body.get("personality") or personality
    if wanted is not None:
        entry.personality(wanted)  # unknown: before anything is loaded

    async def build(lease: Lease) -> UpstreamRequest:
        return await _chat_upstream(lease, path, raw, body, wanted)

    stream = body.get("stream") is True
    return await relay(request, service, entry, build, stream=stream, finish=finish, reframe=reframe)


async def _chat_upstream(
    lease: Lease, path: str, raw: bytes, body: dict[str, Any], wanted: str | None
) -> UpstreamRequest:
    """What the engine gets: the body as it came, unless a personality or a budget changes it."""
    personality = wanted or lease.personality
    budget = wanted_context(body)
    if personality is None and budget is None:
        return UpstreamRequest("POST", path, raw)
    changed = {name: value for name, value in body.items() if name not in OWN_FIELDS}
    if personality is not None:
        changed["messages"] = with_personality(changed["messages"], lease.entry.personality(personality))
    if budget is not None:
        await fit_to_budget(lease.engine, lease.entry.name, changed, budget)
    return UpstreamRequest("POST", path, orjson.dumps(changed))


async def apply_template(request: web.Request) -> web.StreamResponse:
    """POST /apply-template, with the body of a chat: the prompt that the model's template makes of it."""
    return await _chat_of_named_model(request, "/apply-template")


async def _chat_of_named_model(request: web.Request, path: str) -> web.StreamResponse:
    service = request.app[SERVICE]
    raw, body = await read_object(request)
    entry, personality = named_model(service, body)
    return await chat(request, service, entry, personality, raw, body, path=path)


def _straight(path: str) -> Handler:
    """A handler whose body goes to `path` of the engine as it came."""

    async def straight(request: web.Request) -> web.StreamResponse:
        service = request.app[SERVICE]
        raw, body = await read_object(request)
        check_fields(body)
        entry, personality = named_model(service, body)
        if personality or not OWN_FIELDS.isdisjoint(body):
            _refuse_own_fields(body)
        upstream = UpstreamRequest("POST", path, raw)
        return await relay(request, service, entry, upstream, stream=body.get("stream") is True)

    return straight


def _refuse_own_fields(body: dict[str, Any]) -> None:
    name = next((name for name in body if name in OWN_FIELDS), "model")
    raise InvalidRequest(f"'{name}': a personality or a budget of tokens is for chats only.", param=name)


# POST /v1/completions; /tokenize {"model", "content"}; /detokenize {"model", "tokens"}: the engine's own.
completions = _straight("/v1/completions")
tokenize = _straight("/tokenize")
detokenize = _straight("/detokenize")


def named_model(service: Service, body: dict[str, Any], *, lenient: bool = False) -> tuple[ModelEntry, str | None]:
    """The entry that a request is for, and the personality in its id.

    No name means the default model; with `lenient` an unknown name means it too. Raises ModelNotFound.
    """
    name = body.get("model")
    if name is not None:
        check_fields({"model": name})
    if name:
        try:
            return service.pool.find(name)
        except ModelNotFound:
            if not lenient:
                raise
    default = service.pool.default
    if default is None:
        raise ModelNotFound("No model is configured: data/models.json is empty and nothing was discovered.")
    return service.pool.find(default)
