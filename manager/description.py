"""What can be told of a model that is not loaded: its kind, size and abilities, by the headers of its files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from manager.engines.kinds import BUILT_IN, kind_of
from manager.engines.llama.arguments import CTX_SIZE
from manager.entry import ModelEntry
from manager.errors import LoadFailed
from manager.gguf_header import read_header
from manager.gguf_types import FILE_TYPES
from manager.memory_folder import read_folder
from manager.memory_model import read_model

_TEMPLATE: Final = "tokenizer.chat_template"
# What a model can be asked for, and the path of llama-server that its engine then answers.
_TASKS: Final = {
    "chat": "/v1/chat/completions",
    "completion": "/v1/completions",
    "embedding": "/v1/embeddings",
    "rerank": "/v1/rerank",
}


@dataclass(frozen=True, slots=True)
class Description:
    """As far as it is known; nearly all of it is empty where the files can't be read or the engine is one of its own.

    `window`: the context that it was trained with, in tokens. `sees`: whether it takes images. `info`: more about it,
    by the keys of GGUF files.
    """

    format: str = ""
    family: str = ""
    parameters: int = 0
    numbers: str = ""  # the format of most of its weights
    window: int = 0
    template: str = ""
    generates: bool = True
    sees: bool = False
    info: Mapping[str, Any] = field(default_factory=dict)


def describe(entry: ModelEntry) -> Description:
    """Read the headers, once for each state of the files. Blocks the first time."""
    pickle = entry.engine == "hf" and entry.hf.allow_pickle
    return _described(entry.engine, entry.path, entry.mmproj, entry.stamps, pickle)


@lru_cache(maxsize=1024)
def _described(
    engine: str, path: Path, mmproj: Path | None, _: tuple[tuple[int, int], ...], pickle: bool
) -> Description:
    # Told by the stamps, that are part of the key alone.
    try:
        if engine == "llama":
            return _of_gguf(path, mmproj)
        if engine == "hf":
            return _of_folder(path, pickle)
    except (LoadFailed, OSError, ValueError, RecursionError):
        return Description({"llama": "gguf", "hf": "safetensors"}[engine], sees=mmproj is not None)
    return Description()


def _of_gguf(path: Path, mmproj: Path | None) -> Description:
    facts, metadata = read_model(path), read_header(path).metadata
    template = metadata.get(_TEMPLATE)
    info = {name: value for name, value in metadata.items() if name != _TEMPLATE}
    return Description(
        "gguf",
        facts.architecture,
        facts.parameters,
        "" if facts.file_type is None else FILE_TYPES.get(facts.file_type, ""),
        facts.trained_window,
        template if isinstance(template, str) else "",
        sees=mmproj is not None and _sees(mmproj),
        info={**info, "general.parameter_count": facts.parameters},
    )


def _sees(mmproj: Path) -> bool:
    """Whether it is a projector for images: some are for sounds alone. One that can't be read is taken for one."""
    try:
        metadata = read_header(mmproj).metadata
    except (LoadFailed, OSError, ValueError):
        return True
    return bool(metadata.get("clip.has_vision_encoder", not metadata.get("clip.has_audio_encoder", False)))


def _of_folder(folder: Path, pickle: bool) -> Description:
    facts = read_folder(folder, pickle=pickle)
    kind = facts.architecture
    return Description(
        "safetensors",
        kind,
        facts.parameters,
        max(facts.dtypes, key=lambda name: facts.dtypes[name], default=""),
        facts.trained_window,
        _template_in(folder),
        facts.generates,
        facts.sees,
        {
            "general.architecture": kind,
            "general.parameter_count": facts.parameters,
            f"{kind}.context_length": facts.trained_window,
            f"{kind}.embedding_length": facts.embedding,
            f"{kind}.feed_forward_length": facts.feed_forward,
            f"{kind}.block_count": facts.layers,
            f"{kind}.attention.head_count": facts.heads,
            f"{kind}.attention.head_count_kv": facts.kv_heads,
            f"{kind}.vocab_size": facts.vocabulary,
        },
    )


def _template_in(folder: Path) -> str:
    file, config = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    if file.is_file():
        return file.read_text("utf-8")
    said = json.loads(config.read_bytes()) if config.is_file() else None
    template = said.get("chat_template") if isinstance(said, dict) else None
    return template if isinstance(template, str) else ""


def template_of(entry: ModelEntry, known: Description) -> str:
    """The chat template that counts: the entry's, else the model's. Blocks."""
    if entry.template is None:
        return known.template
    if entry.template.file is None:
        return entry.template.builtin or ""
    try:
        return entry.template.file.read_text("utf-8")
    except (OSError, ValueError):
        return ""


def window_of(entry: ModelEntry, known: Description) -> int:
    """The context window with which the model runs, in tokens; 0 where that is not known."""
    asked = CTX_SIZE if entry.params.ctx_size is None else entry.params.ctx_size
    return min(asked or known.window, known.window or asked)


def context_length(entry: ModelEntry, known: Description) -> int | None:
    """How many tokens a conversation may have; None where that is not known."""
    if entry.engine not in BUILT_IN:
        return entry.params.ctx_size or None
    return window_of(entry, known) or None


def input_modalities(known: Description) -> list[str]:
    """What the model takes: text, and images."""
    return ["text", "image"] if known.sees else ["text"]


def tasks_of(entry: ModelEntry, known: Description) -> list[str]:
    """What the model can be asked for: chat, completion, embedding, rerank."""
    paths = kind_of(entry).paths
    if entry.engine not in BUILT_IN and paths is not None:
        return [task for task, path in _TASKS.items() if path in paths and (task != "chat" or entry.params.instruct)]
    if entry.engine == "llama" and entry.llama.reranking:
        return ["rerank"]
    if entry.params.embedding or not known.generates:
        return ["embedding"]
    return ["chat", "completion"] if entry.params.instruct else ["completion"]
