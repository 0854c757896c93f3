"""The request of a response."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import ConfigDict, Field, Tag

from routes.parsing import RequestBody
from routes.responses.items import Input, Unkept, by_type, one_of, refused
from routes.schema.answer import example
from routes.schema.generation import MOST
from routes.schema.switches import Off

Unsupported: TypeAlias = Annotated[None, refused("this service does not do it")]

# What may be asked for to be in the answer. But for log probabilities it is of tools that are not here, or is in it.
Includable: TypeAlias = Literal[
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
    "message.input_image.image_url",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
]


class FunctionTool(RequestBody):
    """A function that the model may call; `parameters` is its JSON schema."""

    type: Literal["function"]
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class NamedFunction(RequestBody):
    """The function that must be called."""

    type: Literal["function"]
    name: str


class PlainText(RequestBody):
    """Any text."""

    type: Literal["text"]


class JsonObject(RequestBody):
    """Any JSON object."""

    type: Literal["json_object"]


class JsonSchema(RequestBody):
    """JSON that fits the schema."""

    type: Literal["json_schema"]
    name: str
    schema_: dict[str, Any] = Field(alias="schema")
    description: str | None = None
    strict: bool | None = None


class TextOptions(RequestBody):
    """What the text of the answer must be."""

    format: (
        Annotated[
            Annotated[PlainText, Tag("text")]
            | Annotated[JsonObject, Tag("json_object")]
            | Annotated[JsonSchema, Tag("json_schema")],
            one_of("text", "json_object", "json_schema"),
        ]
        | None
    ) = None
    verbosity: Literal["low", "medium", "high"] | None = None


class ReasoningOptions(RequestBody):
    """How much is thought before the answer. The thoughts are given whole: a summary of them is not made."""

    effort: str | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None


class ResponseRequest(RequestBody):
    """The body of POST /v1/responses. What it does not declare goes to the engine: `seed`, `top_k`, `ctx`, …"""

    model_config = ConfigDict(json_schema_extra=example(input="Say hello.", max_output_tokens=32))

    input: Input = Field(description="A text, or the items of the conversation, oldest first.")
    model: str | None = None
    instructions: str | None = Field(None, description="What holds for the whole conversation.")
    max_output_tokens: int | None = Field(None, ge=1, le=MOST, description="Most tokens of the answer.")
    temperature: float | None = Field(None, ge=0)
    top_p: float | None = Field(None, ge=0, le=1)
    top_logprobs: int | None = Field(None, ge=0, le=20)
    stream: bool | None = None
    tools: list[Annotated[Annotated[FunctionTool, Tag("function")], one_of("function")]] | None = None
    tool_choice: (
        Annotated[
            Annotated[Literal["auto", "none", "required"], Tag("mode")] | Annotated[NamedFunction, Tag("function")],
            by_type({str: "mode", dict: "function"}, "must be a string or an object"),
        ]
        | None
    ) = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: ReasoningOptions | None = None
    truncation: Literal["auto", "disabled"] | None = None
    include: list[Includable] | None = None
    # Given back, or of no meaning here.
    metadata: dict[str, str] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: Any = None
    prompt_cache_retention: Any = None
    service_tier: str | None = None
    store: bool | None = None
    stream_options: dict[str, Any] | None = None
    max_tool_calls: int | None = None  # of tools that the service would call
    # What can't be honoured.
    background: Off | None = None
    previous_response_id: Unkept = None
    conversation: Unkept = None
    prompt: Unkept = None
    context_management: Unsupported = None
    moderation: Unsupported = None
