"""The bodies of Ollama's requests. Fields that are not here are let through and mean nothing, as in Ollama."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from routes.parsing import RequestBody

# As Go writes durations: 90, 5m, 1h30m, -1.
_DURATION: Final = re.compile(r"[+-]?(?:\d+(?:\.\d+)?|(?:(?:\d+(?:\.\d*)?|\.\d+)(?:ns|us|µs|ms|s|m|h))+)")
MOST: Final = 2**31 - 1


def _as_integer(value: Any) -> Any:
    """Ollama takes 10.0 for 10."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _duration(value: float | str | None) -> float | str | None:
    if isinstance(value, str) and not _DURATION.fullmatch(value):
        raise ValueError("must be a number of seconds or a duration such as 5m")
    return value


Integer = Annotated[int, BeforeValidator(_as_integer)]
KeepAlive = Annotated[float | str | None, AfterValidator(_duration)]


class Options(RequestBody):
    """How to generate. What concerns loading (num_gpu, use_mmap, …) is the model's own entry to say, and is ignored."""

    num_ctx: Annotated[Integer, Field(ge=1, le=MOST)] | None = None
    num_predict: Annotated[Integer, Field(ge=-MOST, le=MOST)] | None = None
    temperature: Annotated[float, Field(ge=0)] | None = None
    top_k: Annotated[Integer, Field(ge=-1, le=MOST)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    typical_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repeat_penalty: Annotated[float, Field(ge=0)] | None = None
    repeat_last_n: Annotated[Integer, Field(ge=-1, le=MOST)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    mirostat: Annotated[Integer, Field(ge=0, le=2)] | None = None
    mirostat_tau: Annotated[float, Field(ge=0)] | None = None
    mirostat_eta: Annotated[float, Field(ge=0)] | None = None
    seed: Annotated[Integer, Field(ge=-(2**53), le=2**53)] | None = None
    stop: str | list[str] | None = None


class ModelRequest(RequestBody):
    """What every request that needs a model may have. `model` may be left out, which means the default one."""

    model: str | None = None
    keep_alive: KeepAlive = None

    @property
    def ends_at_once(self) -> bool:
        """Whether the model is not to be kept at all, which without a prompt means: unload it."""
        wanted = self.keep_alive
        return not any(digit in wanted for digit in "123456789") if isinstance(wanted, str) else wanted == 0


class GeneratingRequest(ModelRequest):
    """What /api/chat and /api/generate have in common."""

    stream: bool | None = None
    format: Literal["", "json"] | dict[str, Any] | None = None
    options: Options | None = None
    think: bool | Literal["low", "medium", "high"] | None = None
    truncate: bool | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[Integer, Field(ge=0, le=20)] | None = None

    @property
    def streams(self) -> bool:
        return self.stream is not False

    @property
    def answer_schema(self) -> dict[str, Any] | None:
        """What the answer must be: JSON of this schema (an empty one: any object), None: any text."""
        return {} if self.format == "json" else None if self.format == "" else self.format


class CalledFunction(RequestBody):
    name: str
    arguments: dict[str, Any] | None = None


class ToolCall(RequestBody):
    id: str | None = None
    function: CalledFunction


class Message(RequestBody):
    """One message. `images` are base64, without a data URL around it; `tool_name` is that of a tool's result."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    thinking: str | None = None
    images: list[str] | None = None
    tool_calls: list[ToolCall] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class ChatRequest(GeneratingRequest):
    """The body of /api/chat. Without messages it loads the model."""

    messages: list[Message] | None = None
    tools: list[Any] | None = None


class GenerateRequest(GeneratingRequest):
    """The body of /api/generate. Without a prompt it loads the model."""

    prompt: str | None = None
    suffix: str | None = None
    system: str | None = None
    template: str | None = None
    raw: bool | None = None
    images: list[str] | None = None
    context: list[int] | None = None

    @property
    def asks_nothing(self) -> bool:
        return not (self.prompt or self.suffix or self.images)


class EmbedRequest(ModelRequest):
    """The body of /api/embed."""

    input: str | list[str]
    dimensions: Annotated[Integer, Field(ge=0, le=MOST)] | None = None
    options: Options | None = None
    truncate: bool | None = None


class EmbeddingsRequest(ModelRequest):
    """The body of /api/embeddings."""

    prompt: str | None = None
    options: Options | None = None


class ShowRequest(RequestBody):
    """The body of /api/show; `name` is what `model` was called once."""

    model: str | None = None
    name: str | None = None
    verbose: bool | None = None
