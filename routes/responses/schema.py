"""What is answered, as /openapi.json tells it. Tests hold the answers to it."""

from __future__ import annotations

from typing import Any, Literal

from routes.schema.answer import Answer


class OneScore(Answer):
    """A token and how likely it was; `bytes` are those of its text."""

    token: str
    bytes: list[int] | None
    logprob: float


class TokenScore(OneScore):
    """The token that was taken, with the likeliest."""

    top_logprobs: list[OneScore]


class TextPart(Answer):
    """What the model said."""

    type: Literal["output_text"]
    text: str
    annotations: list[dict[str, Any]]
    logprobs: list[TokenScore]


class ReasoningPart(Answer):
    """What the model thought."""

    type: Literal["reasoning_text"]
    text: str


class OutputItem(Answer):
    """A `message`, `reasoning`, or `function_call` with `call_id`, `name` and `arguments` (JSON in a string)."""

    id: str
    type: Literal["message", "reasoning", "function_call"]
    status: Literal["in_progress", "completed", "incomplete"]
    role: Literal["assistant"] | None = None
    content: list[TextPart | ReasoningPart] | None = None
    summary: list[dict[str, Any]] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None


class InputDetails(Answer):
    """How many of the tokens were known from before."""

    cached_tokens: int
    cache_write_tokens: int


class OutputDetails(Answer):
    """How many of the tokens were thought, where the engine tells; else 0."""

    reasoning_tokens: int


class ResponseUsage(Answer):
    """What the response took, in tokens."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class ResponseError(Answer):
    """Why a response failed, in OpenAI's few codes; the event `error` before it has ours."""

    code: Literal["server_error", "rate_limit_exceeded", "invalid_prompt"]
    message: str


class IncompleteDetails(Answer):
    """Why a response is incomplete."""

    reason: Literal["max_output_tokens", "content_filter"]


class Response(Answer):
    """The response. `timings` are the engine's. What the request set is said again."""

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None = None
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    model: str
    output: list[OutputItem]
    error: ResponseError | None
    incomplete_details: IncompleteDetails | None
    usage: ResponseUsage | None
    timings: dict[str, Any] | None = None
    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, str]
    tools: list[dict[str, Any]]
    tool_choice: str | dict[str, Any]
    parallel_tool_calls: bool
    temperature: float | None
    top_p: float | None
    top_logprobs: int
    text: dict[str, Any]
    reasoning: dict[str, Any]
    truncation: Literal["auto", "disabled"]
    user: str | None
    safety_identifier: str | None
    prompt_cache_key: str | None
    service_tier: Literal["default"]
    background: Literal[False]
    previous_response_id: None
    store: Literal[False]


class ResponseEvent(Answer):
    """One event of a streamed response: its name is its `type`, and `sequence_number` counts from 0."""

    type: Literal[
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.output_item.done",
        "response.content_part.added",
        "response.content_part.done",
        "response.output_text.delta",
        "response.output_text.done",
        "response.reasoning_text.delta",
        "response.reasoning_text.done",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.completed",
        "response.incomplete",
        "response.failed",
        "error",
    ]
    sequence_number: int
    response: Response | None = None
    item: OutputItem | None = None
    item_id: str | None = None
    output_index: int | None = None
    content_index: int | None = None
    part: TextPart | ReasoningPart | None = None
    delta: str | None = None
    text: str | None = None
    name: str | None = None
    arguments: str | None = None
    logprobs: list[TokenScore] | None = None
    code: str | None = None
    message: str | None = None
    param: str | None = None
    error: dict[str, Any] | None = None


class InputTokens(Answer):
    """The answer of POST /v1/responses/input_tokens."""

    object: Literal["response.input_tokens"]
    input_tokens: int
