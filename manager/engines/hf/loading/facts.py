"""What kind of model a folder holds, and what a loaded one is like: its window, its vocabulary, its ends."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

from transformers.models.auto import modeling_auto as known

from manager.engines.hf.loading import folder as files
from manager.engines.llama.arguments import CTX_SIZE
from manager.params import HfParams

Kind = Literal["text", "vision", "encoder"]

# Tokens that end an answer whatever the folder says, known by their text as in llama.cpp (src/llama-vocab.cpp).
# fmt: off
_ENDS: Final = frozenset({
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>",
    "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>",
    "<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>",
    "<\uff5cend\u2581of\u2581sentence\uff5c>", "[e~[",
})
# fmt: on


def kind_of(folder: Path, raw: Mapping[str, Any], config: Any, params: HfParams) -> Kind:
    """`raw`: config.json as it is, `config`: as transformers reads it. Raises LoadFailed for what can't be served."""
    named = [str(name) for name in raw.get("architectures") or ()]
    if params.embedding or files.has_recipe(folder):
        return "encoder"
    if _among(named, known.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES):
        return "vision"
    if _among(named, known.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) or any(name.endswith("ForCausalLM") for name in named):
        return "text"
    if _among(named, known.MODEL_MAPPING_NAMES) or _among(named, known.MODEL_FOR_MASKED_LM_MAPPING_NAMES):
        return "encoder"
    if not named and type(config) in known.MODEL_FOR_CAUSAL_LM_MAPPING:
        return "text"
    raise files.wrong(
        folder / files.CONFIG,
        f"has architectures {named}, which are none for texts, texts with images, or embeddings",
    )


def _among(named: Iterable[str], mapping: Mapping[str, str | Sequence[str]]) -> bool:
    classes: set[str] = set()
    for value in mapping.values():
        classes.update((value,) if isinstance(value, str) else value)
    return not classes.isdisjoint(named)


def recipe_of(folder: Path, raw: Mapping[str, Any], params: HfParams) -> files.Recipe:
    """sentence-transformers', else the last token of decoders and the mean of others; the entry's pooling rules."""
    decoder = _among(raw.get("architectures") or (), known.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    recipe = files.embedding_recipe(folder) or files.Recipe(("last",) if decoder else ("mean",))
    return recipe if params.pooling is None else dataclasses.replace(recipe, modes=(params.pooling,))


def window_of(params: HfParams, model: Any) -> int:
    """As for GGUF models: `ctx_size`, 0 meaning all that the model can, and never more than that."""
    text = model.config.get_text_config()
    most = getattr(text, "max_position_embeddings", None) or 0
    # Roberta's positions begin after the id of its padding.
    if most and hasattr(getattr(model, "embeddings", None), "create_position_ids_from_input_ids"):
        most -= (text.pad_token_id or 0) + 1
    wanted = CTX_SIZE if params.ctx_size is None else params.ctx_size
    return min(wanted or most or CTX_SIZE, most or wanted or CTX_SIZE)


def vocabulary_of(model: Any, kind: Kind) -> int:
    """Rows of the logits, which may be more than there are tokens."""
    head = None if kind == "encoder" else model.get_output_embeddings()
    rows = getattr(head, "out_features", None) or model.config.get_text_config().vocab_size
    return int(rows)


def ends_of(model: Any, tokenizer: Any) -> frozenset[int]:
    """The ids that generation_config, config and tokenizer call the end, and those whose text says so."""
    found: set[int] = set()
    sources = (getattr(model, "generation_config", None), model.config, model.config.get_text_config(), tokenizer)
    for source in sources:
        ids = getattr(source, "eos_token_id", None)
        found.update(ids if isinstance(ids, list | tuple) else () if ids is None else (ids,))
    by_text = {
        token.content: number
        for number, token in tokenizer.added_tokens_decoder.items()
        if token.special and token.content in _ENDS
    }
    if {"<|return|>", "<|call|>"} <= by_text.keys() or {"<|calls|>", "<|flush|>"} <= by_text.keys():
        by_text.pop("<|end|>", None)  # there it ends a part of the answer only
    if "<|tool_response>" in by_text:
        by_text.pop("</s>", None)
    return frozenset(found | set(by_text.values()))
