"""Ollama's answers as models, for /openapi.json: durations in nanoseconds, sizes in bytes, times RFC 3339 in UTC."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class Shape(BaseModel):
    """An answer, or a part of one. A field with a default may be missing."""

    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())


class Version(Shape):
    """The version of Ollama whose API this is."""

    version: str


class Details(Shape):
    """What a model's files say of it; texts are empty where they say nothing."""

    parent_model: str
    format: str
    family: str
    families: list[str]
    parameter_size: str
    quantization_level: str


class ListedModel(Shape):
    """A model that can be loaded. `digest` changes when its files do; it is not their hash."""

    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: Details


class ModelList(Shape):
    """The models that can be loaded."""

    models: list[ListedModel]


class RunningModel(Shape):
    """A model that is loaded. `size`: of all its memory; `size_vram`: of that, what is on GPUs."""

    name: str
    model: str
    size: int
    digest: str
    details: Details
    expires_at: str
    size_vram: int
    context_length: int


class RunningList(Shape):
    """The models that are loaded."""

    models: list[RunningModel]


class ShownModel(Shape):
    """What a model is like. `model_info` are the values of a GGUF's header."""

    modelfile: str
    parameters: str
    template: str
    license: str
    modified_at: str
    details: Details
    model_info: dict[str, Any]
    capabilities: list[Literal["completion", "tools", "insert", "vision", "thinking", "embedding"]]


class Function(Shape):
    """A function that the model calls; `index` counts the calls of an answer."""

    index: int
    name: str
    arguments: dict[str, Any]


class Call(Shape):
    """A call of a tool."""

    id: str
    function: Function


class AnswerMessage(Shape):
    """What the model says; in a stream, the next part of it."""

    role: Literal["assistant"]
    content: str
    thinking: str | None = None
    tool_calls: list[Call] | None = None


class Line(Shape):
    """An answer, or a line of a stream; the last one is `done` and has all fields but the texts' own."""

    model: str
    created_at: str
    done: bool
    done_reason: Literal["stop", "length", "load", "unload"] | None = None
    total_duration: int | None = None
    load_duration: int | None = None
    prompt_eval_count: int | None = None
    prompt_eval_duration: int | None = None
    eval_count: int | None = None
    eval_duration: int | None = None
    logprobs: list[dict[str, Any]] | None = None


class ChatAnswer(Line):
    """An answer of a chat, or a line of its stream."""

    message: AnswerMessage


class GenerateAnswer(Line):
    """How a prompt goes on, or a line of its stream."""

    response: str
    thinking: str | None = None


class EmbedAnswer(Shape):
    """The vectors, in the order of the inputs."""

    model: str
    embeddings: list[list[float]]
    total_duration: int
    load_duration: int
    prompt_eval_count: int


class EmbeddingsAnswer(Shape):
    """The vector of the prompt."""

    embedding: list[float]


class PullLine(Shape):
    """How far a pull is, in bytes; the last line has the status `success`, or an `error` alone."""

    status: str | None = None
    digest: str | None = None
    total: int | None = None
    completed: int | None = None
    error: str | None = None
