"""The table of llama.cpp options, with their names in llama-server and in xllamacpp, for both launchers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final


def _unchanged(value: Any) -> Any:
    return value


@dataclass(frozen=True, slots=True)
class Option:
    """One row of the table: an option's name here, as llama-server's flag and as xllamacpp's attribute."""

    name: str
    flag: str
    attribute: str | None  # of CommonParams, with dots for nested ones; None: it has none
    off_flag: str = ""
    # Our word for a value -> llama-server's word, and the value or the enum member's name in CommonParams.
    words: Mapping[Any, tuple[str, Any]] = field(default_factory=dict)
    as_text: Callable[[Any], str] = str
    as_json: Callable[[Any], Any] = _unchanged
    # The bit of sampling.user_sampling_config which says that this was given: without it a default inside the
    # GGUF replaces the value.
    given: str = ""

    def native(self, value: Any) -> list[str]:
        if isinstance(value, bool):
            flag = self.flag if value else self.off_flag
            return [flag] if flag else []
        return [self.flag, self.words[value][0] if value in self.words else self.as_text(value)]

    def embedded(self, value: Any) -> Any:
        return self.words[value][1] if value in self.words else self.as_json(value)


def _members(prefix: str, *names: str) -> dict[str, tuple[str, str]]:
    return {name: (name, prefix + name.upper().replace("+", "_")) for name in names}


def _lora_text(adapters: tuple[tuple[str, float], ...]) -> str:
    # As fields of a CSV row, quoted because a path may hold a comma.
    texts = [f"{path}:{scale}".replace('"', '""') for path, scale in adapters]
    return ",".join(f'"{text}"' for text in texts)


def _numbers_text(numbers: tuple[float, ...]) -> str:
    return ",".join(map(str, numbers))


CACHE_TYPES: Final = _members("GGML_TYPE_", "f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")
FLASH_ATTENTION: Final = {
    "on": ("on", "LLAMA_FLASH_ATTN_TYPE_ENABLED"),
    "off": ("off", "LLAMA_FLASH_ATTN_TYPE_DISABLED"),
    "auto": ("auto", "LLAMA_FLASH_ATTN_TYPE_AUTO"),
}
LOG_LEVELS: Final = {
    word: (str(number), number) for number, word in enumerate(("error", "warning", "info", "trace", "debug"), 1)
}
LOAD_MODES: Final = _members("LLAMA_LOAD_MODE_", "none", "mmap", "mlock", "mmap+mlock")
POOLING_TYPES: Final = _members("LLAMA_POOLING_TYPE_", "none", "mean", "cls", "last", "rank")
SPLIT_MODES: Final = _members("LLAMA_SPLIT_MODE_", "none", "layer", "row", "tensor")

DRAFT_SIMPLE: Final = ["COMMON_SPECULATIVE_TYPE_DRAFT_SIMPLE"]

OPTIONS: Final = (
    # what is served, and where
    Option("model", "--model", "model.path"),
    Option("mmproj", "--mmproj", "mmproj.path"),
    Option("socket", "--host", "hostnames", as_json=lambda path: [path]),
    Option("alias", "--alias", "model_alias", as_json=lambda name: [name]),
    Option("metrics", "--metrics", "endpoint_metrics"),
    Option("slots", "--slots", "endpoint_slots", off_flag="--no-slots"),
    Option("slot_save_path", "--slot-save-path", "slot_save_path"),
    Option("http_threads", "--threads-http", "n_threads_http"),
    Option("web_page", "--webui", "ui", off_flag="--no-webui"),
    Option("log_level", "--verbosity", "verbosity", words=LOG_LEVELS),
    # context and memory
    Option("ctx_size", "--ctx-size", "n_ctx"),
    Option("parallel", "--parallel", "n_parallel"),
    Option("kv_unified", "--kv-unified", "kv_unified", off_flag="--no-kv-unified"),
    Option("context_shift", "--context-shift", "ctx_shift", off_flag="--no-context-shift"),
    Option("cache_ram_mib", "--cache-ram", "cache_ram_mib"),
    Option("cache_idle_slots", "--cache-idle-slots", "cache_idle_slots", off_flag="--no-cache-idle-slots"),
    Option("cache_type_k", "--cache-type-k", "cache_type_k", words=CACHE_TYPES),
    Option("cache_type_v", "--cache-type-v", "cache_type_v", words=CACHE_TYPES),
    Option("flash_attn", "--flash-attn", "flash_attn_type", words=FLASH_ATTENTION),
    Option("load_mode", "--load-mode", "load_mode", words=LOAD_MODES),
    # computing
    Option("threads", "--threads", "cpuparams.n_threads"),
    Option("threads_batch", "--threads-batch", "cpuparams_batch.n_threads"),
    Option("batch_size", "--batch-size", "n_batch"),
    Option("ubatch_size", "--ubatch-size", "n_ubatch"),
    # To llama.cpp -1 is "as many as fit"; here that is leaving it out, and -1 is all.
    Option("gpu_layers", "--gpu-layers", "n_gpu_layers", words={-1: ("all", -2)}),
    Option("main_gpu", "--main-gpu", "main_gpu"),
    Option("split_mode", "--split-mode", "split_mode", words=SPLIT_MODES),
    Option("tensor_split", "--tensor-split", "tensor_split", as_text=_numbers_text),
    Option("device", "--device", None),
    Option("rope_freq_base", "--rope-freq-base", "rope_freq_base"),
    Option("rope_freq_scale", "--rope-freq-scale", "rope_freq_scale"),
    Option("lora", "--lora-scaled", "lora_adapters", as_text=_lora_text),
    # speculative decoding
    Option("draft_model", "--spec-draft-model", "speculative.draft.mparams.path"),
    Option("draft_type", "--spec-type", "speculative.types", words={"simple": ("draft-simple", DRAFT_SIMPLE)}),
    Option("draft_max", "--spec-draft-n-max", "speculative.draft.n_max"),
    Option("draft_min", "--spec-draft-n-min", "speculative.draft.n_min"),
    Option("draft_gpu_layers", "--spec-draft-ngl", "speculative.draft.n_gpu_layers", words={-1: ("all", -2)}),
    # other tasks than chat
    Option("embedding", "--embedding", "embedding"),
    Option("pooling", "--pooling", "pooling_type", words=POOLING_TYPES),
    # sampling, where the request does not say it
    Option("temperature", "--temp", "sampling.temp", given="TEMP"),
    Option("top_k", "--top-k", "sampling.top_k", given="TOP_K"),
    Option("top_p", "--top-p", "sampling.top_p", given="TOP_P"),
    Option("min_p", "--min-p", "sampling.min_p", given="MIN_P"),
    Option("typical_p", "--typical-p", "sampling.typ_p"),
    Option("repeat_penalty", "--repeat-penalty", "sampling.penalty_repeat", given="PENALTY_REPEAT"),
    Option("repeat_last_n", "--repeat-last-n", "sampling.penalty_last_n", given="PENALTY_LAST_N"),
    Option("presence_penalty", "--presence-penalty", "sampling.penalty_present"),
    Option("frequency_penalty", "--frequency-penalty", "sampling.penalty_freq"),
    Option("seed", "--seed", "sampling.seed", words={-1: ("-1", 2**32 - 1)}),
    Option("n_predict", "--n-predict", "n_predict"),
    # template
    Option("jinja", "--jinja", "use_jinja", off_flag="--no-jinja"),
    Option("template", "--chat-template", "chat_template"),
    Option("template_file", "--chat-template-file", "chat_template_file"),  # the child reads it
)

BY_NAME: Final = {option.name: option for option in OPTIONS}
