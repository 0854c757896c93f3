"""From the answer to a chat to a message as Anthropic's API has it."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import orjson
from pydantic import BaseModel

from routes.prefill import begun_of, without_prefill

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use", "refusal"]
# By OpenAI's finish_reason. That a text ended with a stop sequence is not told by engines.
STOP_REASONS: Final[dict[str, StopReason]] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}
# Under which key arguments are told that are no JSON object (an answer that max_tokens cut, say).
INVALID_JSON: Final = "INVALID_JSON"


class Usage(BaseModel):
    """`input_tokens` are those that were not in a cache."""

    input_tokens: int
    cache_read_input_tokens: int
    cache_creation_input_tokens: int
    output_tokens: int


class MessageAnswer(BaseModel):
    """`content` has blocks of the types thinking, text and tool_use, in this order."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[dict[str, Any]]
    stop_reason: StopReason | None
    stop_sequence: str | None
    usage: Usage


class TokenCount(BaseModel):
    """How many tokens the prompt of a message has."""

    input_tokens: int


def message_of(
    answer: dict[str, Any], *, thinking: bool = True, messages: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """A whole answer to the `messages` of a chat; `thinking`: whether it shows what the model thought."""
    choice = answer["choices"][0]
    message = choice["message"]
    content: list[dict[str, Any]] = []
    thought, text = (
        without_prefill(message.get(field) or "", begun_of(messages, field))
        for field in ("reasoning_content", "content")
    )
    if thinking and thought:
        content.append({"type": "thinking", "thinking": thought, "signature": ""})
    if text:
        content.append({"type": "text", "text": text})
    calls = message.get("tool_calls") or []
    content += [_tool_use(call) for call in calls]
    reason = stop_reason(choice.get("finish_reason"), called=bool(calls))
    return envelope(answer, content, reason, usage_of(answer.get("usage")))


def count_of(answer: dict[str, Any]) -> dict[str, Any]:
    """How many tokens a prompt has."""
    return {"input_tokens": answer["input_tokens"]}


def envelope(
    answer: dict[str, Any], content: list[dict[str, Any]], reason: StopReason | None, usage: dict[str, int]
) -> dict[str, Any]:
    """A message with all that is around its content. `answer`: of the engine, or a chunk of it."""
    return {
        "id": f"msg_{str(answer.get('id', '')).removeprefix('chatcmpl-')}",
        "type": "message",
        "role": "assistant",
        "model": answer.get("model", ""),
        "content": content,
        "stop_reason": reason,
        "stop_sequence": None,
        "usage": usage,
    }


def stop_reason(finish: str | None, *, called: bool) -> StopReason:
    """`called`: whether there are calls of tools in the answer."""
    reason = STOP_REASONS.get(finish or "", "end_turn")
    return "tool_use" if called and reason == "end_turn" else reason


def usage_of(usage: dict[str, Any] | None) -> dict[str, int]:
    """What engines report; nothing is 0."""
    usage = usage or {}
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    return {
        "input_tokens": max(0, (usage.get("prompt_tokens") or 0) - cached),
        "cache_read_input_tokens": cached,
        "cache_creation_input_tokens": 0,
        "output_tokens": usage.get("completion_tokens") or 0,
    }


def call_id(given: Any) -> str:
    """The id of a call; a new one where the engine gave none."""
    return given if isinstance(given, str) and given else f"toolu_{secrets.token_hex(12)}"


def _tool_use(call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]
    return {
        "type": "tool_use",
        "id": call_id(call.get("id")),
        "name": function["name"],
        "input": _input(function.get("arguments") or "{}"),
    }


def _input(arguments: str) -> dict[str, Any]:
    try:
        given = orjson.loads(arguments)
    except ValueError:
        given = None
    return given if isinstance(given, dict) else {INVALID_JSON: arguments}
