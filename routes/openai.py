"""The chat: OpenAI's route of it, and the way of every chat to its engine, whichever API it came by."""

from __future__ import annotations

from typing import Any, Final

from aiohttp import web

from manager.engines import UpstreamRequest
from manager.engines.kinds import check_supported
from manager.entry import ModelEntry
from manager.errors import EndpointUnsupported
from manager.lease import Lease
from manager.service import SERVICE
from routes.body import BODY, OWN_FIELDS, check_fields, read_object, wanted_context, write_object
from routes.conversation import COUNT_PATH, check_template_knows_tools, fit_to_budget, with_personality
from routes.filters import filtered
from routes.form import OPENAI, Form
from routes.legacy_functions import calls_to_tool_calls, functions_to_tools, in_functions
from routes.media import fetch_images, settle_media
from routes.messages import check_messages, check_tools, require_named_tool, settle_said
from routes.named import named_model
from routes.relay import relay

CHAT_PATH: Final = "/v1/chat/completions"


async def chat_completions(request: web.Request) -> web.StreamResponse:
    """POST /v1/chat/completions. `model` may be left out; a name that is not known is a 404."""
    raw, body = await read_object(request)
    return await chat(request, body, raw)


async def apply_template(request: web.Request) -> web.StreamResponse:
    """POST /apply-template, with the body of a chat: the prompt that the model's template makes of it."""
    raw, body = await read_object(request)
    return await chat(request, body, raw, path="/apply-template")


async def input_tokens(request: web.Request) -> web.StreamResponse:
    """POST /v1/chat/completions/input_tokens, with the body of a chat: how many tokens its prompt has, not answered."""
    raw, body = await read_object(request)
    return await chat(request, body, raw, path=COUNT_PATH)


async def chat(
    request: web.Request,
    body: dict[str, Any],
    raw: bytes | None = None,
    *,
    path: str = CHAT_PATH,
    form: Form = OPENAI,
    lenient: bool = False,
) -> web.StreamResponse:
    """Check a chat of OpenAI's form and answer it in the form of the API that it came by.

    `raw` is `body` as it came, None where it was made here. With `lenient` an unknown model means the default one.
    """
    service = request.app[SERVICE]
    request[BODY] = body
    found = named_model(request, body, lenient=lenient)
    entry, personality = found.entry, found.personality
    messages = check_messages(body, media=takes_media(entry))
    changed = calls_to_tool_calls(messages)
    changed |= settle_said(messages)
    if "functions" in body or "function_call" in body:  # before filters, which are of tools
        changed = True
        if functions_to_tools(body) and path == CHAT_PATH and form.reframe is None:
            form = in_functions(form)
    body, raw = filtered(request, found, body, None if changed else raw)
    check_fields(body)
    if body.get("tools"):
        check_tools(body["tools"])
    check_supported(entry, path)
    if not entry.params.instruct:
        raise EndpointUnsupported(f"The model '{entry.name}' is not one for chats (instruct is false).", param="model")
    wanted = body.get("personality") or personality
    if wanted is not None:
        entry.personality(wanted)  # unknown: before anything is loaded
    named = isinstance(body.get("tool_choice"), dict) and entry.engine == "llama"
    if named:
        require_named_tool(body)
    media = await settle_media(service.remote_images, body)
    if media.remote:  # last of all: what is refused makes nobody fetch, and whoever is slow holds no slot
        await fetch_images(request, media.remote, len(write_object(body) if raw is None else raw))
    ready = write_object(body) if raw is None or named or media.changed else raw

    async def build(lease: Lease) -> UpstreamRequest:
        return await _chat_upstream(lease, path, ready, body, wanted)

    streamed = path == CHAT_PATH and body.get("stream") is True  # the other paths answer whole
    return await relay(request, service, entry, build, stream=streamed, form=form)


def takes_media(entry: ModelEntry) -> bool:
    """Whether the model may take more than text, as far as that is known before it is loaded."""
    # Other engines judge by themselves, and extra_args may name a projector.
    return entry.mmproj is not None or entry.engine != "llama" or bool(entry.llama.extra_args)


async def _chat_upstream(
    lease: Lease, path: str, raw: bytes, body: dict[str, Any], wanted: str | None
) -> UpstreamRequest:
    """What the engine gets: the body as it came, unless a personality or a budget changes it."""
    if lease.entry.engine == "llama" and body.get("tools") and body.get("tool_choice") != "none":
        await check_template_knows_tools(lease.engine, lease.entry.name)
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
