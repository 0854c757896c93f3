"""What a llama.cpp child is started with, from its entry: the same options for both launchers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Self

from manager.engines.llama.options import BY_NAME
from manager.entry import LlamaParams, ModelEntry, Template
from manager.errors import ConfigError

# llama-server's own default, 8192 MiB of copies of earlier prompts for every model, can take a box that
# several models share out of memory long after they were loaded. This holds some 8,000 tokens of a 7B model.
CACHE_RAM_MIB: Final = 1024
# Left to itself llama.cpp takes the window that the model was trained with, as far as free memory goes, and so
# leaves nothing for the next model.
CTX_SIZE: Final = 4096
# "The whole context" as a number, for a model that decides on its context itself.
LONG_CONTEXT: Final = 32768
# Every open connection holds a thread of llama-server, an idle one for 5 s. With its default, 4 more than slots,
# requests that come together on new connections can be left waiting for such a thread all that time.
HTTP_THREADS: Final = 256
# How many tokens llama.cpp remembers where the penalties don't look at more (common_params_sampling.n_prev).
REMEMBERED_TOKENS: Final = 64
# The one built-in template that llama.cpp also has as a Jinja template, so that tools work with it. With
# Jinja on, any other name would be taken for the text of a template.
JINJA_BUILTIN: Final = "chatml"


# Fields of LlamaParams that are passed on as they are.
# fmt: off
_PLAIN: Final = (
    "batch_size", "cache_type_k", "cache_type_v", "context_shift", "flash_attn", "frequency_penalty",
    "gpu_layers", "main_gpu", "min_p", "n_predict", "presence_penalty", "repeat_penalty", "rope_freq_base",
    "rope_freq_scale", "seed", "split_mode", "temperature", "top_k", "top_p", "typical_p", "ubatch_size",
)
# fmt: on
# What llama-server's own command line parser adds to the defaults of CommonParams.
_PARSER_DEFAULTS: Final = {"default_template_kwargs": {"preserve_reasoning": "true"}, "port": 0}


@dataclass(frozen=True, slots=True)
class LlamaArgs:
    """The options of one child. The key is none of them: both launchers take it from LLAMA_API_KEY."""

    name: str
    options: Mapping[str, Any]
    extra_args: tuple[str, ...] = ()

    @classmethod
    def from_entry(cls, entry: ModelEntry, *, socket: Path, log_level: str | int | None = None) -> Self:
        """Raises ConfigError where llama.cpp can't be told what the entry says. Looks at no file."""
        params = entry.llama
        options: dict[str, Any] = {
            "model": str(entry.path),
            "mmproj": None if entry.mmproj is None else str(entry.mmproj),
            "socket": _host(socket),
            "alias": _alias(entry.name),
            "metrics": True,
            "slots": True,
            "http_threads": HTTP_THREADS,
            "web_page": False,
            "log_level": log_level,
            **{name: getattr(params, name) for name in _PLAIN},
            **_window(params),
            **_memory(params),
            **_threads(params),
            **_several_gpus(params),
            **_lora(params),
            **_draft(params),
            **_embedding(params),
            **_template(entry.template, params),
            "repeat_last_n": _penalty_window(params),
        }
        given = {name: value for name, value in options.items() if value is not None}
        return cls(entry.name, given, params.extra_args)

    def with_slots_in(self, folder: Path) -> Self:
        """The same, and slots can be saved to and restored from files in `folder`."""
        return replace(self, options={**self.options, "slot_save_path": f"{folder}/"})

    def argv(self, binary: Path) -> list[str]:
        """The command line of a native `llama-server`."""
        arguments = [text for name, value in self.options.items() for text in BY_NAME[name].native(value)]
        return [str(binary), *arguments, *self.extra_args]

    def attributes(self) -> dict[str, Any]:
        """The same for `embedded.py`: attributes of CommonParams, in values that JSON knows."""
        self.check_embedded()
        result: dict[str, Any] = dict(_PARSER_DEFAULTS)
        for name, value in self.options.items():
            option = BY_NAME[name]
            assert option.attribute is not None  # noqa: S101  check_embedded() has seen to it
            result[option.attribute] = option.embedded(value)
        result["sampling.user_sampling_config"] = [BY_NAME[name].given for name in self.options if BY_NAME[name].given]
        # The rest is what llama-server's command line parser does besides.
        if "repeat_last_n" in self.options:
            result["sampling.n_prev"] = max(REMEMBERED_TOKENS, self.options["repeat_last_n"])
        if self.options["ctx_size"] == 0:
            result["fit_params_min_ctx"] = -1  # all bits set: the window is never made smaller to save memory
        return result

    def to_json(self) -> str:
        """What `embedded.py` gets as its argument. Raises ConfigError like `check_embedded`."""
        return json.dumps(self.attributes(), ensure_ascii=True)

    def check_embedded(self) -> None:
        """Raise ConfigError naming the options that only a native llama-server can honour."""
        refused = [name for name in self.options if BY_NAME[name].attribute is None]
        if self.extra_args:
            refused.append("extra_args")
        if refused:
            raise ConfigError(
                f"model '{self.name}': the embedded launcher can't honour params.{', params.'.join(refused)}"
                "; a native llama-server can (set llama.binary, or put one on PATH)"
            )


