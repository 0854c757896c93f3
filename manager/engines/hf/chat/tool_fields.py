"""Which tools a request gives and whether one must be called. The older functions and function_call mean the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from manager.engines.hf.wire.unsupported import FieldError
from manager.mistakes import shown

Tool = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ToolRequest:
    """`tools` in OpenAI's form. `must`: the answer is to be a call; of `only`, where it is given. `parallel` None: not
    said. `legacy`: the request came in the older form and its answer must, too.
    """

    tools: tuple[Tool, ...]
    must: bool = False
    only: str | None = None
    parallel: bool | None = None
    legacy: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(tool["function"]["name"] for tool in self.tools)

    @property
    def callable(self) -> tuple[Tool, ...]:
        return tuple(tool for tool in self.tools if self.only in (None, tool["function"]["name"]))


def read_tools(body: Mapping[str, Any]) -> ToolRequest | None:
    """None: there are none, or none may be called. Raises FieldError."""
    legacy = not body.get("tools") and bool(body.get("functions"))
    field, choice_field = ("functions", "function_call") if legacy else ("tools", "tool_choice")
    tools = _tools(body.get(field), field, bare=legacy)
    must, only = _choice(body.get(choice_field), choice_field, legacy=legacy)
    parallel = body.get("parallel_tool_calls")
    if parallel is not None and not isinstance(parallel, bool):
        raise FieldError("parallel_tool_calls", "must be true or false")
    if must is None:
        return None
    if not tools:
        if must:
            raise FieldError(choice_field, f"asks for a call, but there are no '{field}'")
        return None
    request = ToolRequest(tools, must, only, False if legacy else parallel, legacy)
    if only is not None and only not in request.names:
        raise FieldError(choice_field, f"names {shown(only)}, which is not among the '{field}'")
    return request


def _tools(value: Any, field: str, *, bare: bool) -> tuple[Tool, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise FieldError(field, "must be an array")
    tools = []
    for at, each in enumerate(value):
        tool = {"type": "function", "function": each} if bare else each
        where = f"{field}[{at}]"
        if not isinstance(tool, Mapping) or tool.get("type", "function") != "function":
            raise FieldError(where, "must be an object of type function")
        function = tool.get("function")
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str) or not function["name"]:
            raise FieldError(where, "must have a function with a name")
        parameters = function.get("parameters")
        if parameters is not None and not isinstance(parameters, Mapping):
            raise FieldError(f"{where}.function.parameters", "must be an object")
        if parameters and not isinstance(parameters.get("properties"), Mapping | None):
            raise FieldError(f"{where}.function.parameters.properties", "must be an object")
        # Templates look for each of these without asking whether it is there.
        filled = {**function, "description": function.get("description") or "", "parameters": parameters or _NOTHING}
        tools.append({**tool, "type": "function", "function": filled})
    return tuple(tools)


_NOTHING: Mapping[str, Any] = {"type": "object", "properties": {}}


def _choice(value: Any, field: str, *, legacy: bool) -> tuple[bool | None, str | None]:
    """Whether there must be a call (None: there must be none), and of which tool only."""
    match value:
        case None | "auto":
            return False, None
        case "none":
            return None, None
        case "required" if not legacy:
            return True, None
        case {"function": {"name": str(name)}} if not legacy:
            return True, name
        case {"name": str(name)} if legacy:
            return True, name
        case _:
            words = "none, auto or {name}" if legacy else 'none, auto, required or {"type": "function", "function": …}'
            raise FieldError(field, f"must be {words}")
