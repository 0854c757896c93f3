"""The requests of Anthropic's Messages API."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Field

from routes.anthropic.blocks import Message, Texts
from routes.parsing import RequestBody

# As many tokens as engines can count.
MOST_TOKENS: Final = 2**31 - 1


class Tool(RequestBody):
    """A tool of the client's own; those that Anthropic's servers run have other types."""

    type: Literal["custom"] | None = None
    name: str
    description: str | None = None
    input_schema: dict[str, Any]
    strict: bool | None = None


class ToolChoice(RequestBody):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(RequestBody):
    """`budget_tokens`: the most tokens of thinking; with the display `omitted` the answer does not show it."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Annotated[int, Field(ge=0, le=MOST_TOKENS)] | None = None
    display: Literal["summarized", "omitted"] | None = None


class OutputFormat(RequestBody):
    type: Literal["json_schema"]
    json_schema: dict[str, Any] = Field(alias="schema")


class OutputConfig(RequestBody):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: OutputFormat | None = None


class CountRequest(RequestBody):
    """What makes a prompt. Fields of ours (`personality`, `ctx`, …) and of engines (`min_p`, …) may be there, too."""

    model: str | None = None
    messages: list[Message]
    system: Texts | None = None
    tools: list[Tool] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None


class MessageRequest(CountRequest):
    max_tokens: Annotated[int, Field(ge=1, le=MOST_TOKENS)]
    stop_sequences: list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stream: bool | None = None
