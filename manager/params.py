"""What can be said of one model: how it runs and the defaults of its answers, for each of the engines."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

CacheType = Literal["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1"]

# Those that have a name in transformers. For any other it would look for a repository with code.
Attention = Literal["eager", "sdpa", "flex_attention", "flash_attention_2", "flash_attention_3", "flash_attention_4"]


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


def _device_map(value: Any) -> Any:
    if isinstance(value, str) and value.strip():
        return value
    if isinstance(value, dict) and value and all(_is_device(device) for device in value.values()):
        return value
    raise ValueError("should be a name such as auto or cpu, or an object with modules and their devices")


def _is_device(value: Any) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool)


class ModelParams(BaseModel):
    """What the parameters of every model have. What is left out is for the settings to say, and then for the engine."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())

    model: str = Field(min_length=1, description="Where the model lies, relative to the models folder or absolute.")
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
    threads: int | None = Field(default=None, ge=-1, description="Threads that generate; 0 or -1: the engine chooses.")
    batch_size: int | None = Field(default=None, ge=1, description="Most prompt tokens that are read in one go.")
    embedding: bool = Field(default=False, description="true: the model makes embeddings and does not chat.")
    pooling: Literal["none", "mean", "cls", "last", "rank"] | None = Field(
        default=None, description="How token embeddings become one; else as the model says."
    )


class LlamaParams(ModelParams):
    """How a GGUF model runs and answers. What is left out is for the settings to say, and then for llama.cpp."""

    model: str = Field(
        min_length=1,
        description="GGUF file, relative to the models folder (`/` or `\\` between folders) or absolute; "
        "of a split model the first part.",
    )
    mmproj: str | None = Field(
        default=None, min_length=1, description="GGUF file of the vision projector; makes this a vision model."
    )
    parallel: int = Field(default=2, ge=1, le=256, description="Requests that are answered at the same time (slots).")
    kv_unified: bool = Field(
        default=False,
        description="false: every slot has a cache of ctx_size tokens of its own, which takes `parallel` times the "
        "memory. true: the slots share one cache of ctx_size tokens, and requests fail where together they need more.",
    )
    gpu_layers: int | None = Field(default=None, ge=-1, description="Layers that are kept on the GPU; -1: all.")
    threads_batch: int | None = Field(default=None, ge=-1, description="Threads that read prompts; else as threads.")
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


class HfParams(ModelParams):
    """How a Hugging Face model runs and answers. What is left out is for the settings, and then for its folder."""

    model: str = Field(
        min_length=1,
        description="Folder with config.json and the weights, relative to the models folder (`/` or `\\` between "
        "folders) or absolute.",
    )
    pooling: Literal["mean", "cls", "last"] | None = Field(
        default=None, description="How token embeddings become one; else as the folder says."
    )
    parallel: int = Field(default=16, ge=1, le=256, description="Most sequences that are generated at the same time.")
    cache_tokens: int | None = Field(
        default=None,
        ge=1,
        description="Tokens that the caches of all sequences may hold together; else twice the context window.",
    )
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        default="auto", description="Number format of the weights in memory; auto: the one of the folder."
    )
    device_map: Annotated[
        str | dict[str, int | str],
        BeforeValidator(_device_map, json_schema_input_type=Annotated[str, Field(min_length=1)] | dict[str, int | str]),
    ] = Field(
        default="auto",
        description="Where the model goes: auto (GPUs as far as they reach, then the host), cpu, cuda:0, or an object "
        "with the device of each of its modules.",
    )
    attn_implementation: Attention | None = Field(
        default=None, description="Attention of transformers to use instead of our own, such as eager."
    )
    quantization: dict[str, Any] | None = Field(
        default=None, description="How weights are quantised while they load, as quantization_config of a config.json."
    )
    trust_remote_code: bool = Field(
        default=False, description="true: Python code in the folder may run. It can do whatever the service may do."
    )
    allow_pickle: bool = Field(
        default=False,
        description="true: weights that are no safetensors (pytorch_model.bin) may be loaded. Such files can run code.",
    )
