"""The routes whose bodies go straight to an engine: what it does without a chat."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from aiohttp import web
from pydantic import ConfigDict, Field

from manager.engines import UpstreamRequest
from manager.engines.kinds import check_supported
from manager.entry import ModelEntry
from manager.errors import EndpointUnsupported, InvalidRequest
from manager.service import SERVICE
from routes.body import BODY, OWN_FIELDS, check_fields, read_object, write_object
from routes.filters import filtered
from routes.form import OPENAI, Form
from routes.media import check_prompt
from routes.middleware import Handler
from routes.named import named_model
from routes.parsing import RequestBody, parse
from routes.ranking import read_ranking
from routes.relay import relay
from routes.schema.answer import example
from routes.vectors import shortened

# What is no inference: entries change nothing of it.
_TOKENS: Final = frozenset({"/tokenize", "/detokenize"})
TOKEN_IDS: Final = 2**31  # as many as engines can write


class Extra(RequestBody):
    """A file that the code to fill in may have to do with."""

    text: str
    filename: str | None = None


class InfillBody(RequestBody):
    """Code before and after the gap, and what the gap begins with already (`prompt`)."""

    model_config = ConfigDict(json_schema_extra=example(input_prefix="def add(a, b):", input_suffix="print(add(1, 2))"))

    model: str | None = None
    input_prefix: str = Field(description="The code before the gap.")
    input_suffix: str = Field(description="The code after the gap.")
    input_extra: list[Extra] | None = Field(None, description="Other files that help.")
    prompt: str | None = None


def _straight(
    name: str,
    about: str,
    path: str,
    field: str,
    fits: Callable[[Any], bool],
    must: str,
    check: Callable[[ModelEntry, dict[str, Any]], Awaitable[None]] | None = None,
) -> Handler:
    """A handler whose body goes to `path` of the engine as it came. Its one `field` must be there and fit.

    `name` and `about` are what /openapi.json says of it. `check` may refuse more, before anything is loaded.
    """

    async def straight(request: web.Request) -> web.StreamResponse:
        raw, body, entry = await _read(request, path)
        if not fits(body.get(field)):
            raise InvalidRequest(f"'{field}' must be {must}.", param=field)
        if check is not None:
            await check(entry, body)
        return await _hand_on(request, entry, path, raw)

    straight.__name__, straight.__doc__ = name, about
    return straight


async def _read(request: web.Request, path: str) -> tuple[bytes, dict[str, Any], ModelEntry]:
    """The body as it came and as an object, and the model that it is for, whose engine answers `path`."""
    raw, body = await read_object(request)
    found = named_model(request, body)
    entry = found.entry
    if path not in _TOKENS:
        body, same = filtered(request, found, body, raw, chat=False)
        raw = write_object(body) if same is None else same
    check_fields(body)
    if found.personality or not OWN_FIELDS.isdisjoint(body):
        _refuse_own_fields(body)
    check_supported(entry, path)
    return raw, body, entry


async def _hand_on(
    request: web.Request, entry: ModelEntry, path: str, raw: bytes, form: Form = OPENAI
) -> web.StreamResponse:
    upstream, streamed = UpstreamRequest("POST", path, raw), request[BODY].get("stream") is True
    return await relay(request, request.app[SERVICE], entry, upstream, stream=streamed, form=form)


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


async def embeddings(request: web.Request) -> web.StreamResponse:
    """POST /v1/embeddings. With `dimensions` vectors are cut to these and made length one again."""
    raw, body, entry = await _read(request, "/v1/embeddings")
    if not _is_input(body.get("input")):
        must = "a string, an array of token ids, or an array of these"
        raise InvalidRequest(f"'input' must be {must}.", param="input")
    check_embeds(entry)
    dimensions = body.get("dimensions")
    if dimensions is None:
        return await _hand_on(request, entry, "/v1/embeddings", raw)
    if type(dimensions) is not int or dimensions < 1:
        raise InvalidRequest("'dimensions' must be an integer of at least 1.", param="dimensions")
    # No engine here knows the field, or all would have to treat it alike.
    raw = write_object({name: value for name, value in body.items() if name != "dimensions"})
    return await _hand_on(request, entry, "/v1/embeddings", raw, shortened(dimensions))


def check_embeds(entry: ModelEntry) -> None:
    """Raises EndpointUnsupported for a GGUF model that makes no embeddings. Of other engines the folder tells."""
    # extra_args may say it, too.
    if entry.engine == "llama" and not (entry.params.embedding or entry.llama.reranking or entry.llama.extra_args):
        raise EndpointUnsupported(f"The model '{entry.name}' makes no embeddings (embedding is false).", param="model")


async def rerank(request: web.Request) -> web.StreamResponse:
    """POST /v1/rerank, /v1/reranking and /rerank: how well each document answers a query, the best first."""
    _, body, entry = await _read(request, "/v1/rerank")
    ready, form = read_ranking(body)
    if entry.engine == "llama":
        params = entry.llama
        if not (params.reranking or params.pooling == "rank" or params.extra_args):
            raise EndpointUnsupported(f"The model '{entry.name}' ranks nothing (reranking is false).", param="model")
    upstream = UpstreamRequest("POST", "/v1/rerank", write_object(ready))
    return await relay(request, request.app[SERVICE], entry, upstream, form=form)


async def infill(request: web.Request) -> web.StreamResponse:
    """POST /infill: the code of a gap, in the form of llama-server. Only of models that have tokens for it."""
    _, body, entry = await _read(request, "/infill")
    asked = parse(InfillBody, body)
    given = {name: value for name, value in body.items() if value is not None}  # llama-server wants no null
    if asked.input_extra is not None:
        given["input_extra"] = [extra.model_dump(exclude_none=True) for extra in asked.input_extra]
    return await _hand_on(request, entry, "/infill", write_object(given))


# The engine's own, which has either no word or an error 500 for what does not fit.
completions = _straight(
    "completions",
    "A text goes on, streamed with `stream`.",
    "/v1/completions",
    "prompt",
    _is_prompt,
    "a string, an array of token ids, or an array of these",
    check_prompt,
)
tokenize = _straight(
    "tokenize",
    "The tokens of a text, as the engine makes them.",
    "/tokenize",
    "content",
    _is_text,
    "a string, or an array of strings and token ids",
)
detokenize = _straight(
    "detokenize",
    "The text of tokens.",
    "/detokenize",
    "tokens",
    _is_tokens,
    "an array of token ids, integers of at least 0",
)
