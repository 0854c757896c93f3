"""The sections of the settings: every knob with its default and meaning. The front door's: settings_server."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SecretStr, model_validator

from manager.settings_types import (
    AbsolutePath,
    HttpUrl,
    Int,
    Number,
    Seconds,
    Section,
    Text,
    Verbosity,
    lower,
    none_if_empty,
    upper,
)


def _in_data(name: str) -> Any:
    return lambda values: values["data_folder"] / name


def _cache_folder(values: dict[str, Any]) -> Path:
    # An empty or relative XDG_CACHE_HOME counts as not set (XDG Base Directory Specification).
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        return (Path(base) if base.startswith("/") else Path.home() / ".cache") / "llamaherd"
    except RuntimeError:  # a user without a home, as that of a container may be
        folder: Path = values["data_folder"] / "cache"
        return folder


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
    usage_file: AbsolutePath = Field(
        default_factory=_in_data("usage.sqlite"),
        description="Requests and tokens by hour, key and model; default: usage.sqlite in data_folder.",
    )
    usage_days: Int = Field(default=400, ge=1, description="Days after which usage is forgotten.")
    audit_file: AbsolutePath = Field(
        default_factory=_in_data("audit.log"),
        description="What administrators did, a JSON object a line; default: audit.log in data_folder.",
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
        default=None,
        description="The llama-server to use; else the one chosen by `llamaherd llama use`, one on PATH, or the newest "
        "build.",
    )
    log_level: Verbosity = Field(
        default=None, description="What llama.cpp logs: error, warning, info, trace or debug, or its verbosity 0 to 5."
    )
    cuda_visible_devices: str | None = Field(
        default=None, description="CUDA_VISIBLE_DEVICES of the models' processes; else theirs is that of the service."
    )
    placement: Annotated[Literal["single", "split"], BeforeValidator(lower)] = Field(
        default="single",
        description="Where a model goes that names no device, with several GPUs. single: on the one where it fits "
        "best, over all of them only where it fits on none; split: over all of them.",
    )


class ChildSettings(Section):
    """What the system holds the processes of models to. Linux only, but for open_files and core_dumps."""

    no_new_privileges: bool = Field(
        default=True, description="Whether they can gain no rights, as by a setuid program (no_new_privs)."
    )
    core_dumps: bool = Field(default=False, description="Whether a crash leaves an image of memory, prompts included.")
    open_files: Int | None = Field(default=None, ge=64, description="Most files and sockets of each (RLIMIT_NOFILE).")
    address_space: Int | None = Field(
        default=None,
        ge=1024**2,
        description="Most bytes of addresses of each (RLIMIT_AS), mapped model files included; not with CUDA.",
    )
    cgroup: AbsolutePath | None = Field(
        default=None, description="Folder of a cgroup (v2) that they are put into, writable by the service."
    )


class MediaSettings(Section):
    """Images that a request names by a URL. `data:` URLs are always taken, `http:` and `file:` never."""

    remote: bool = Field(
        default=False, description="Whether the service fetches https URLs, from public addresses only."
    )
    max_size: Int = Field(default=16 * 1024**2, ge=1024, description="Largest image that is fetched, in bytes.")
    timeout: Seconds = Field(default=15.0, description="Seconds that fetching the images of a request may take.")
    most: Int = Field(default=16, ge=1, description="Most images of a request that are fetched.")


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


class HubSettings(Section):
    """Whence `llamaherd model pull` and /admin/models/pull fetch models."""

    endpoint: HttpUrl = Field(default="https://huggingface.co", description="Address of the model hub.")
    mirrors: list[HttpUrl] = Field(
        default_factory=list, description="Addresses of hubs with the same models, tried in turn where that one fails."
    )
    token: SecretStr | None = Field(
        default=None, description="Access token of the hub, for models that are not open; sent to endpoint only."
    )
    timeout: Seconds = Field(default=30.0, description="Seconds without a byte after which a download is tried again.")


class LogSettings(Section):
    """Where log lines go besides standard error. Their level is server.log_level."""

    format: Annotated[Literal["text", "json"], BeforeValidator(lower)] = Field(
        default="text", description="Form of a log line: text, or a JSON object."
    )
    folder: Annotated[AbsolutePath | None, BeforeValidator(none_if_empty)] = Field(
        default=Path("applogs"),
        description="Folder of main.log and of one file for each model; null, or an empty variable: no files.",
    )
    max_size: Int = Field(
        default=10 * 1024**2,
        ge=1024,
        description="Size in bytes at which a file is put away as .1 and a new one begun.",
    )
    keep: Int = Field(default=5, ge=0, description="How many files that were put away are kept, of each log.")


class ActivitySettings(Section):
    """What is remembered of requests, in memory alone, for administrators to look at."""

    history: Int = Field(
        default=500, ge=1, le=1_000_000, description="Requests that are remembered after their end, the newest."
    )
    capture: bool = Field(
        default=False,
        description="Whether bodies of requests and answers are captured, prompts included, without keys and cookies.",
    )
    capture_size: Int = Field(
        default=256 * 1024, ge=1, le=4 * 1024**2, description="Most bytes that are captured of a body."
    )
    capture_keep: Int = Field(default=50, ge=1, le=1_000_000, description="Most captures; the oldest go first.")
    sample_every: Seconds = Field(
        default=5.0, ge=0.1, description="Seconds between samples of requests, tokens and memory."
    )
    samples: Int = Field(default=720, ge=1, le=1_000_000, description="Samples that are kept, the newest.")


class LimitsSettings(Section):
    load_timeout: Seconds = Field(default=300.0, description="Seconds that loading a model may take.")
    wait_timeout: Seconds = Field(default=300.0, description="Seconds that a request waits for its model.")
    stream_heartbeat: Seconds = Field(
        default=5.0, description="Seconds of silence after which a stream gets a comment, so that nothing cuts it off."
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
