"""The chat that a request of a response becomes."""

from __future__ import annotations

import copy
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from manager.errors import HerdError, InvalidRequest
from routes.body import CTX_NAMES
from routes.conversation import with_personality
from routes.messages import require_named_tool
from routes.responses.items import Places, Transcript
from routes.responses.request import FunctionTool, JsonObject, JsonSchema, NamedFunction, ResponseRequest

# Fields of a chat that have another name here.
_ELSEWHERE: Final = {
    "messages": "input",
    "response_format": "text.format",
    "functions": "tools",
    "function_call": "tool_choice",
    "logprobs": "include' or 'top_logprobs",
    "n_probs": "top_logprobs",
    "post_sampling_probs": "top_logprobs",
}
# What has the same name and meaning in a chat.
_SAME: Final = ("model", "stream", "temperature", "top_p")
# What a chat calls a field of ours, where it finds fault with it.
_NAMES: Final = {
    "messages": "input",
    "response_format": "text.format",
    "max_completion_tokens": "max_output_tokens",
    "reasoning_effort": "reasoning.effort",
    "verbosity": "text.verbosity",
}
_MESSAGE: Final = re.compile(r"messages\[(\d+)\]")
_LOGPROBS: Final = "message.output_text.logprobs"
# A budget above any model's window means all of it.
_WHOLE_WINDOW: Final = sys.maxsize


@dataclass(frozen=True, slots=True)
class Chat:
    """The body of a chat. `places` are those of its messages in the request that it was made of."""

    body: dict[str, Any]
    places: Sequence[Places]

    def in_its_words(self, error: HerdError) -> HerdError:
        """The error with the field at fault named as in the request."""
        if error.param is None:
            return error
        place = self._place(error.param)
        if place != error.param:
            error = copy.copy(error)
            error.message = error.message.replace(f"'{error.param}", f"'{place}")
            error.param = place
        return error

    def _place(self, param: str) -> str:
        found = _MESSAGE.match(param)
        if found is None:
            return _NAMES.get(param, param)
        number, rest = int(found[1]), param[found.end() :].replace(".image_url.url", ".image_url")
        places = self.places[number] if number < len(self.places) else {"": "input"}
        part = max((part for part in places if rest.startswith(part)), key=len)
        return places[part] + rest.removeprefix(part)


def wants_logprobs(asked: ResponseRequest) -> bool:
    return bool(asked.top_logprobs) or _LOGPROBS in (asked.include or ())


def to_chat(asked: ResponseRequest) -> Chat:
    """The chat that gives the answer. Raises InvalidRequest for what a chat can't do."""
    more = asked.model_extra or {}
    for name, ours in _ELSEWHERE.items():
        if more.get(name) not in (None, False, []):
            raise InvalidRequest(f"'{name}' is not a field of this API: it has '{ours}' for that.", param=name)
    for name in ("n", "n_cmpl"):
        if more.get(name) not in (None, 1):
            raise InvalidRequest(f"'{name}' must be 1: a response is one answer.", param=name)
    messages, places = _messages(asked)
    body = {**more, "messages": messages}
    body |= {name: value for name in _SAME if (value := getattr(asked, name)) is not None}
    if asked.stream:
        body["stream_options"] = {"include_usage": True}
    if asked.max_output_tokens is not None:
        body["max_completion_tokens"] = asked.max_output_tokens
    if asked.truncation == "auto" and all(more.get(name) is None for name in CTX_NAMES):
        body["ctx"] = _WHOLE_WINDOW
    if asked.reasoning is not None and asked.reasoning.effort is not None:
        body["reasoning_effort"] = asked.reasoning.effort
    if wants_logprobs(asked):  # llama.cpp tells of none where it shall tell of no others beside them
        body |= {"logprobs": True, "top_logprobs": asked.top_logprobs or 1}
    return Chat(body | _text_fields(asked) | _tool_fields(asked), places)


def _messages(asked: ResponseRequest) -> tuple[list[dict[str, Any]], list[Places]]:
    """The messages, and the places of each in the request."""
    if isinstance(asked.input, str):
        messages, places = [{"role": "user", "content": asked.input}], [{"": "input"}]
    else:
        transcript = Transcript()
        for number, item in enumerate(asked.input):
            transcript.add(item, f"input[{number}]")
        messages, places = transcript.messages, transcript.places
    if not messages:
        raise InvalidRequest("'input' must have at least one message or call.", param="input")
    if asked.instructions is not None:
        messages = with_personality(messages, asked.instructions)
    return messages, [{"": "instructions"}, *places] if len(messages) > len(places) else places


def _text_fields(asked: ResponseRequest) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if asked.text is not None:
        if asked.text.verbosity is not None:
            fields["verbosity"] = asked.text.verbosity
        match asked.text.format:
            case JsonObject():
                fields["response_format"] = {"type": "json_object"}
            case JsonSchema() as form:
                schema = form.model_dump(exclude={"type"}, exclude_none=True, by_alias=True)
                # As it came: null is a value in there.
                fields["response_format"] = {"type": "json_schema", "json_schema": {**schema, "schema": form.schema_}}
    return fields


def _tool_fields(asked: ResponseRequest) -> dict[str, Any]:
    """A function that must be called is the only one that the engine gets: not every engine knows a choice by name."""
    tools, choice = asked.tools or [], asked.tool_choice
    if not tools and not isinstance(choice, NamedFunction):
        if choice == "required":
            raise InvalidRequest("'tool_choice' can't be 'required' without tools.", param="tool_choice")
        return {}
    fields: dict[str, Any] = {"tools": [_tool(tool) for tool in tools]}
    if isinstance(choice, NamedFunction):
        fields["tool_choice"] = {"type": "function", "function": {"name": choice.name}}
        require_named_tool(fields)
    elif choice is not None:
        fields["tool_choice"] = choice
    if asked.parallel_tool_calls is not None:
        fields["parallel_tool_calls"] = asked.parallel_tool_calls
    return fields


def _tool(tool: FunctionTool) -> dict[str, Any]:
    given = {name: value for name in FunctionTool.model_fields if (value := getattr(tool, name)) is not None}
    return {"type": given.pop("type"), "function": given}
