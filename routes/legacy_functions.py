"""OpenAI's `functions` and `function_call`, which tools have taken the place of: engines know tools only."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

import orjson

from manager.errors import InvalidRequest
from routes import sse
from routes.form import Form
from routes.messages import require_named_tool

_CHOICES: Final = ("none", "auto")
_NONE_WAITS: Final = (
    "names no function_call of the assistant since the last message of the user that waits for a result"
)
Message = dict[str, Any]


def functions_to_tools(body: dict[str, Any]) -> bool:
    """Make tools out of the functions of a chat, in place. Whether there were any, so that its answer has to be
    changed, too. Raises InvalidRequest that names the field.
    """
    functions, call = body.pop("functions", None), body.pop("function_call", None)
    if functions is not None and not isinstance(functions, list):
        raise _refused("functions", "must be an array")
    if functions and (body.get("tools") or body.get("tool_choice") is not None):
        raise _refused("functions", "can't be given together with 'tools' or 'tool_choice'")
    names = [_name_of(function, f"functions[{index}]") for index, function in enumerate(functions or ())]
    if call is not None and not (isinstance(call, str) and call in _CHOICES):
        call = {"function": {"name": _named(call, names)}}  # also refuses what is no choice at all
    if not functions:
        return False
    body["tools"] = [{"type": "function", "function": function} for function in functions]
    body["parallel_tool_calls"] = False  # an answer has one function_call
    if call is not None:
        body["tool_choice"] = call
    if isinstance(call, dict):  # not every engine can be told which one: it gets no other
        require_named_tool(body)
    return True


def _name_of(function: Any, where: str) -> str:
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise _refused(where, "must be an object with a 'name'")
    if not isinstance(function.get("parameters"), dict | None):
        raise _refused(f"{where}.parameters", "must be an object")
    return str(function["name"])


def _named(call: Any, names: list[str]) -> str:
    name = call.get("name") if isinstance(call, dict) else None
    if not isinstance(name, str):
        raise _refused("function_call", "must be 'none', 'auto' or an object with a 'name'")
    if name not in names:
        raise _refused("function_call", "names none of the functions")
    return name


def calls_to_tool_calls(messages: list[Message]) -> bool:
    """Make the calls and results of functions in checked messages those of tools, in place. Whether there were any.

    Raises InvalidRequest where a result has no call of its name that waits for it.
    """
    found = False
    waiting: defaultdict[str, deque[str]] = defaultdict(deque)  # ids by name, since the last message of the user
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        if message["role"] == "user":
            waiting.clear()
        elif message["role"] == "function":
            found = True
            calls = waiting[message.pop("name")]
            if not calls:
                raise _refused(f"{where}.name", _NONE_WAITS)
            message.update(role="tool", tool_call_id=calls.popleft())
        elif "function_call" in message:
            found = True
            call = message.pop("function_call")
            if call is None:
                continue
            if message.get("tool_calls"):
                raise _refused(f"{where}.function_call", "can't be given together with 'tool_calls'")
            waiting[call["name"]].append(f"call_{index}")
            message["tool_calls"] = [{"id": f"call_{index}", "type": "function", "function": call}]
    return found


def in_functions(form: Form) -> Form:
    """The form of an answer whose call of a tool is to be a function_call, and is then as `form` has it."""
    own = form.finish

    def finish(answer: dict[str, Any]) -> dict[str, Any]:
        changed = _with_calls(answer, "message")
        return changed if own is None else own(changed)

    return Form(finish=finish, reframe=_reframed, headers=form.headers, failed=form.failed, pulse=form.pulse)


async def _reframed(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for data in sse.data_of(chunks):
        yield sse.DONE if data == b"[DONE]" else sse.data_frame(_with_calls(orjson.loads(data), "delta"))


def _with_calls(answer: dict[str, Any], part: str) -> dict[str, Any]:
    """`part`: what a choice has its message in."""
    choices = answer.get("choices")
    return answer if not choices else {**answer, "choices": [_choice_with_call(choice, part) for choice in choices]}


def _choice_with_call(choice: dict[str, Any], part: str) -> dict[str, Any]:
    changed = {**choice, part: _with_call(choice[part])}
    if choice.get("finish_reason") == "tool_calls":
        changed["finish_reason"] = "function_call"
    return changed


def _with_call(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message or delta with the first of its calls as function_call: more than one can't be told."""
    changed = {name: value for name, value in message.items() if name != "tool_calls"}
    for call in message.get("tool_calls") or ():
        if call.get("index", 0) == 0:
            changed["function_call"] = {name: call["function"][name] for name in call["function"]}
            break
    return changed


def _refused(field: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"'{field}' {why}.", param=field)
