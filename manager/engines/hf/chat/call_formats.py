"""How models write calls of tools: the forms of the usual families, found by their template."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Tags:
    """Calls whose arguments stand between tags: around the name, each key and each value; `end` of the call."""

    name: tuple[str, str]
    key: tuple[str, str]
    value_end: str
    end: str


@dataclass(frozen=True, slots=True)
class CallFormat:
    """`open` and `close` stand around one call, or around a list of them. `open` empty: the answer is the call.

    `form`: "object": {name, arguments}; "named": the name, `between`, the arguments as an object; "tagged": by `tags`.
    `around`: other texts that stand near calls and are no content. `padding`: between the markers and what they hold.
    """

    open: str
    close: str = ""
    form: Literal["object", "named", "tagged"] = "object"
    name_key: str = "name"
    arguments_key: str = "arguments"
    between: str = ""
    listed: bool = False
    tags: Tags | None = None
    around: tuple[str, ...] = ()
    padding: str = ""

    @property
    def markers(self) -> tuple[str, ...]:
        """All texts of its own that are never content."""
        return tuple(text for text in (self.open, self.close, self.between, *self.around) if len(text) > 1)

    def written(self, name: str, arguments: Any) -> str:
        """One call as text, for conversations in which the template can't show it."""
        call = {self.name_key: name, self.arguments_key: arguments}
        text = json.dumps([call] if self.listed else call, ensure_ascii=False)
        return f"{self.open}{self.padding}{text}{self.padding}{self.close}"


_BAR = "\uff5c"  # DeepSeek's wide one

# What templates that know no tools are told to use, and many others bring themselves (Hermes, Qwen, Granite 4).
HERMES = CallFormat("<tool_call>", "</tool_call>", padding="\n")
_BARE = CallFormat("", arguments_key="parameters", around=("<|python_tag|>",))
_MISTRAL = CallFormat("[TOOL_CALLS]", listed=True)
_MISTRAL_NAMED = CallFormat("[TOOL_CALLS]", form="named", between="[ARGS]", around=("[CALL_ID]",))
_GRANITE = CallFormat("<|tool_call|>", listed=True, around=("<|/tool_call|>",))
_COHERE = CallFormat(
    "<|START_ACTION|>", "<|END_ACTION|>", name_key="tool_name", arguments_key="parameters", listed=True, padding="\n"
)
_DEEPSEEK = CallFormat(
    f"<{_BAR}tool▁call▁begin{_BAR}>",
    f"<{_BAR}tool▁call▁end{_BAR}>",
    form="named",
    between=f"<{_BAR}tool▁sep{_BAR}>",
    around=(f"<{_BAR}tool▁calls▁begin{_BAR}>", f"<{_BAR}tool▁calls▁end{_BAR}>"),
)
_KIMI = CallFormat(
    "<|tool_call_begin|>",
    "<|tool_call_end|>",
    form="named",
    between="<|tool_call_argument_begin|>",
    around=("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"),
)
_FUNCTION = CallFormat("<function=", "</function>", form="named", between=">")
_QWEN_TAGS = CallFormat(
    "<tool_call>",
    "</tool_call>",
    form="tagged",
    tags=Tags(("<function=", ">\n"), ("<parameter=", ">\n"), "\n</parameter>\n", "</function>"),
    padding="\n",
)
_SEED_TAGS = replace(_QWEN_TAGS, open="<seed:tool_call>", close="</seed:tool_call>")
_MINIMAX_TAGS = CallFormat(
    "<minimax:tool_call>",
    "</minimax:tool_call>",
    form="tagged",
    tags=Tags(('<invoke name="', '">\n'), ('<parameter name="', '">'), "</parameter>\n", "</invoke>"),
    padding="\n",
)
_GLM_TAGS = CallFormat(
    "<tool_call>",
    "</tool_call>",
    form="tagged",
    tags=Tags(("", "\n"), ("<arg_key>", "</arg_key>\n<arg_value>"), "</arg_value>\n", ""),
)

# The first whose texts all stand in the template.
_BY_TEMPLATE: tuple[tuple[tuple[str, ...], CallFormat], ...] = (
    (("<seed:tool_call>", "<function="), _SEED_TAGS),
    (("<minimax:tool_call>", "<invoke name="), _MINIMAX_TAGS),
    (("<tool_calls>[",), CallFormat("<tool_calls>", "</tool_calls>", listed=True)),
    (("<TOOLCALL>",), CallFormat("<TOOLCALL>", "</TOOLCALL>", listed=True)),
    (("<tool_call>", "<function=", "<parameter="), _QWEN_TAGS),
    (("<tool_call>", "<arg_key>"), _GLM_TAGS),
    (("<tool_call>",), HERMES),
    (("[TOOL_CALLS]", "[ARGS]"), _MISTRAL_NAMED),
    (("[TOOL_CALLS]",), _MISTRAL),
    (("<|START_ACTION|>", "tool_name"), _COHERE),
    ((f"<{_BAR}tool▁call▁begin{_BAR}>",), _DEEPSEEK),
    (("<|tool_call_begin|>",), _KIMI),
    (("<|tool_call|>",), _GRANITE),
    (("functools[",), CallFormat("functools", listed=True)),
    (("<function=",), _FUNCTION),
    (("<{start_tag}={function_name}>",), _FUNCTION),
    (("<tool_calls>",), CallFormat("<tool_calls>", "</tool_calls>", padding="\n")),
    (("<|function_call|>",), CallFormat("<|function_call|>")),
    (('"name":', '"parameters":'), _BARE),
)


def format_of(template: str) -> CallFormat | None:
    """The form that the template teaches; None where we know none of those in it."""
    return next((form for texts, form in _BY_TEMPLATE if all(text in template for text in texts)), None)
