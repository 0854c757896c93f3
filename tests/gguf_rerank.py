"""A tiny GGUF file that ranks: a random BERT with a classifier's head, which llama.cpp loads in milliseconds."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np

from tests.gguf_files import written

WIDTH: Final = 32
CONTEXT: Final = 128
SPECIAL: Final = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_WORD_START: Final = "\u2581"


def write_tiny_reranker(path: Path) -> Path:
    """A BERT of random weights whose scores mean nothing, but are the same each time; returns `path`.

    Each small letter is a token; a pair of query and document has two more.
    """
    letters = [start + letter for start in (_WORD_START, "") for letter in string.ascii_lowercase]
    tokens = [*SPECIAL, *letters]
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_name("tiny-reranker")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(WIDTH)
    writer.add_head_count(2)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.RANK)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("bert")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL] * len(SPECIAL) + [gguf.TokenType.NORMAL] * len(letters))
    writer.add_token_type_count(2)
    writer.add_pad_token_id(SPECIAL.index("[PAD]"))
    writer.add_unk_token_id(SPECIAL.index("[UNK]"))
    writer.add_bos_token_id(SPECIAL.index("[CLS]"))
    writer.add_sep_token_id(SPECIAL.index("[SEP]"))
    writer.add_mask_token_id(SPECIAL.index("[MASK]"))
    random = np.random.default_rng(0)
    for name, shape in _shapes(len(tokens)).items():
        values: Any = random.standard_normal(shape, dtype=np.float32)
        norm = "norm" in name
        writer.add_tensor(name, 1 + values * 0.1 if norm and name.endswith("weight") else values * 0.2)
    return written(writer, path)


def _shapes(tokens: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (tokens, WIDTH),
        "token_types.weight": (2, WIDTH),
        "position_embd.weight": (CONTEXT, WIDTH),
        "cls.weight": (WIDTH, WIDTH),
        "cls.bias": (WIDTH,),
        "cls.output.weight": (1, WIDTH),
        "cls.output.bias": (1,),
    }
    for norm in ("token_embd_norm", "blk.0.attn_output_norm", "blk.0.layer_output_norm"):
        shapes |= {f"{norm}.weight": (WIDTH,), f"{norm}.bias": (WIDTH,)}
    for matrix in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_up", "ffn_down"):
        shapes |= {f"blk.0.{matrix}.weight": (WIDTH, WIDTH), f"blk.0.{matrix}.bias": (WIDTH,)}
    return shapes
