"""What Ollama's API tells of a model: what it is, and what it can do."""

from __future__ import annotations

from typing import Any, Final

from manager.description import Description
from manager.entry import ModelEntry

_TOOL_TEMPLATE: Final = "tokenizer.chat_template.tool_use"
# What the templates of models that think, or can think, say somewhere.
_THINKS: Final = ("enable_thinking", "reasoning_content", "<think>")
# A GGUF says with such a key that it can fill gaps.
_FILLS: Final = ("tokenizer.ggml.fim_mid_token_id", "tokenizer.ggml.middle_token_id")


def details_of(known: Description) -> dict[str, Any]:
    """As Ollama has it."""
    return {
        "parent_model": "",
        "format": known.format,
        "family": known.family,
        "families": [known.family] if known.family else [],
        "parameter_size": _count(known.parameters),
        "quantization_level": known.numbers,
    }


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
        "vision": known.sees,
        "thinking": entry.params.instruct and any(word in template for word in _THINKS),
    }
    return [name for name, can in able.items() if can]


def _tells_of_tools(entry: ModelEntry, known: Description, template: str) -> bool:
    """llama.cpp leaves out tools that the template does not know; Hugging Face models are told of them by us."""
    if entry.engine != "llama":
        return entry.engine == "hf"
    return entry.llama.jinja is not False and ("tools" in template or _TOOL_TEMPLATE in known.info)


def _count(number: int) -> str:
    for size, letter in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if number >= size:
            return f"{number / size:.{1 if letter == 'B' else 2}f}{letter}"
    return str(number or "")
