"""Ollama's requests as the bodies of OpenAI's chat and completions."""

from __future__ import annotations

import binascii
from collections import defaultdict, deque
from collections.abc import Iterable
from typing import Any, Final

from manager.errors import EndpointUnsupported, InvalidRequest
from manager.media_kinds import TELLING, image_kind
from routes.body import write_object
from routes.ollama.asked import ChatRequest, GenerateRequest, GeneratingRequest, Message, Options
from routes.schema.generation import MOST

# Options that engines know by the same name.
_SAME: Final = (
    *("temperature", "top_k", "top_p", "min_p", "typical_p", "repeat_penalty", "repeat_last_n", "presence_penalty"),
    *("frequency_penalty", "mirostat", "mirostat_tau", "mirostat_eta", "seed", "stop"),
)
_HEAD: Final = (TELLING + 2) // 3 * 4  # characters of base64 that tell the kind of an image

Body = dict[str, Any]


def chat_body(asked: ChatRequest, model: str | None) -> Body:
    """The chat that /api/chat asks for. Raises InvalidRequest that names the field."""
    body = _chat(asked, model, messages_of(asked.messages or []))
    if asked.tools:
        body["tools"] = asked.tools
    return body


def prompt_chat(asked: GenerateRequest, model: str | None) -> Body:
    """The chat that a prompt of /api/generate makes. Raises InvalidRequest that names the field."""
    messages: list[Body] = [{"role": "system", "content": asked.system}] if asked.system else []
    return _chat(asked, model, [*messages, {"role": "user", "content": _content(asked.prompt, asked.images, "images")}])


def completion_body(asked: GenerateRequest, model: str | None) -> Body:
    """What goes to an engine for a prompt that no template is put around, or (with a suffix) for the text between.

    Raises InvalidRequest that names the field.
    """
    for name in ("system", "images", "think", "logprobs"):
        if getattr(asked, name):
            raise EndpointUnsupported(
                f"'{name}' can't be had with 'raw', with 'suffix' or of a base model.", param=name
            )
    body = {"model": model, **_sampling(asked.options or Options()), **_streaming(asked)}
    if asked.suffix:
        body |= {"input_prefix": asked.prompt or "", "input_suffix": asked.suffix, "prompt": ""}
        if isinstance(body.get("stop"), str):  # which llama-server takes for none, on this path
            body["stop"] = [body["stop"]]
    else:
        body["prompt"] = asked.prompt or ""
    if asked.answer_schema is not None:
        body["json_schema"] = asked.answer_schema
    return body


def _chat(asked: GeneratingRequest, model: str | None, messages: list[Body]) -> Body:
    options = asked.options or Options()
    body: Body = {"model": model, "messages": messages, **_sampling(options), **_streaming(asked)}
    if asked.answer_schema:
        named = {"name": "answer", "schema": asked.answer_schema}
        body["response_format"] = {"type": "json_schema", "json_schema": named}
    elif asked.answer_schema is not None:
        body["response_format"] = {"type": "json_object"}
    if asked.think is False:
        body["reasoning_effort"] = "none"
    elif asked.think is not None:
        body["chat_template_kwargs"] = {"enable_thinking": True}
        if asked.think is not True:
            body["reasoning_effort"] = asked.think
    if asked.logprobs:
        body |= {"logprobs": True, "top_logprobs": asked.top_logprobs or 1}  # of 0 llama.cpp tells no scores at all
    if asked.truncate is not False and (asked.truncate or options.num_ctx):
        body["ctx"] = options.num_ctx or MOST  # never more than the model's own window
    return body


def _sampling(options: Options) -> Body:
    body = {name: value for name in _SAME if (value := getattr(options, name)) is not None}
    if options.num_predict is not None:
        body["max_tokens"] = options.num_predict if options.num_predict > 0 else -1
    return body


def _streaming(asked: GeneratingRequest) -> Body:
    return {"stream": True, "stream_options": {"include_usage": True}} if asked.streams else {"stream": False}


def messages_of(messages: Iterable[Message]) -> list[Body]:
    """OpenAI's messages for Ollama's, one for one. Raises InvalidRequest that names the message.

    Calls of tools have ids there: those that have none get one, and results are given to the calls that wait, by id, by
    the tool's name or else in order.
    """
    made: list[Body] = []
    waiting = _Waiting()
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        if message.role == "user":
            waiting = _Waiting()
        body: Body = {"role": message.role, "content": _content(message.content, message.images, f"{where}.images")}
        if message.role == "assistant":
            body |= _said(message, index)
            for call in body.get("tool_calls", ()):
                waiting.add(call)
        elif message.role == "tool":
            body["tool_call_id"] = waiting.answered(message, where)
            if message.tool_name is not None:
                body["name"] = message.tool_name
        made.append(body)
    return made


def _said(message: Message, index: int) -> Body:
    body: Body = {} if message.thinking is None else {"reasoning_content": message.thinking}
    calls = [
        {
            "id": call.id or f"call_{index}_{number}",
            "type": "function",
            "function": {
                "name": call.function.name,
                "arguments": write_object(call.function.arguments or {}).decode(),
            },
        }
        for number, call in enumerate(message.tool_calls or ())
    ]
    return {**body, "tool_calls": calls} if calls else body


class _Waiting:
    """Calls without a result. However many there are, to find one takes no longer: no list is gone through twice."""

    def __init__(self) -> None:
        self._calls: dict[str, Body] = {}  # by id
        self._order: deque[Body] = deque()  # also those that have been answered since
        self._of_tool: defaultdict[str | None, deque[Body]] = defaultdict(deque)  # the same, by the tool's name

    def add(self, call: Body) -> None:
        self._calls[call["id"]] = call
        self._order.append(call)
        self._of_tool[call["function"]["name"]].append(call)

    def answered(self, message: Message, where: str) -> str:
        """The id of the call whose result this is, which waits no longer. Raises InvalidRequest."""
        found = message.tool_call_id
        if found is None:
            found = self._first(self._of_tool[message.tool_name]) or self._first(self._order)
        if found is None or self._calls.pop(found, None) is None:
            raise InvalidRequest(
                f"'{where}' is the result of a tool, but no call of the assistant since the last message of the user "
                "waits for it.",
                param=where,
            )
        return found

    def _first(self, calls: deque[Body]) -> str | None:
        while calls and self._calls.get(calls[0]["id"]) is not calls[0]:
            calls.popleft()
        return str(calls[0]["id"]) if calls else None


def _content(text: str | None, images: list[str] | None, where: str) -> str | list[Body]:
    """Images come first, so that `in_place` can tell which is which."""
    if not images:
        return text or ""
    parts = [_image(image, f"{where}[{number}]") for number, image in enumerate(images)]
    return [*parts, {"type": "text", "text": text}] if text else parts


def _image(data: str, where: str) -> Body:
    try:
        kind = image_kind(binascii.a2b_base64(data[:_HEAD]))
    except ValueError:
        kind = None
    if kind is None:
        raise InvalidRequest(f"'{where}' must be base64 of a PNG, JPEG, WebP, GIF or BMP image.", param=where)
    return {"type": "image_url", "image_url": {"url": f"data:image/{kind};base64,{data}"}}
