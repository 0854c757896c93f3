"""The requests of Anthropic's Messages API."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from routes.anthropic.blocks import Message, Texts
from routes.parsing import RequestBody
from routes.schema.answer import example
from routes.schema.generation import MOST


class Tool(RequestBody):
    """A tool of the client's own; those that Anthropic's servers run have other types."""

    type: Literal["custom"] | None = None
    name: str
    description: str | None = None
    input_schema: dict[str, Any]
    strict: bool | None = None


class ToolChoice(RequestBody):
    """Which tools are called: any of them or none (`auto`), at least one (`any`), that `name` (`tool`), none."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(RequestBody):
    """`budget_tokens`: the most tokens of thinking; with the display `omitted` the answer does not show it."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Annotated[int, Field(ge=0, le=MOST)] | None = None
    display: Literal["summarized", "omitted"] | None = None


class OutputFormat(RequestBody):
    """The JSON schema that the answer must fit."""

    type: Literal["json_schema"]
    json_schema: dict[str, Any] = Field(alias="schema")


class OutputConfig(RequestBody):
    """How hard the model thinks, and the form of its answer."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: OutputFormat | None = None


class CountRequest(RequestBody):
    """What makes a prompt. Fields of ours (`personality`, `ctx`, …) and of engines (`min_p`, …) may be there, too."""

    model_config = ConfigDict(json_schema_extra=example(messages=[{"role": "user", "content": "Say hello."}]))

    model: str | None = None
    messages: list[Message] = Field(description="The conversation, oldest first.")
    system: Texts | None = Field(None, description="What holds for the whole conversation.")
    tools: list[Tool] | None = Field(None, description="What the model may call.")
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None


class MessageRequest(CountRequest):
    """A conversation to go on with."""

    model_config = ConfigDict(
        json_schema_extra=example(messages=[{"role": "user", "content": "Say hello."}], max_tokens=32)
    )

    max_tokens: Annotated[int, Field(ge=1, le=MOST, description="Most tokens of the answer.")]
    stop_sequences: list[str] | None = Field(None, description="Texts before which the answer ends.")
    temperature: float | None = None
    top_p: float | None = None
    top_k: Annotated[int, Field(le=MOST)] | None = None
    stream: bool | None = None
