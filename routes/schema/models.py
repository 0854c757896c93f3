"""Models, and loading and unloading them: the routes of OpenAI's API and of the original."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel

from manager.state import ModelState
from routes.parsing import RequestBody
from routes.schema.answer import Answer, example


class Model(Answer):
    """A model that can be served."""

    id: str
    object: Literal["model"]
    created: int = Field(description="Seconds since the epoch.")
    owned_by: str
    root: str = Field(description="The name of its file or folder.")
    backend: str = Field(description="`gguf`, `hf`, or the name of another engine.")
    state: ModelState
    aliases: list[str]
    personalities: list[str]
    profiles: list[str]
    context_length: int | None = Field(description="How many tokens a conversation may have; null: not known.")
    input_modalities: list[Literal["text", "image"]] = Field(description="What it takes.")
    tasks: list[Literal["chat", "completion", "embedding", "rerank"]] = Field(description="What it can be asked for.")
    parent: str | None = Field(None, description="Of a profile: its model.")
    description: str | None = None
    unavailable: str | None = Field(None, description="Why it can't be loaded.")


class ModelList(Answer):
    """Every model that the caller may use."""

    object: Literal["list"]
    data: list[Model]


class LoadedModels(RootModel[list[str]]):
    """The names of the models that are loaded now."""


class LoadRequest(RequestBody):
    """A model to load."""

    model_config = ConfigDict(json_schema_extra=example(model="smollm2-135m-instruct"))

    model: str = Field(min_length=1, description="A name of the catalog, an alias, or `model:personality`.")
    personality: str | None = Field(None, description="One of its personalities, for requests that name none.")


class Loaded(Answer):
    """A model was loaded."""

    message: str
    model: str
    personality: str | None


class UnloadQuery(BaseModel):
    """Which model to unload."""

    model: str | None = Field(None, description="Left out: the active model.")


class Unloaded(Answer):
    """A model was unloaded."""

    message: str
    model: str | None = Field(description="Null where none was loaded.")


class AskQuery(BaseModel):
    """A question to the active model."""

    question: str = Field(min_length=1, description="What to ask.", examples=["Why is the sky blue?"])
    stream: bool = Field(False, description="Answer with events of `response`, then `[DONE]`.")
    model: str | None = Field(None, description="Another model than the active one.")


class Asked(Answer):
    """The question and what the model says to it."""

    question: str
    response: str


class AskedFragment(Answer):
    """What has been added to the answer."""

    response: str


class RecordedError(Answer):
    """A failure of a model."""

    time: float = Field(description="Seconds since the epoch.")
    model: str
    code: str
    message: str
    log: list[str] = Field(description="The last lines of its engine; empty but for administrators.")


class RecordedErrors(Answer):
    """The failures that are kept, newest last."""

    errors: list[RecordedError]


class Health(Answer):
    """The service answers."""

    status: Literal["ok"]
    default_model: str | None = Field(description="Only to the holder of a key.")
    models: list[str] = Field(description="Only to the holder of a key.")


class ModelHealth(Answer):
    """A loaded model."""

    id: str
    state: ModelState
    healthy: bool = Field(description="Whether its engine says in good time that it is well.")


class ModelsHealth(Answer):
    """The service answers, and this is how its loaded models are."""

    status: Literal["ok", "degraded"] = Field(description="`degraded`: a model is not healthy.")
    models: list[ModelHealth]


class ServiceState(Answer):
    """What the service does now."""

    status: Literal["idle", "loading", "ready", "unloading", "error"]
    info: str = Field(description="The same in a sentence.")
    models: list[str] = Field(description="The models that are loaded.")
