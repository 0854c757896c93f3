"""Settings: every knob of the service, typed, with default and meaning. Where values come from: settings_layers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from manager.errors import ConfigError
from manager.mistakes import did_you_mean, problem
from manager.settings_layers import KeyPath, Layer, YamlLayer, dotenv_layer, environment_layer
from manager.settings_types import AbsolutePath, Int, Number, Origin, Seconds, Text, Verbosity, lower, upper


def _in_data(name: str) -> Any:
    return lambda values: values["data_folder"] / name


def _cache_folder() -> Path:
    # An empty or relative XDG_CACHE_HOME counts as not set (XDG Base Directory Specification).
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".cache") / "llamaherd"


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class ServerSettings(Section):
    host: Text = Field(
        default="127.0.0.1", description="Address to listen on; other than loopback only with a key stored."
    )
    port: Int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    log_level: Annotated[Literal["debug", "info", "warning", "error", "critical"], BeforeValidator(lower)] = Field(
        default="info", description="Least level of log lines that are kept."
    )
    access_log: bool = Field(default=True, description="Whether every request gets a log line.")
    drain_timeout: Seconds = Field(
        default=30.0,
        description="Seconds that running requests may take to end when a model is unloaded or the service stops.",
    )
    max_body: Int = Field(default=32 * 1024 * 1024, ge=1024, description="Largest request body in bytes.")


class CorsSettings(Section):
    allowed_origins: list[Origin] = Field(
        default_factory=list, description="Origins of web pages that may use the API; '*' is every one."
    )


class ModelSettings(Section):
    """The default model, and defaults of every llama model that does not say its own."""

    name: Text | None = Field(default=None, description="Name of the default model; with path, the name of that model.")
    path: AbsolutePath | None = Field(
        default=None, description="GGUF file of one model that is served beside models.json."
    )
    mmproj: AbsolutePath | None = Field(default=None, description="Vision projector (GGUF) of that model.")
    type: Annotated[Literal["LLM", "VL"], BeforeValidator(upper)] = Field(
        default="LLM",
        description="VL: that model sees images and needs path and mmproj. LLM: text only, mmproj is left out.",
    )
    ctx_size: Int | None = Field(
        default=None, ge=0, description="Context window in tokens; 0: the one it was trained with."
    )
    gpu_layers: Int | None = Field(default=None, ge=-1, description="Layers on the GPU; -1: all.")
    batch_size: Int | None = Field(default=None, ge=1, description="Most prompt tokens of one logical batch.")
    threads: Int | None = Field(default=None, ge=-1, description="Threads that generate; 0 or -1: llama.cpp chooses.")

    @model_validator(mode="before")
    @classmethod
    def _projector_means_vision(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("type") is None and values.get("mmproj") is not None:
            return values | {"type": "VL"}
        return values

    @model_validator(mode="after")
    def _complete(self) -> ModelSettings:
        if self.type == "VL" and (self.path is None or self.mmproj is None):
            raise ValueError("type VL needs both path and mmproj (MODEL_PATH, MMPROJ_PATH)")
        return self


class GenerationSettings(Section):
    """Defaults of every model that does not say its own."""

    default_temperature: Number | None = Field(
        default=None, ge=0, description="Temperature of requests that give none."
    )
    default_max_tokens: Int | None = Field(
        default=None, ge=-1, description="Most tokens of an answer to a request that gives no limit; -1: no limit."
    )


class StorageSettings(Section):
    data_folder: AbsolutePath = Field(
        default=Path("data"), description="Folder of the files below, where they are not set."
    )
    models_file: AbsolutePath = Field(
        default_factory=_in_data("models.json"), description="The models; default: models.json in data_folder."
    )
    keys_file: AbsolutePath = Field(
        default_factory=_in_data("keys.json"), description="Digests of the keys; default: keys.json in data_folder."
    )
    templates_folder: AbsolutePath = Field(
        default_factory=_in_data("templates"), description="Chat templates; default: templates in data_folder."
    )
    models_folder: AbsolutePath = Field(
        default_factory=_in_data("models"),
        description="Folder that paths in models.json are relative to; default: models in data_folder.",
    )
    memory_file: AbsolutePath = Field(
        default_factory=_in_data("memory.json"),
        description="What models really took, by which estimates are corrected; default: memory.json in data_folder.",
    )
    watch: bool = Field(
        default=True,
        description="Whether models_file, templates and model folders are read again when they change.",
    )
    run_folder: AbsolutePath = Field(
        default_factory=_in_data("run"), description="Sockets of running models; default: run in data_folder."
    )
    slots_folder: AbsolutePath = Field(
        default_factory=_in_data("slots"),
        description="KV caches of unloaded models, with what was said in them; default: slots in data_folder.",
    )
    slots_budget: Int = Field(
        default=4 * 1024**3,
        ge=0,
        description="Bytes that slots_folder may hold, the oldest go first; 0: nothing is saved, a load begins cold.",
    )
    cache_folder: AbsolutePath = Field(
        default_factory=_cache_folder,
        description="Downloads and built binaries; default: llamaherd in $XDG_CACHE_HOME or ~/.cache.",
    )
    gguf_models_dir: AbsolutePath | None = Field(
        default=None, description="Every GGUF file below this folder is a model."
    )
    hf_models_dir: AbsolutePath | None = Field(
        default=None, description="Every folder with a config.json below this folder is a Hugging Face model."
    )


class LlamaSettings(Section):
    launcher: Annotated[Literal["auto", "native", "embedded"], BeforeValidator(lower)] = Field(
        default="auto",
        description="native: a compiled llama-server; embedded: llama.cpp from the Python wheel; auto: native where "
        "there is one.",
    )
    binary: AbsolutePath | None = Field(
        default=None, description="The llama-server to use; else PATH and the cache are searched."
    )
    log_level: Verbosity = Field(
        default=None, description="What llama.cpp logs: error, warning, info, trace or debug, or its verbosity 0 to 5."
    )
    cuda_visible_devices: str | None = Field(
        default=None, description="CUDA_VISIBLE_DEVICES of the models' processes; else theirs is that of the service."
    )


class MemorySettings(Section):
    """What models may take together. Sizes in bytes."""

    admission: bool = Field(
        default=True,
        description="Whether a model is only loaded where its estimate fits; false: every load is tried.",
    )
    host_budget: Int | None = Field(
        default=None, ge=0, description="Most of the host's memory for all models; else what is free less host_reserve."
    )
    gpu_budget: Int | None = Field(
        default=None, ge=0, description="Most of each GPU's memory for all models; else what is free less gpu_reserve."
    )
    host_reserve: Int = Field(
        default=512 * 1024**2, ge=0, description="Host memory that is left to others where host_budget is not set."
    )
    gpu_reserve: Int = Field(
        default=256 * 1024**2, ge=0, description="Memory of each GPU that is left to others without gpu_budget."
    )


class Group(Section):
    """Models that are not to run in any combination."""

    models: tuple[Text, ...] = Field(min_length=1, description="Names of the models.")
    most: Int | None = Field(
        default=None, ge=1, description="Most of them that are loaded at once; 1: they exclude each other."
    )
    exclusive: bool = Field(
        default=False, description="true: while one of them is loaded, no model from outside the group is."
    )

    @model_validator(mode="after")
    def _says_something(self) -> Group:
        if self.most is None and not self.exclusive:
            raise ValueError("a group needs 'most' or 'exclusive: true'; without them it does nothing")
        return self


class SchedulingSettings(Section):
    """Which models run when not all of them fit."""

    policy: Annotated[Literal["gdsf", "lru"], BeforeValidator(lower)] = Field(
        default="gdsf",
        description="Which idle model goes first: gdsf weighs load time, size and use; lru the one longest unused.",
    )
    most_loaded: Int | None = Field(default=None, ge=1, description="Most models that are loaded at once.")
    batch_window: Seconds = Field(
        default=10.0,
        description="Seconds that a model which is in use may go on taking requests while others wait for its place.",
    )
    linger: Seconds = Field(
        default=0.25,
        description="Seconds that a model stays after its last request before it gives its place to others, "
        "within batch_window.",
    )
    groups: dict[Text, Group] = Field(
        default_factory=dict, description="Models that exclude each other, by the name of their group."
    )
    home: Text | None = Field(
        default=None, description="Name of a model that is loaded again when nothing else is in use."
    )
    home_after: Seconds = Field(default=60.0, description="Seconds without a request after which that happens.")


class LimitsSettings(Section):
    load_timeout: Seconds = Field(default=300.0, description="Seconds that loading a model may take.")
    wait_timeout: Seconds = Field(default=300.0, description="Seconds that a request waits for its model.")
    stream_heartbeat: Seconds = Field(
        default=5.0, description="Seconds between SSE comments of a stream that waits for its model."
    )
    idle_ttl: Seconds | None = Field(
        default=None, description="Seconds without a request after which a model is unloaded; else it stays."
    )
    stop_grace: Seconds = Field(default=5.0, description="Seconds between asking a process to stop and killing it.")
    queue: Int = Field(
        default=256, ge=0, description="Most requests that wait for one model; one more is answered with 429."
    )
    hang_timeout: Seconds | None = Field(
        default=120.0,
        description="Seconds after which an engine that neither answers nor works is ended; null: never.",
    )


class Settings(BaseSettings):
    """All settings, checked. `Settings()` reads like load_settings(), which words mistakes and is what to call."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid")

    config_path: AbsolutePath | None = Field(default=None, description="The YAML file that was read.")
    server: ServerSettings = Field(default_factory=ServerSettings)
    cors: CorsSettings = Field(default_factory=CorsSettings)
    model: ModelSettings = Field(default_factory=ModelSettings)
    generation: GenerationSettings = Field(default_factory=GenerationSettings)
    storage: StorageSettings = Field(default_factory=StorageSettings)
    llama: LlamaSettings = Field(default_factory=LlamaSettings)
    memory: MemorySettings = Field(default_factory=MemorySettings)
    scheduling: SchedulingSettings = Field(default_factory=SchedulingSettings)
    limits: LimitsSettings = Field(default_factory=LimitsSettings)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings, *_layers(settings_cls, init_settings()))


