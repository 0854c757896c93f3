"""The chat of OpenAI's API, its answer and the events of its stream."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field, SkipValidation

from routes.schema.answer import Answer, example
from routes.schema.generation import Generation
from routes.schema.messages import LegacyFunction, Message, Tool

_TOKENS = "A budget in tokens for prompt and answer together; the oldest turns are dropped until it fits."


class ChatRequest(Generation):
    """A conversation to go on with."""

    model_config = ConfigDict(
        json_schema_extra=example(messages=[{"role": "user", "content": "Say hello."}], max_tokens=32)
    )

    # Their insides are checked where the place of a mistake can be told: routes/messages.py.
    messages: list[SkipValidation[Message]] = Field(min_length=1, description="The conversation, oldest first.")
    tools: list[SkipValidation[Tool]] | None = Field(None, description="What the model may call.")
    tool_choice: str | dict[str, Any] | None = Field(
        None, description="`auto`, `none`, `required`, or the function that it must call."
    )
    functions: list[SkipValidation[LegacyFunction]] | None = Field(None, description="The older form of `tools`.")
    function_call: Literal["none", "auto"] | dict[str, Any] | None = Field(
        None, description="The older form of `tool_choice`: `none`, `auto`, or the `name` of one of `functions`."
    )
    personality: str | None = Field(
        None, description="One of the model's personalities, whose system prompt comes first."
    )
    ctx: int | None = Field(None, ge=1, description=_TOKENS)
    context_window: int | None = Field(None, ge=1, description="Another name of `ctx`.")
    n_ctx: int | None = Field(None, ge=1, description="Another name of `ctx`.")


class Usage(Answer):
    """How many tokens a request took."""

    prompt_tokens: int
    completion_tokens: int = 0
    total_tokens: int


class AssistantAnswer(Answer):
    """What the model says."""

    role: Literal["assistant"] = "assistant"
    content: str | None = None
    reasoning_content: str | None = Field(None, description="What it thought before.")
    tool_calls: list[dict[str, Any]] | None = Field(None, description="The tools that it calls.")


class ChatChoice(Answer):
    """One of the `n` answers."""

    index: int
    message: AssistantAnswer
    finish_reason: str | None = Field(description="`stop`, `length` or `tool_calls`.")
    logprobs: dict[str, Any] | None = None


class ChatCompletion(Answer):
    """The answer of a chat."""

    id: str
    object: Literal["chat.completion"]
    created: int = Field(description="Seconds since the epoch.")
    model: str
    choices: list[ChatChoice]
    usage: Usage | None = None
    timings: dict[str, Any] | None = Field(None, description="llama.cpp's: how long it took.")


class ChatCompletionWithResponses(ChatCompletion):
    """The answer of a chat, with its texts once more."""

    responses: list[str] = Field(description="The texts of the choices.")


class ChatDelta(Answer):
    """What has been added to one of the answers."""

    index: int
    delta: dict[str, Any] = Field(
        description="`role`, `content`, `reasoning_content`, `tool_calls`: what comes is added to what was there."
    )
    finish_reason: str | None = None


class ChatChunk(Answer):
    """One event of a streamed chat. `[DONE]` follows the last one; an error is `{"error": …}`."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int = Field(description="Seconds since the epoch.")
    model: str
    choices: list[ChatDelta] = Field(description="Empty in the event with the usage.")
    usage: Usage | None = None


class Prompt(Answer):
    """A conversation as the model's template renders it."""

    prompt: str


class InputTokens(Answer):
    """How many tokens the prompt of a chat has."""

    input_tokens: int
