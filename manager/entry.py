"""What the service knows of one model before it runs: its parameters, template, personalities and file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from manager.errors import ModelNotFound
from manager.mistakes import did_you_mean, shown

CacheType = Literal["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1"]


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _on_off(value: Any) -> Any:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


class Lora(BaseModel):
    """A LoRA adapter and how strongly it counts."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    path: str = Field(min_length=1, description="GGUF file of the adapter, as params.model is given.")
    scale: float = Field(default=1.0, allow_inf_nan=False, description="How strongly the adapter counts.")


def _as_loras(value: Any) -> Any:
    items = value if isinstance(value, list | tuple) else [value]
    return tuple(
        Lora(path=item) if isinstance(item, str) else Lora(**item) if isinstance(item, dict) else item for item in items
    )


class LlamaParams(BaseModel):
    """How a GGUF model runs and answers. What is left out is for the settings to say, and then for llama.cpp."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())

    model: str = Field(
        min_length=1,
        description="GGUF file, relative to the models folder (`/` or `\\` between folders) or absolute; "
        "of a split model the first part.",
    )
    mmproj: str | None = Field(
        default=None, min_length=1, description="GGUF file of the vision projector; makes this a vision model."
    )
    instruct: bool = Field(default=True, description="false: a base model, which completes text but does not chat.")

    temperature: float | None = Field(default=None, ge=0, description="Default sampling temperature; 0 is greedy.")
    top_k: int | None = Field(default=None, ge=-1, description="Default: keep the k likeliest tokens; 0 keeps all.")
    top_p: float | None = Field(default=None, ge=0, le=1, description="Default nucleus probability; 1 keeps all.")
    min_p: float | None = Field(
        default=None, ge=0, le=1, description="Default least probability relative to the likeliest token."
    )
    typical_p: float | None = Field(
        default=None, ge=0, le=1, description="Default locally typical probability; 1 is off."
    )
    repeat_penalty: float | None = Field(default=None, gt=0, description="Default repetition penalty; 1 is off.")
    repeat_last_n: int | None = Field(
        default=None, ge=-1, description="How many last tokens the penalties look at; -1: the whole context, 0: none."
    )
    presence_penalty: float | None = Field(default=None, ge=-2, le=2, description="Default presence penalty; 0 is off.")
    frequency_penalty: float | None = Field(
        default=None, ge=-2, le=2, description="Default frequency penalty; 0 is off."
    )
    seed: int | None = Field(default=None, ge=-1, lt=2**32, description="Default seed; -1 draws one per request.")
    n_predict: int | None = Field(default=None, ge=-1, description="Default for max_tokens; -1: until the model stops.")

    ctx_size: int | None = Field(
        default=None,
        ge=0,
        description="Context window of one conversation, in tokens; 0: the one the model was trained with.",
    )
    parallel: int = Field(default=2, ge=1, le=256, description="Requests that are answered at the same time (slots).")
    kv_unified: bool = Field(
        default=False,
        description="false: every slot has a cache of ctx_size tokens of its own, which takes `parallel` times the "
        "memory. true: the slots share one cache of ctx_size tokens, and requests fail where together they need more.",
    )
    gpu_layers: int | None = Field(default=None, ge=-1, description="Layers that are kept on the GPU; -1: all.")
    threads: int | None = Field(default=None, ge=-1, description="Threads that generate; 0 or -1: llama.cpp chooses.")
    threads_batch: int | None = Field(default=None, ge=-1, description="Threads that read prompts; else as threads.")
    batch_size: int | None = Field(default=None, ge=1, description="Most prompt tokens of one logical batch.")
    ubatch_size: int | None = Field(default=None, ge=1, description="Most prompt tokens of one physical batch.")
    cache_type_k: CacheType | None = Field(default=None, description="Type of the cache's keys.")
    cache_type_v: CacheType | None = Field(
        default=None, description="Type of the cache's values; quantised needs flash_attn."
    )
    flash_attn: Annotated[
        Literal["on", "off", "auto"] | None,
        BeforeValidator(_on_off, json_schema_input_type=Literal["on", "off", "auto"] | bool | None),
    ] = Field(default=None, description="Flash attention; true and false mean on and off.")
    mlock: bool | None = Field(default=None, description="true: keep the model from being swapped out.")
    mmap: bool | None = Field(default=None, description="false: read the file into memory and don't map it.")
    main_gpu: int | None = Field(default=None, ge=0, description="The GPU that is used with split_mode none.")
    split_mode: Literal["none", "layer", "row", "tensor"] | None = Field(
        default=None, description="How a model is spread over several GPUs."
    )
    tensor_split: Annotated[tuple[Annotated[float, Field(ge=0)], ...] | None, BeforeValidator(_as_tuple)] = Field(
        default=None, description="Share of the model per GPU, such as [3, 1]."
    )
    device: str | None = Field(
        default=None,
        min_length=1,
        description="Devices to use, separated by commas, as llama-server --list-devices names them.",
    )
    rope_freq_base: float | None = Field(default=None, ge=0, description="RoPE base frequency.")
    rope_freq_scale: float | None = Field(default=None, ge=0, description="RoPE frequency scale.")
    lora: Annotated[
        tuple[Lora, ...], BeforeValidator(_as_loras, json_schema_input_type=str | Lora | tuple[str | Lora, ...])
    ] = Field(default=(), description="LoRA adapters: paths, or objects with path and scale.")
    embedding: bool = Field(default=False, description="true: the model makes embeddings and does not chat.")
    pooling: Literal["none", "mean", "cls", "last", "rank"] | None = Field(
        default=None, description="How token embeddings become one; else as the model says."
    )
    reranking: bool = Field(default=False, description="true: the model ranks documents and does not chat.")
    cache_ram_mib: int | None = Field(
        default=None, ge=-1, description="Memory for prompts of earlier conversations, in MiB; -1: no limit, 0: none."
    )
    context_shift: bool | None = Field(
        default=None, description="true: when the window is full, the oldest tokens go and generation continues."
    )
    jinja: bool | None = Field(
        default=None, description="false: llama.cpp's own rendering of templates instead of Jinja."
    )
    draft_model: str | None = Field(
        default=None,
        min_length=1,
        description="GGUF file of a small model with the same vocabulary that drafts tokens for this one to check "
        "(speculative decoding).",
    )
    draft_max: int | None = Field(default=None, ge=0, description="Most tokens that are drafted at a time.")
    draft_min: int | None = Field(default=None, ge=0, description="Least tokens of a draft that is checked.")
    draft_gpu_layers: int | None = Field(
        default=None, ge=-1, description="Layers of the drafting model that are kept on the GPU; -1: all."
    )
    extra_args: Annotated[tuple[str, ...], BeforeValidator(_as_tuple)] = Field(
        default=(), description="More arguments for llama-server; only the native launcher can honour them."
    )


@dataclass(frozen=True, slots=True)
class Template:
    """A chat template: a name that llama.cpp knows, or a Jinja file; exactly one of the two.

    `changed`: when the file was, in nanoseconds since the epoch, so that a file with a new text is another template.
    """

    builtin: str | None = None
    file: Path | None = None
    changed: int = 0

    def __post_init__(self) -> None:
        if (self.builtin is None) == (self.file is None):
            raise ValueError("a template is a built-in name or a file")


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One model that can be served. Paths are absolute; `created` is in seconds since the epoch.

    `ttl`: seconds without a request after which it is unloaded, None where only somebody's wish unloads it.
    `concurrency`: most requests at once, None where the engine queues by itself; `queue`: most that wait.
    `stamps`: of each of its files when it was changed and its size, so that an entry with other files is another one.
    `unavailable` says why it can't be loaded here; None where nothing is known against it.
    """

    name: str
    path: Path
    params: LlamaParams
    engine: str = "llama"
    template: Template | None = None
    personalities: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    aliases: tuple[str, ...] = ()
    mmproj: Path | None = None
    description: str | None = None
    ttl: float | None = None
    pinned: bool = False
    preload: bool = False
    concurrency: int | None = None
    queue: int | None = None
    source: str = "models.json"
    created: int = 0
    stamps: tuple[tuple[int, int], ...] = ()
    unavailable: str | None = None

    def personality(self, name: str) -> str:
        """The system prompt of that personality. Raises ModelNotFound with the nearest name."""
        text = self.personalities.get(name)
        if text is None:
            raise ModelNotFound(
                f"The model {shown(self.name)} has no personality {shown(name)}"
                f"{did_you_mean(name, self.personalities)}",
                param="personality",
            )
        return text
