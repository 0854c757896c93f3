"""What an entry of models.json may have: the form of one for each engine, with its keys in both spellings."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, create_model
from pydantic.alias_generators import to_camel

from manager.engines.kinds import EngineKind
from manager.entry import HfParams, LlamaParams, ModelParams
from manager.variants_file import FileFilter, FileProfile


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


class FileEntry(BaseModel):
    """One entry of models.json as it stands in the file, whatever its engine."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    params: ModelParams
    template: str | None = Field(
        default=None,
        min_length=1,
        description="A file in the templates folder (with or without .jinja), or, for GGUF models, the name of a "
        "template that llama.cpp knows; else the model's own.",
    )
    personalities: dict[str, str] = Field(
        default_factory=dict, description="System prompts by the name under which clients ask for them."
    )
    request: FileFilter = Field(
        default_factory=FileFilter, description="What is done to the fields of every request for the model."
    )
    profiles: dict[str, FileProfile] = Field(
        default_factory=dict,
        description="Variants of the model under ids of their own, `model:profile`, by name. They need no load.",
    )
    aliases: Annotated[tuple[str, ...], BeforeValidator(_as_tuple)] = Field(
        default=(), description="Other names under which clients may ask for the model."
    )
    engine: str = Field(
        default="llama",
        description="What runs the model: llama (llama.cpp, for GGUF files), hf (transformers, for folders), or an "
        "engine that an installed package brings.",
    )
    description: str | None = Field(default=None, description="A text for people; shown in lists.")
    ttl: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="Seconds without a request after which the model is unloaded; else limits.idle_ttl.",
    )
    pinned: bool = Field(
        default=False,
        description="true: once loaded it stays: never unloaded for being idle or to make room, and started again "
        "where it broke.",
    )
    preload: bool = Field(default=False, description="true: loaded when the service starts, where it fits.")
    concurrency: int | None = Field(
        default=None,
        ge=1,
        description="Most requests that its engine gets at once; else all: an engine queues what exceeds its slots.",
    )
    queue: int | None = Field(
        default=None, ge=0, description="Most requests that wait for it; else limits.queue. One more gets a 429."
    )


class LlamaFileEntry(FileEntry):
    """An entry of a GGUF model."""

    params: LlamaParams = Field(description="The model's file, how it runs, and defaults of its answers.")
    engine: Literal["llama"] = Field(default="llama", description=FileEntry.model_fields["engine"].description)


class HfFileEntry(FileEntry):
    """An entry of a Hugging Face model."""

    params: HfParams = Field(description="The model's folder, how it runs, and defaults of its answers.")
    engine: Literal["hf"] = Field(description=FileEntry.model_fields["engine"].description)


# The keys that an entry and its params may have, by engine. Those of other packages have forms of their own.
FORMS: Final[Mapping[str, type[FileEntry]]] = {"llama": LlamaFileEntry, "hf": HfFileEntry}
PARAMS: Final[Mapping[str, type[LlamaParams] | type[HfParams]]] = {"llama": LlamaParams, "hf": HfParams}


@lru_cache
def own_form(kind: EngineKind) -> type[FileEntry]:
    """That of another package's engine."""
    return create_model("OwnFileEntry", __base__=FileEntry, params=(kind.params, ...))


@lru_cache
def spellings(model: type[BaseModel]) -> dict[str, str]:
    """Both spellings of each key, with the name of its field."""
    return {spelling: name for name in model.model_fields for spelling in (name, to_camel(name))}
