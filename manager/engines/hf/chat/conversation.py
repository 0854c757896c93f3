"""The messages of a request as a chat template reads them: roles, contents and calls in the form that it knows."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from manager.engines.hf.chat.templates import Capabilities
from manager.engines.hf.wire.unsupported import FieldError

Message = dict[str, Any]
# How a call made before is written where the template knows none: its name and arguments.
Written = Callable[[str, Any], str]

# llama.cpp leaves this role to the one family that has it.
_KNOWS_DEVELOPER = "<|channel|>"


def read_messages(messages: Any, template: str) -> list[Message]:
    """Copies in OpenAI's present form, with roles mapped and no content missing. FieldError names what is wrong."""
    if not isinstance(messages, list):
        raise FieldError("messages", "must be an array")
    return [_read(message, f"messages[{at}]", template) for at, message in enumerate(messages)]


def _read(message: Any, where: str, template: str) -> Message:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise FieldError(where, "must be an object with a role")
    read = {name: value for name, value in message.items() if value is not None}
    if message["role"] == "developer" and _KNOWS_DEVELOPER not in template:
        read["role"] = "system"
    elif message["role"] == "function":
        read["role"] = "tool"
    if "function_call" in read:
        read.setdefault("tool_calls", [{"type": "function", "function": read["function_call"]}])
        del read["function_call"]
    if read["role"] == "assistant":
        if "content" not in message and "tool_calls" not in read:
            raise FieldError(where, "must have content or tool_calls")
    elif "content" not in message:
        raise FieldError(where, "must have content")
    _check_content(read.setdefault("content", ""), where)
    if "tool_calls" in read:
        read["tool_calls"] = _calls(read["tool_calls"], where)
    return read


def _check_content(content: Any, where: str) -> None:
    if isinstance(content, str):
        return
    if not isinstance(content, list):
        raise FieldError(f"{where}.content", "must be a string or an array of parts")
    for at, part in enumerate(content):
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind not in {"text", "image"} or (kind == "text" and not isinstance(part.get("text"), str)):
            raise FieldError(f"{where}.content[{at}]", "must be a text or an image")


def _calls(calls: Any, where: str) -> list[Message]:
    """With the arguments as objects. The list may be empty, and is then as good as none."""
    if not isinstance(calls, list):
        raise FieldError(f"{where}.tool_calls", "must be an array")
    read = []
    for at, call in enumerate(calls):
        place = f"{where}.tool_calls[{at}]"
        function = call.get("function") if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise FieldError(f"{place}.function", "must be an object with a name")
        arguments = function.get("arguments", "")
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments) if arguments.strip() else {}
                json.dumps(arguments, ensure_ascii=False).encode()  # half a character is an error, too
            except (ValueError, RecursionError):
                raise FieldError(f"{place}.function.arguments", "must be JSON") from None
        read.append({**call, "type": "function", "function": {**function, "arguments": arguments}})
    return read


def for_template(messages: Sequence[Message], can: Capabilities, written: Written, *, untold: bool) -> list[Message]:
    """The messages as this template takes them. `untold`: it knows nothing of tools, so results come from the user."""
    fitted = [_fit_calls(message, can, written, untold=untold) for message in messages]
    if not can.system:
        fitted = _without_system(fitted)
    for message in fitted:
        if can.text and not can.parts:
            message["content"] = as_text(message["content"])
        elif can.parts and not can.text and isinstance(message["content"], str):
            message["content"] = [{"type": "text", "text": message["content"]}]
    return fitted


def _fit_calls(message: Message, can: Capabilities, written: Written, *, untold: bool) -> Message:
    calls = message.get("tool_calls")
    if calls and not can.calls:
        texts = [written(call["function"]["name"], call["function"]["arguments"]) for call in calls]
        content = "\n".join(text for text in (as_text(message["content"]), *texts) if text)
        return {name: value for name, value in {**message, "content": content}.items() if name != "tool_calls"}
    if calls and not can.objects:
        as_json = [
            {**call, "function": {**call["function"], "arguments": json.dumps(call["function"]["arguments"])}}
            for call in calls
        ]
        return {**message, "tool_calls": as_json}
    if message["role"] == "tool" and untold and not can.calls:
        return {"role": "user", "content": f"<tool_response>\n{as_text(message['content'])}\n</tool_response>"}
    return dict(message)


def _without_system(messages: list[Message]) -> list[Message]:
    """A first system message goes before the text of the next one, as in llama.cpp."""
    if not messages or messages[0]["role"] != "system":
        return messages
    first, *rest = messages
    if rest:
        rest[0]["content"] = joined(first["content"], rest[0]["content"], "\n")
    return rest


def with_system(messages: list[Message], note: str) -> list[Message]:
    """The messages with a note at the end of the system message, which is made where there is none."""
    if messages and messages[0]["role"] == "system":
        first = {**messages[0], "content": joined(messages[0]["content"], note, "\n\n")}
        return [first, *messages[1:]]
    return [{"role": "system", "content": note}, *messages]


def joined(first: Any, second: Any, between: str) -> Any:
    """Two contents as one; parts where one of them has parts."""
    if isinstance(first, str) and isinstance(second, str):
        return f"{first}{between}{second}" if first else second
    parts = [[{"type": "text", "text": each}] if isinstance(each, str) else each for each in (first, second)]
    return parts[0] + parts[1]


def as_text(content: Any) -> str:
    """Parts as one text, a line each, as in llama.cpp. Raises FieldError where there is an image among them."""
    if isinstance(content, str):
        return content
    if any(part["type"] != "text" for part in content):
        raise FieldError("messages", "has an image, for which this model's chat template has no place")
    return "\n".join(part["text"] for part in content)
