"""The routes whose bodies go straight to an engine: what it does without a chat."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from aiohttp import web

from manager.engines import UpstreamRequest
from manager.entry import ModelEntry
from manager.errors import EndpointUnsupported, InvalidRequest
from manager.service import SERVICE
from routes.body import OWN_FIELDS, check_fields, read_object
from routes.media import check_prompt
from routes.middleware import Handler
from routes.named import named_model
from routes.relay import relay

TOKEN_IDS: Final = 2**31  # as many as engines can write


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


async def rerank(request: web.Request) -> web.StreamResponse:
    """POST /v1/rerank."""
    raise EndpointUnsupported("Not there yet.")


async def infill(request: web.Request) -> web.StreamResponse:
    """POST /infill."""
    raise EndpointUnsupported("Not there yet.")


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
