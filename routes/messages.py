"""The checks of what a chat is made of: messages, calls with their results, and tools."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, Final

import orjson

from manager.errors import InvalidRequest
from routes.media import MEDIA, MOST_MEDIA

ROLES: Final = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
# The types of parts that go to engines: what others hold, no engine may look into.
PARTS: Final = frozenset({"text", "refusal", *MEDIA})
# Roles of what calls of tools brought.
RESULTS: Final = frozenset({"tool", "function"})


def check_messages(body: dict[str, Any], *, media: bool = True) -> list[dict[str, Any]]:
    """The messages of a chat, in form. Raises InvalidRequest that names the message.

    Results of calls come before the next message of the user, in any order. `media`: whether the model takes more than
    text.
    """
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise InvalidRequest("'messages' must be an array with at least one message.", param="messages")
    counter = itertools.count(1) if media else None
    waiting: dict[str, int] = {}  # how many calls of an id have no result yet
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        _check_message(message, where, counter)
        if waiting and message["role"] == "user":
            waiting = {}
        if len(message) > 2 or "content" not in message:
            _check_extras(message, where, waiting)
        if message["role"] in RESULTS:
            _check_result(message, where, waiting)
    return messages


def _check_message(message: Any, where: str, media: Iterator[int] | None) -> None:
    if not isinstance(message, dict):
        raise InvalidRequest(f"'{where}' must be an object.", param=where)
    role = message.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise InvalidRequest(f"'{where}.role' must be one of {', '.join(sorted(ROLES))}.", param=f"{where}.role")
    content = message.get("content")
    if content is None:
        if role == "assistant":
            return  # only tool calls, or nothing said
        raise InvalidRequest(f"'{where}.content' is missing.", param=f"{where}.content")
    if isinstance(content, list):
        for number, part in enumerate(content):
            _check_part(part, f"{where}.content[{number}]", media)
    elif not isinstance(content, str):
        raise InvalidRequest(f"'{where}.content' must be a string or an array of parts.", param=f"{where}.content")


def _check_part(part: Any, where: str, media: Iterator[int] | None) -> None:
    """`media` counts the parts of a request that are more than text; None: there must be none."""
    if not isinstance(part, dict) or not isinstance(part.get("type"), str):
        raise InvalidRequest(f"'{where}' must be an object with a 'type'.", param=where)
    if part["type"] not in PARTS:
        raise InvalidRequest(f"'{where}.type' must be one of {', '.join(sorted(PARTS))}.", param=f"{where}.type")
    if part["type"] == "text" and not isinstance(part.get("text"), str):
        raise InvalidRequest(f"'{where}.text' must be a string.", param=f"{where}.text")
    if part["type"] == "refusal" and not isinstance(part.get("refusal"), str):
        raise InvalidRequest(f"'{where}.refusal' must be a string.", param=f"{where}.refusal")
    if part["type"] in MEDIA:
        if media is None:
            raise InvalidRequest(f"'{where}': this model takes text only, no '{part['type']}'.", param=where)
        if next(media) > MOST_MEDIA:
            raise InvalidRequest(
                f"'{where}' is one too many: a request has at most {MOST_MEDIA} images, sounds and films.", param=where
            )


def _check_extras(message: dict[str, Any], where: str, waiting: dict[str, int]) -> None:
    """Hold what a message has beside its content to its form. The calls in it wait from now on."""
    for field in ("name", "reasoning_content"):
        if not isinstance(message.get(field), str | None):
            raise InvalidRequest(f"'{where}.{field}' must be a string.", param=f"{where}.{field}")
    if message["role"] != "assistant":
        return
    if message.get("function_call") is not None:
        _check_called(message["function_call"], f"{where}.function_call")
    calls = message.get("tool_calls")
    if calls is None:
        return
    if not isinstance(calls, list):
        raise InvalidRequest(f"'{where}.tool_calls' must be an array.", param=f"{where}.tool_calls")
    for number, call in enumerate(calls):
        place = f"{where}.tool_calls[{number}]"
        if not isinstance(call, dict) or not isinstance(call.get("id"), str):
            raise InvalidRequest(f"'{place}' must be an object with an 'id', a string.", param=place)
        _check_called(call.get("function"), f"{place}.function")
        waiting[call["id"]] = waiting.get(call["id"], 0) + 1


def _check_called(function: Any, where: str) -> None:
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise InvalidRequest(f"'{where}' must be an object with a 'name'.", param=where)
    arguments = function.get("arguments")
    if not isinstance(arguments, str | dict) or (isinstance(arguments, str) and arguments and not _is_json(arguments)):
        raise InvalidRequest(f"'{where}.arguments' must be a string of JSON.", param=f"{where}.arguments")


def _is_json(text: str) -> bool:
    try:
        orjson.loads(text)
    except ValueError:
        return False
    return True


def _check_result(message: dict[str, Any], where: str, waiting: dict[str, int]) -> None:
    """Strike what this message answers off the calls that wait."""
    if message["role"] == "function":
        if message.get("name") is None:
            raise InvalidRequest(f"'{where}.name' is missing.", param=f"{where}.name")
        return
    place = f"{where}.tool_call_id"
    call = message.get("tool_call_id")
    if not isinstance(call, str):
        raise InvalidRequest(f"'{place}' must be a string, the id of a call.", param=place)
    if not waiting.get(call):
        raise InvalidRequest(
            f"'{place}': no message of the assistant since the last one of the user has a call of this id that waits "
            "for a result.",
            param=place,
        )
    waiting[call] -= 1


def settle_said(messages: list[dict[str, Any]]) -> bool:
    """Make what the assistant said such as engines know it, in place; whether that changed anything.

    Parts of type refusal become texts, and calls without arguments get those of none.
    """
    found = False
    for message in messages:
        if message["role"] != "assistant":
            continue
        if isinstance(message.get("content"), list):
            for part in message["content"]:
                if part["type"] == "refusal":
                    part.update(type="text", text=part.pop("refusal"))
                    found = True
        for call in message.get("tool_calls") or ():
            if call["function"]["arguments"] == "":
                call["function"]["arguments"] = "{}"
                found = True
    return found


def require_named_tool(body: dict[str, Any]) -> None:
    """Make the one tool that `tool_choice` names the only one, and required: llama.cpp reads no name there, and would
    take it for "auto". Raises InvalidRequest where there is no such tool.
    """
    function = body["tool_choice"].get("function")
    name = function.get("name") if isinstance(function, dict) else None
    tools = [tool for tool in body.get("tools") or () if tool["function"]["name"] == name]
    if not tools:
        raise InvalidRequest("'tool_choice' names none of the tools.", param="tool_choice")
    body.update(tools=tools, tool_choice="required")


def check_tools(tools: list[Any]) -> None:
    """Hold the tools of a chat to their form. Raises InvalidRequest that names the tool."""
    for index, tool in enumerate(tools):
        where = f"tools[{index}]"
        if not isinstance(tool, dict) or tool.get("type") != "function":
            raise InvalidRequest(f"'{where}' must be an object with the type 'function'.", param=where)
        function = tool.get("function")
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise InvalidRequest(f"'{where}.function' must be an object with a 'name'.", param=f"{where}.function")
