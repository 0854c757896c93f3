"""From a request to Anthropic's API to the chat that it asks for, in OpenAI's form."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from manager.errors import HerdError, InvalidRequest
from routes.anthropic.conversation import Conversation
from routes.anthropic.request import CountRequest, OutputConfig, Thinking, Tool, ToolChoice
from routes.messages import require_named_tool

# These can't change what a model here answers: accounts, prices, caches, and what may be forgotten to save tokens.
IGNORED: Final = frozenset(
    {
        *("metadata", "service_tier", "cache_control", "context_management", "diagnostics"),
        *("inference_geo", "speed", "user_profile_id", "workspace_id"),
    }
)
# What nothing here can do, and fields of chats that have another name here, or no place in the answer.
UNSUPPORTED: Final = (
    *("container", "mcp_servers", "output_format", "stop", "n", "n_cmpl"),
    *("logprobs", "top_logprobs", "n_probs", "functions", "function_call"),
)
SAME: Final = ("model", "max_tokens", "temperature", "top_p", "top_k", "stream")
CHOICES: Final = {"auto": "auto", "any": "required", "none": "none"}
EFFORTS: Final = {"xhigh": "high", "max": "high"}  # templates know none above high
# Fields of the chat, and what they are in the request.
NAMES: Final = {
    "stop": "stop_sequences",
    "reasoning_budget_tokens": "thinking.budget_tokens",
    "response_format": "output_config.format",
    "reasoning_effort": "output_config.effort",
}


@dataclass(frozen=True, slots=True)
class Translated:
    """`body` is a chat. `names` tells what its fields are in the request, where that is something else."""

    body: dict[str, Any]
    names: Mapping[str, str]

    def retold(self, error: HerdError) -> HerdError:
        """The error with the name that its field has in the request."""
        field = error.param or ""
        known = max(
            (name for name in self.names if f"{field}.".startswith((f"{name}.", f"{name}["))), key=len, default=None
        )
        if known is None:
            return error
        told = copy.copy(error)
        told.param = self.names[known]
        told.message = error.message.replace(f"'{field}'", f"'{told.param}'")
        return told


def translate(request: CountRequest) -> Translated:
    """Raises InvalidRequest that names the field."""
    extra = request.model_extra or {}
    others = {name: value for name, value in extra.items() if value is not None and name not in IGNORED}
    for name in UNSUPPORTED:
        if others.pop(name, []) != []:
            raise InvalidRequest(f"'{name}' is not supported by this API.", param=name)
    conversation = Conversation(request)
    same = {name: value for name in SAME if (value := getattr(request, name, None)) is not None}
    body = {**others, **same, "messages": conversation.messages}
    body |= _tools(request.tools or [], request.tool_choice)
    if request.thinking is not None:
        body |= _thinking(request.thinking, others.get("chat_template_kwargs"))
    if request.output_config is not None:
        body |= _output(request.output_config)
    if stops := getattr(request, "stop_sequences", None):
        body["stop"] = stops
    if body.get("stream"):
        body["stream_options"] = {"include_usage": True}
    return Translated(body, {**NAMES, **conversation.names})


def _tools(tools: list[Tool], choice: ToolChoice | None) -> dict[str, Any]:
    wanted = choice.type if choice is not None else None
    if not tools:
        if wanted in {"any", "tool"}:
            raise InvalidRequest("'tool_choice' asks for a call, but there are no 'tools'.", param="tool_choice")
        return {}
    fields: dict[str, Any] = {"tools": [_tool(tool) for tool in tools]}
    if choice is not None:
        fields["tool_choice"] = CHOICES.get(choice.type)
        if wanted == "tool":  # not every engine can be held to one of several
            fields["tool_choice"] = {"type": "function", "function": {"name": choice.name}}
            require_named_tool(fields)
        if choice.disable_parallel_tool_use is not None:
            fields["parallel_tool_calls"] = not choice.disable_parallel_tool_use
    return fields


def _tool(tool: Tool) -> dict[str, Any]:
    function: dict[str, Any] = {
        "name": tool.name,
        "description": tool.description or "",
        "parameters": tool.input_schema,
    }
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}


def _thinking(thinking: Thinking, given: Any) -> dict[str, Any]:
    if not isinstance(given, dict | None):
        raise InvalidRequest("'chat_template_kwargs' must be an object.", param="chat_template_kwargs")
    fields: dict[str, Any] = {"chat_template_kwargs": {**(given or {}), "enable_thinking": thinking.type != "disabled"}}
    if thinking.type == "enabled" and thinking.budget_tokens is not None:
        fields["reasoning_budget_tokens"] = thinking.budget_tokens
    return fields


def _output(config: OutputConfig) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if config.effort is not None:
        fields["reasoning_effort"] = EFFORTS.get(config.effort, config.effort)
    if config.format is not None:
        schema = {"name": "answer", "schema": config.format.json_schema}
        fields["response_format"] = {"type": "json_schema", "json_schema": schema}
    return fields
