"""How errors are said."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from routes.schema.answer import Answer


class ErrorDetails(Answer):
    """What went wrong."""

    message: str
    type: str
    param: str | None = Field(description="The field at fault.")
    code: str = Field(description="The kind of error, for programs.")


class Error(Answer):
    """An error, as OpenAI's API says it."""

    error: ErrorDetails


class PlainError(Answer):
    """An error, as the routes of the original say it, and Ollama's."""

    error: str


class AnthropicError(Answer):
    """An error, as Anthropic's API says it."""

    type: Literal["error"]
    error: ErrorDetails
