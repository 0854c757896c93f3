"""A last message of the assistant is what its answer goes on with: llama.cpp repeats it, but not in a stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def begun_of(messages: Sequence[Mapping[str, Any]], field: str = "content") -> str:
    """The text that the answer to a chat goes on with, or with `field` "reasoning_content" the thoughts; often none."""
    if not messages or messages[-1].get("role") != "assistant":
        return ""
    begun = messages[-1].get(field) or ""
    if isinstance(begun, list):  # llama.cpp makes paragraphs of parts
        begun = "\n\n".join(part["text"] for part in begun if part.get("type") == "text")
    return str(begun)


def without_prefill(text: str, begun: str) -> str:
    """The text of a whole answer without what it was `begun` with."""
    return text.removeprefix(begun)