def load_settings(overrides: Mapping[str, Any] | None = None) -> Settings:
    """Overrides (command line) over environment over .env over the YAML file at CONFIG_PATH over defaults.

    `overrides` is {section: {key: value}} and may hold `config_path`; a value of None is no value.
    Raises one ConfigError that names the place of every mistake.
    """
    given = _without_none(overrides or {})
    try:
        return Settings(**given)
    except ValidationError as error:
        raise ConfigError(_worded(error, given)) from None


def _layers(settings_cls: type[BaseSettings], given: Mapping[str, Any]) -> tuple[Layer, ...]:
    environment = environment_layer(settings_cls, os.environ)
    dotenv = dotenv_layer(settings_cls)
    layers = (given, environment.values, dotenv.values)
    path = next((values["config_path"] for values in layers if values.get("config_path")), None)
    return environment, dotenv, YamlLayer(settings_cls, None if path is None else Path(path).expanduser())


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _without_none(value) if isinstance(value, Mapping) else value
        for key, value in values.items()
        if value is not None
    }


def _worded(error: ValidationError, given: Mapping[str, Any]) -> str:
    layers = _layers(Settings, given)
    lines = []
    for detail in error.errors():
        if detail["type"] == "default_factory_not_called":
            continue  # follows from another mistake in the list
        key = tuple(str(part) for part in detail["loc"])[:2]
        place = _place(key, given, layers)
        setting = ".".join(key)
        if place and not place.endswith(setting):
            setting = f"{place}: {setting}"
        elif place:
            setting = place
        hint = _hint(key) if detail["type"] == "extra_forbidden" else ""
        lines.append(f"{setting}: {problem(detail)}{hint}")
    return "\n".join(dict.fromkeys(lines))


def _place(key: KeyPath, given: Mapping[str, Any], layers: tuple[Layer, ...]) -> str:
    """Where the value comes from. A whole section's mistake comes from all the places that set its keys."""
    section = given.get(key[0])
    if key[0] in given and (len(key) == 1 or not isinstance(section, Mapping) or key[1] in section):
        return "command line"
    places = [place for layer in layers for place in sorted(layer.places(key))]
    return ", ".join(places) if len(key) == 1 else next(iter(places), "")


def _hint(key: tuple[str, ...]) -> str:
    if len(key) == 1:
        return did_you_mean(key[0], Settings.model_fields)
    section = Settings.model_fields[key[0]].annotation
    return did_you_mean(key[1], getattr(section, "model_fields", ()), prefix=f"{key[0]}.")
