"""The OpenAI routes: chat completions and what goes straight to an engine."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from aiohttp import web

from manager.engines import UpstreamRequest
from manager.entry import ModelEntry
from manager.errors import EndpointUnsupported, InvalidRequest, ModelNotFound
from manager.lease import Lease
from manager.pool import ModelPool
from manager.service import SERVICE, Service
from routes.body import OWN_FIELDS, check_fields, read_object, wanted_context, write_object
from routes.callers import usable
from routes.conversation import fit_to_budget, with_personality
from routes.media import check_prompt, fetch_images, settle_media
from routes.messages import check_messages, check_tools, refusals_to_text
from routes.middleware import Handler
from routes.relay import Finish, Reframe, relay

CHAT_PATH: Final = "/v1/chat/completions"
TOKEN_IDS: Final = 2**31  # as many as engines can write


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
    messages = check_messages(body, media=_takes_media(entry))
    if body.get("tools"):
        check_tools(body["tools"])
    if not entry.params.instruct:
        raise EndpointUnsupported(f"The model '{entry.name}' is not one for chats (instruct is false).", param="model")
    wanted = body.get("personality") or personality
    if wanted is not None:
        entry.personality(wanted)  # unknown: before anything is loaded
    changed = refusals_to_text(messages)
    media = await settle_media(service.remote_images, body)
    if media.remote:  # last of all: what is refused makes nobody fetch, and whoever is slow holds no slot
        await fetch_images(request, media.remote, len(raw))
    if changed or media.changed:
        raw = write_object(body)

    async def build(lease: Lease) -> UpstreamRequest:
        return await _chat_upstream(lease, path, raw, body, wanted)

    stream = body.get("stream") is True
    return await relay(request, service, entry, build, stream=stream, finish=finish, reframe=reframe)


def _takes_media(entry: ModelEntry) -> bool:
    # Other engines judge by themselves, and extra_args may name a projector.
    return entry.mmproj is not None or entry.engine != "llama" or bool(entry.llama.extra_args)


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
        await fit_to_budget(lease.engine, lease.entry, changed, budget)
    return UpstreamRequest("POST", path, write_object(changed))


async def apply_template(request: web.Request) -> web.StreamResponse:
    """POST /apply-template, with the body of a chat: the prompt that the model's template makes of it."""
    return await _chat_of_named_model(request, "/apply-template")


async def _chat_of_named_model(request: web.Request, path: str) -> web.StreamResponse:
    service = request.app[SERVICE]
    raw, body = await read_object(request)
    entry, personality = named_model(request, body)
    return await chat(request, service, entry, personality, raw, body, path=path)


def _straight(
    path: str,
    field: str,
    fits: Callable[[Any], bool],
    must: str,
    check: Callable[[ModelEntry, dict[str, Any]], Awaitable[None]] | None = None,
) -> Handler:
    """A handler whose body goes to `path` of the engine as it came. Its one `field` must be there and fit.

    `check` may refuse more, before anything is loaded.
    """

    async def straight(request: web.Request) -> web.StreamResponse:
        service = request.app[SERVICE]
        raw, body = await read_object(request)
        check_fields(body)
        entry, personality = named_model(request, body)
        if personality or not OWN_FIELDS.isdisjoint(body):
            _refuse_own_fields(body)
        if not fits(body.get(field)):
            raise InvalidRequest(f"'{field}' must be {must}.", param=field)
        if check is not None:
            await check(entry, body)
        upstream = UpstreamRequest("POST", path, raw)
        return await relay(request, service, entry, upstream, stream=body.get("stream") is True)

    return straight


def _refuse_own_fields(body: dict[str, Any]) -> None:
    name = next((name for name in body if name in OWN_FIELDS), "model")
    raise InvalidRequest(f"'{name}': a personality or a budget of tokens is for chats only.", param=name)


def _are_tokens(items: list[Any]) -> bool:
    """Whether these are token ids. Made for long prompts: no step of it runs in Python."""
    return set(map(type, items)) <= {int} and (not items or (min(items) >= 0 and max(items) < TOKEN_IDS))


def _is_text(value: Any) -> bool:
    """A string, or strings and token ids in a row."""
    if isinstance(value, list):
        return _are_tokens([item for item in value if not isinstance(item, str)])
    return isinstance(value, str)


def _is_prompt(value: Any) -> bool:
    """A text, or several of them; an object is llama.cpp's prompt with images."""
    if not isinstance(value, list):
        return isinstance(value, str | dict)
    return bool(value) and (_is_text(value) or all(isinstance(item, dict) or _is_text(item) for item in value))


def _is_tokens(value: Any) -> bool:
    return isinstance(value, list) and _are_tokens(value)


def _is_input(value: Any) -> bool:
    """A text or token ids, or several of these. Of token ids there must be some."""
    if not isinstance(value, list):
        return isinstance(value, str)
    return bool(value) and (_are_tokens(value) or all(isinstance(item, str) or _has_tokens(item) for item in value))


def _has_tokens(value: Any) -> bool:
    return bool(value) and _is_tokens(value)


async def _check_embeddings(entry: ModelEntry, body: dict[str, Any]) -> None:
    # Of other engines the model's folder tells, and extra_args may say it, too.
    if entry.engine == "llama" and not (entry.params.embedding or entry.llama.reranking or entry.llama.extra_args):
        raise EndpointUnsupported(f"The model '{entry.name}' makes no embeddings (embedding is false).", param="model")
    if body.get("dimensions") is not None:  # llama-server would leave it out of account
        raise InvalidRequest(
            "'dimensions' is not supported: vectors are as long as the model makes them.", param="dimensions"
        )


# The engine's own, which has either no word or an error 500 for what does not fit.
completions = _straight(
    "/v1/completions", "prompt", _is_prompt, "a string, an array of token ids, or an array of these", check_prompt
)
embeddings = _straight(
    "/v1/embeddings",
    "input",
    _is_input,
    "a string, an array of token ids, or an array of these",
    _check_embeddings,
)
tokenize = _straight("/tokenize", "content", _is_text, "a string, or an array of strings and token ids")
detokenize = _straight("/detokenize", "tokens", _is_tokens, "an array of token ids, integers of at least 0")


def named_model(request: web.Request, body: dict[str, Any], *, lenient: bool = False) -> tuple[ModelEntry, str | None]:
    """The entry that a request is for, and the personality in its id.

    No name means the default model; with `lenient` an unknown name means it too, but not an unknown personality
    of a known model. Raises ModelNotFound, or ModelNotAllowed where the caller's key is for others.
    """
    return usable(request, lambda: _named(request.app[SERVICE].pool, body, lenient))


def _named(pool: ModelPool, body: dict[str, Any], lenient: bool) -> tuple[ModelEntry, str | None]:
    name = body.get("model")
    if name is not None:
        check_fields({"model": name})
    if name:
        try:
            return pool.find(name)
        except ModelNotFound:
            if not lenient or name.rpartition(":")[0] in pool.catalog:
                raise
    default = pool.default
    if default is None:
        raise ModelNotFound("No model is configured: data/models.json is empty and nothing was discovered.")
    return pool.find(default)