def _host(socket: Path) -> str:
    text = str(socket)
    # llama-server tells a socket's path from a host name by its ending, and splits hosts at commas.
    if not text.endswith(".sock") or "," in text:
        raise ConfigError(f"{text}: llama.cpp takes no socket path with a comma in it (storage.run_folder)")
    return text


def _alias(name: str) -> str:
    # llama-server splits aliases at commas, strips them, and answers with the first in alphabetical order.
    if "," in name or name != name.strip():
        raise ConfigError(f"model '{name}': llama.cpp takes no name with a comma, or with spaces at its ends")
    return name


def _window(params: LlamaParams) -> dict[str, Any]:
    """`ctx_size` is the window of one conversation; llama.cpp wants the size of all slots together.

    With a unified cache every slot may use all of it, and where together they need more, all of them fail;
    else each has an equal part to itself. 0, the model's own window, is meant per slot by llama.cpp too.
    """
    size = CTX_SIZE if params.ctx_size is None else params.ctx_size
    if not params.kv_unified:
        size *= params.parallel
    return {"ctx_size": size, "parallel": params.parallel, "kv_unified": params.kv_unified}


def _memory(params: LlamaParams) -> dict[str, Any]:
    cache = CACHE_RAM_MIB if params.cache_ram_mib is None else params.cache_ram_mib
    modes = {
        (True, False): "mlock",
        (True, True): "mmap+mlock",
        (True, None): "mmap+mlock",
        (False, False): "none",
        (False, True): "mmap",
        (False, None): None,
    }
    return {
        "cache_ram_mib": cache,
        # Without a cache there is nowhere to save them, and llama-server would warn.
        "cache_idle_slots": None if cache else False,
        "load_mode": modes[bool(params.mlock), params.mmap],
    }


def _threads(params: LlamaParams) -> dict[str, Any]:
    # 0 and -1 mean "you choose", and the launchers choose alike only where nothing is said.
    threads = max(params.threads or 0, 0) or None
    return {"threads": threads, "threads_batch": max(params.threads_batch or 0, 0) or threads}


def _several_gpus(params: LlamaParams) -> dict[str, Any]:
    # llama-server looks for a name with its spaces.
    device = params.device and ",".join(name.strip() for name in params.device.split(","))
    return {"device": device, "tensor_split": params.tensor_split or None}


def _lora(params: LlamaParams) -> dict[str, Any]:
    for adapter in params.lora:
        if ":" in adapter.path:
            raise ConfigError(f"params.lora: llama.cpp can't be told a path with a colon: {adapter.path}")
    return {"lora": tuple((adapter.path, adapter.scale) for adapter in params.lora) or None}


def _draft(params: LlamaParams) -> dict[str, Any]:
    limits = {name: getattr(params, name) for name in ("draft_max", "draft_min", "draft_gpu_layers")}
    if params.draft_model is None:
        lost = [f"params.{name}" for name, value in limits.items() if value is not None]
        if lost:
            raise ConfigError(f"{', '.join(lost)}: there is no params.draft_model")
        return {}
    # Not told, llama.cpp loads a plain model and drafts nothing with it.
    return {"draft_model": params.draft_model, "draft_type": "simple", **limits}


def _embedding(params: LlamaParams) -> dict[str, Any]:
    if params.reranking:  # what --reranking stands for
        return {"embedding": True, "pooling": "rank"}
    return {"embedding": True if params.embedding else None, "pooling": params.pooling}


def _template(template: Template | None, params: LlamaParams) -> dict[str, Any]:
    if template is None:
        return {"jinja": params.jinja}
    if template.file is not None:
        return {"jinja": True if params.jinja is None else params.jinja, "template_file": str(template.file)}
    if template.builtin != JINJA_BUILTIN and params.jinja:
        raise ConfigError(f"params.jinja: the built-in template '{template.builtin}' is none of Jinja's")
    jinja = template.builtin == JINJA_BUILTIN and params.jinja is not False
    return {"jinja": jinja, "template": template.builtin}


def _penalty_window(params: LlamaParams) -> int | None:
    if params.repeat_last_n == -1:  # llama-server refuses it on its command line
        return CTX_SIZE if params.ctx_size is None else params.ctx_size or LONG_CONTEXT
    return params.repeat_last_n
