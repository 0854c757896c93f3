"""What can be told of a model that is not loaded: its kind, size and abilities, by the headers of its files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from manager.engines.llama.arguments import CTX_SIZE
from manager.entry import ModelEntry
from manager.errors import LoadFailed
from manager.gguf_header import read_header
from manager.gguf_types import FILE_TYPES
from manager.memory_folder import read_folder
from manager.memory_model import read_model

_TEMPLATE: Final = "tokenizer.chat_template"
_TOOL_TEMPLATE: Final = "tokenizer.chat_template.tool_use"
# What the templates of models that think, or can think, say somewhere.
_THINKS: Final = ("enable_thinking", "reasoning_content", "<think>")
# A GGUF says with such a key that it can fill gaps.
_FILLS: Final = ("tokenizer.ggml.fim_mid_token_id", "tokenizer.ggml.middle_token_id")


@dataclass(frozen=True, slots=True)
class Description:
    """As far as it is known; all of it is empty where the files can't be read or the engine is one of its own.

    `window`: the context that it was trained with, in tokens. `info`: more about it, by the keys of GGUF files.
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

    @property
    def details(self) -> dict[str, Any]:
        """As Ollama has it."""
        return {
            "parent_model": "",
            "format": self.format,
            "family": self.family,
            "families": [self.family] if self.family else [],
            "parameter_size": _count(self.parameters),
            "quantization_level": self.numbers,
        }


def describe(entry: ModelEntry) -> Description:
    """Read the headers, once for each state of the files. Blocks the first time."""
    pickle = entry.engine == "hf" and entry.hf.allow_pickle
    return _described(entry.engine, entry.path, entry.stamps, pickle)


@lru_cache(maxsize=1024)
def _described(engine: str, path: Path, _: tuple[tuple[int, int], ...], pickle: bool) -> Description:
    # Told by the stamps, that are part of the key alone.
    try:
        if engine == "llama":
            return _of_gguf(path)
        if engine == "hf":
            return _of_folder(path, pickle)
    except (LoadFailed, OSError, ValueError, RecursionError):
        return Description({"llama": "gguf", "hf": "safetensors"}[engine])
    return Description()


def _of_gguf(path: Path) -> Description:
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
        info={**info, "general.parameter_count": facts.parameters},
    )


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


def capabilities(entry: ModelEntry, known: Description, template: str) -> list[str]:
    """What the model can do, in Ollama's words, as far as its files and its entry tell."""
    if entry.params.embedding or not known.generates:
        return ["embedding"]
    if entry.engine == "llama" and entry.llama.reranking:
        return []
    able = {
        "completion": True,
        "tools": entry.params.instruct and _tells_of_tools(entry, known, template),
        "insert": any(name in known.info for name in _FILLS),
        "vision": known.sees or entry.mmproj is not None,
        "thinking": entry.params.instruct and any(word in template for word in _THINKS),
    }
    return [name for name, can in able.items() if can]


def _tells_of_tools(entry: ModelEntry, known: Description, template: str) -> bool:
    """llama.cpp leaves out tools that the template does not know; Hugging Face models are told of them by us."""
    if entry.engine != "llama":
        return entry.engine == "hf"
    return entry.llama.jinja is not False and ("tools" in template or _TOOL_TEMPLATE in known.info)


def window_of(entry: ModelEntry, known: Description) -> int:
    """The context window with which the model runs, in tokens; 0 where that is not known."""
    asked = CTX_SIZE if entry.params.ctx_size is None else entry.params.ctx_size
    return min(asked or known.window, known.window or asked)


def _count(number: int) -> str:
    for size, letter in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if number >= size:
            return f"{number / size:.{1 if letter == 'B' else 2}f}{letter}"
    return str(number or "")
