"""The response: made of the answer to a chat."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from routes.conversation import LIMITS
from routes.prefill import begun_of, without_prefill
from routes.responses.chat_body import wants_logprobs
from routes.responses.request import NamedFunction, ResponseRequest

Item = dict[str, Any]
# Why a chat ends before its end, and what that is called here.
_CUT: Final = {"length": "max_output_tokens", "content_filter": "content_filter"}
# What a request says that its response says again.
_SAID_AGAIN: Final = ("instructions", "metadata", "prompt_cache_key", "safety_identifier", "user")


def new_id(kind: str) -> str:
    """An id that begins with what it is the id of."""
    return f"{kind}_{secrets.token_hex(16)}"


def begun(asked: ResponseRequest, model: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """The response before anything is in it. `body` is the chat as it was asked, with what its entry has changed."""
    choice = asked.tool_choice
    form = asked.text.format if asked.text else None
    limit = next((body[name] for name in LIMITS if body.get(name) is not None), -1)
    return {
        "id": new_id("resp"),
        "object": "response",
        "created_at": int(time.time()),
        "status": "in_progress",
        "model": model,
        "output": [],
        "error": None,
        "incomplete_details": None,
        "usage": None,
        **{name: getattr(asked, name) for name in _SAID_AGAIN},
        "max_output_tokens": limit if limit >= 0 else None,
        "temperature": body.get("temperature"),
        "top_p": body.get("top_p"),
        "metadata": asked.metadata or {},
        "tools": [tool.model_dump() for tool in asked.tools or ()],
        "tool_choice": choice.model_dump() if isinstance(choice, NamedFunction) else choice or "auto",
        "parallel_tool_calls": asked.parallel_tool_calls is not False,
        "text": {
            "format": form.model_dump(by_alias=True) if form else {"type": "text"},
            "verbosity": body.get("verbosity"),
        },
        "reasoning": {
            "effort": body.get("reasoning_effort"),
            "summary": asked.reasoning.summary if asked.reasoning else None,
        },
        "top_logprobs": asked.top_logprobs or 0,
        "truncation": asked.truncation or "disabled",
        "background": False,
        "previous_response_id": None,
        "service_tier": "default",
        "store": False,
    }


def error_code(status: int) -> str:
    """OpenAI's word for why a response failed, by the HTTP status of the error."""
    return "rate_limit_exceeded" if status == 429 else "invalid_prompt" if 400 <= status < 500 else "server_error"


def status_of(finish: str | None) -> str:
    """What a response is at its end, by why the chat ended."""
    return "incomplete" if finish in _CUT else "completed"


def ended(
    response: Mapping[str, Any], output: Sequence[Item], finish: str | None, report: Mapping[str, Any]
) -> dict[str, Any]:
    """The response at its end. `report` is what of the chat's answer tells how much it took."""
    status = status_of(finish)
    done = [{**item, "status": "completed"} for item in output]
    if done:
        done[-1]["status"] = status
    timings = {"timings": report["timings"]} if report.get("timings") else {}
    return {
        **response,
        "status": status,
        "output": done,
        "incomplete_details": {"reason": _CUT[finish]} if finish in _CUT else None,
        "completed_at": int(time.time()),
        "usage": usage_of(report.get("usage")),
        **timings,
    }


def whole(asked: ResponseRequest, chat: Mapping[str, Any], body: Mapping[str, Any]) -> dict[str, Any]:
    """The response that the whole answer to the chat `body` is."""
    choice = (chat.get("choices") or [{}])[0]
    said = choice.get("message") or {}
    output: list[Item] = []
    thought, text = (
        without_prefill(said.get(field) or "", begun_of(body["messages"], field))
        for field in ("reasoning_content", "content")
    )
    if thought:
        output.append(reasoning_item(new_id("rs"), thought))
    calls = said.get("tool_calls") or ()
    if text or not (output or calls):
        scores = scores_of(asked, choice)
        output.append(message_item(new_id("msg"), text, scores))
    for call in calls:
        function = call["function"]
        output.append(
            call_item(new_id("fc"), call.get("id") or new_id("call"), function["name"], function["arguments"])
        )
    response = begun(asked, chat.get("model") or asked.model or "", body)
    return ended(response, output, choice.get("finish_reason"), chat)


def message_item(id: str, text: str, scores: Sequence[Mapping[str, Any]]) -> Item:
    return {
        "id": id,
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [text_part(text, scores)],
    }


def text_part(text: str, scores: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": scores}


def reasoning_item(id: str, text: str) -> Item:
    content = [{"type": "reasoning_text", "text": text}]
    return {"id": id, "type": "reasoning", "status": "completed", "summary": [], "content": content}


def call_item(id: str, call_id: str, name: str, arguments: str) -> Item:
    called = {"call_id": call_id, "name": name, "arguments": arguments}
    return {"id": id, "type": "function_call", "status": "completed", **called}


def scores_of(asked: ResponseRequest, choice: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The log probabilities of a choice or a piece of it, each with as many others as were asked for."""
    given = choice.get("logprobs")
    if not given or not wants_logprobs(asked):
        return []
    others = asked.top_logprobs or 0
    return [
        {**_score(score), "top_logprobs": _scores(score.get("top_logprobs") or ())[:others]}
        for score in given.get("content") or ()
    ]


def _scores(scores: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [_score(score) for score in scores]


def _score(score: Mapping[str, Any]) -> dict[str, Any]:
    return {name: score.get(name) for name in ("token", "bytes", "logprob")}


def usage_of(chat: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """How many tokens were read and made; None where the engine does not tell."""
    if not chat:
        return None
    read, made = chat.get("prompt_tokens") or 0, chat.get("completion_tokens") or 0
    cached = (chat.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    thought = (chat.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0
    return {
        "input_tokens": read,
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": made,
        "output_tokens_details": {"reasoning_tokens": thought},
        "total_tokens": read + made,
    }
