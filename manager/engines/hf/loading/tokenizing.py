"""The tokenizer, the processor and the chat template of a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import transformers

from manager.engines.hf.loading import folder as files
from manager.engines.hf.loading.facts import Kind
from manager.entry import ModelEntry
from manager.errors import LoadFailed


def read_tokenizer(folder: Path, kind: Kind, common: Mapping[str, Any]) -> tuple[Any, Any]:
    """Tokenizer and, of a vision model, processor. Raises LoadFailed, or whatever transformers raises."""
    processor: Any = None
    if kind == "vision":
        # The backend that needs no torchvision, everywhere: backends differ in how they scale.
        auto: Any = transformers.AutoProcessor
        processor = auto.from_pretrained(folder, backend="pil", **common)
        tokenizer = getattr(processor, "tokenizer", None)
        if tokenizer is None:
            raise LoadFailed(f"{folder.name}: its processor has no tokenizer.", should_retry=False)
    else:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **common)  # nosec B615 # local files only
    if not tokenizer.is_fast:
        raise LoadFailed(
            f"{folder.name}: its tokenizer ({type(tokenizer).__name__}) is none of the tokenizers library; "
            "a tokenizer.json is needed.",
            should_retry=False,
        )
    # Some files say that texts are cut and padded, as was good for training.
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    return tokenizer, processor


def read_template(entry: ModelEntry, tokenizer: Any, processor: Any) -> str | None:
    """The text of the chat template, which tokenizer and processor get, too. Raises LoadFailed."""
    if entry.template is None:
        text: Any = getattr(processor, "chat_template", None) or tokenizer.chat_template
        if isinstance(text, dict):
            text = text.get("default") or next(iter(text.values()), None)
    elif entry.template.file is None:
        raise LoadFailed(
            f"The template '{entry.template.builtin}' is one of llama.cpp's own; a Hugging Face model needs a file.",
            should_retry=False,
        )
    else:
        try:
            text = entry.template.file.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise files.wrong(entry.template.file, f"can't be read: {error}") from None
    tokenizer.chat_template = text
    if processor is not None:
        processor.chat_template = text
    return None if text is None else str(text)
