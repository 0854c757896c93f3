"""The bodies of Ollama's requests. Fields that are not here are let through and mean nothing, as in Ollama."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field

from routes.parsing import RequestBody
from routes.schema.answer import example
from routes.schema.generation import MOST, MOST_BACK

# As Go writes durations: 90, 5m, 1h30m, -1.
_DURATION: Final = re.compile(r"[+-]?(?:\d+(?:\.\d+)?|(?:(?:\d+(?:\.\d*)?|\.\d+)(?:ns|us|µs|ms|s|m|h))+)")


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
    repeat_last_n: Annotated[Integer, Field(ge=-1, le=MOST_BACK)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    mirostat: Annotated[Integer, Field(ge=0, le=2)] | None = None
    mirostat_tau: Annotated[float, Field(ge=0)] | None = None
    mirostat_eta: Annotated[float, Field(ge=0)] | None = None
    seed: Annotated[Integer, Field(ge=-(2**53), le=2**53)] | None = None
    stop: str | list[str] | None = None


class ModelRequest(RequestBody):
    """What every request that needs a model may have. `model` may be left out, which means the default one."""

    model: str | None = Field(None, description="A name of the catalog or an alias, `:latest` behind it or not.")
    keep_alive: KeepAlive = Field(
        None, description="0 without a prompt unloads the model; else how long it stays is its entry's to say."
    )

    @property
    def ends_at_once(self) -> bool:
        """Whether the model is not to be kept at all, which without a prompt means: unload it."""
        wanted = self.keep_alive
        return not any(digit in wanted for digit in "123456789") if isinstance(wanted, str) else wanted == 0


class GeneratingRequest(ModelRequest):
    """What /api/chat and /api/generate have in common."""

    stream: bool | None = Field(None, description="False: one answer instead of lines.")
    format: Literal["", "json"] | dict[str, Any] | None = Field(
        None, description="What the answer must be: `json`, or what fits this JSON schema."
    )
    options: Options | None = None
    think: bool | Literal["low", "medium", "high"] | None = Field(
        None, description="Whether the model thinks before it answers, and how hard."
    )
    truncate: bool | None = Field(None, description="Drop the oldest turns where the window is too small for them.")
    logprobs: bool | None = Field(None, description="Tell the logarithms of the tokens' probabilities.")
    top_logprobs: Annotated[Integer, Field(ge=0, le=20)] | None = Field(
        None, description="Of how many tokens at each place."
    )

    @property
    def streams(self) -> bool:
        return self.stream is not False

    @property
    def answer_schema(self) -> dict[str, Any] | None:
        """What the answer must be: JSON of this schema (an empty one: any object), None: any text."""
        return {} if self.format == "json" else None if self.format == "" else self.format


class CalledFunction(RequestBody):
    """The function that the assistant called."""

    name: str
    arguments: dict[str, Any] | None = None


class ToolCall(RequestBody):
    """A call of a tool by the assistant; one without an `id` gets one."""

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

    model_config = ConfigDict(
        json_schema_extra=example(messages=[{"role": "user", "content": "Say hello."}], options={"num_predict": 32})
    )

    messages: list[Message] | None = Field(None, description="The conversation, oldest first.")
    tools: list[Any] | None = Field(None, description="What the model may call, in OpenAI's form.")


class GenerateRequest(GeneratingRequest):
    """The body of /api/generate. Without a prompt it loads the model."""

    model_config = ConfigDict(json_schema_extra=example(prompt="Say hello.", options={"num_predict": 32}))

    prompt: str | None = Field(None, description="What to answer; with `raw` what to go on with.")
    suffix: str | None = Field(None, description="Fill the gap between `prompt` and this.")
    system: str | None = Field(None, description="The system message before the prompt.")
    template: str | None = None
    raw: bool | None = Field(None, description="Put no template around the prompt.")
    images: list[str] | None = Field(None, description="Base64, without a data URL around it.")
    context: list[int] | None = None

    @property
    def asks_nothing(self) -> bool:
        return not (self.prompt or self.suffix or self.images)


class EmbedRequest(ModelRequest):
    """The body of /api/embed."""

    model_config = ConfigDict(json_schema_extra=example(input=["one text", "another"]))

    input: str | list[str] = Field(description="A text or several; none of them loads the model.")
    dimensions: Annotated[Integer, Field(ge=0, le=MOST)] | None = Field(
        None, description="Cut the vectors to this length; 0: don't."
    )
    options: Options | None = None
    truncate: bool | None = None


class EmbeddingsRequest(ModelRequest):
    """The body of /api/embeddings."""

    model_config = ConfigDict(json_schema_extra=example(prompt="one text"))

    prompt: str | None = Field(None, description="The text; an empty one loads the model.")
    options: Options | None = None


class ShowRequest(RequestBody):
    """The body of /api/show; `name` is what `model` was called once."""

    model_config = ConfigDict(json_schema_extra=example(verbose=False))

    model: str | None = None
    name: str | None = None
    verbose: bool | None = None


class PullRequest(RequestBody):
    """The body of /api/pull; `name` is what `model` was called once."""

    model_config = ConfigDict(json_schema_extra=example(stream=False))

    model: str | None = Field(None, description="`hf.co/org/repo:QUANT`, or a name of the catalog.")
    name: str | None = None
    stream: bool | None = Field(None, description="False: one answer at the end instead of lines.")
    insecure: bool | None = None
