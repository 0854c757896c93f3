"""Makes real, tiny GGUF files in milliseconds: a random llama of 230 KB that generates bytes, and an adapter for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np
from numpy.typing import NDArray

EMBEDDING: Final = 64
HEADS: Final = 4
KV_HEADS: Final = 2
FEED_FORWARD: Final = 128
LAYERS: Final = 2
CONTEXT: Final = 4096

START, END, UNKNOWN = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
CHATML: Final = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def write_model(path: Path, *, architecture: str = "llama", sampling: dict[str, Any] | None = None) -> Path:
    """`sampling` holds defaults such as {"temp": 0.5}, which llama.cpp takes where nobody gives others."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(EMBEDDING)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(EMBEDDING // HEADS)
    for name, value in (sampling or {}).items():
        add = writer.add_int32 if isinstance(value, int) else writer.add_float32
        add(f"general.sampling.{name}", value)
    tokens = _add_tokenizer(writer)
    _add_tensors(writer, tokens)
    return _written(writer, path)


def write_adapter(path: Path) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 1.0)
    random = np.random.default_rng(1)
    writer.add_tensor("blk.0.attn_q.weight.lora_a", _weights(random, 2, EMBEDDING))
    writer.add_tensor("blk.0.attn_q.weight.lora_b", _weights(random, EMBEDDING, 2))
    return _written(writer, path)


def _add_tokenizer(writer: gguf.GGUFWriter) -> int:
    """Byte-level BPE without merges worth the name; returns the number of tokens."""
    special = [UNKNOWN, START, END]
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in shown]
    # GPT-2 writes a byte that has no printable sign as one beyond 255.
    letters = {byte: chr(byte) for byte in shown} | {byte: chr(256 + n) for n, byte in enumerate(rest)}
    tokens = [*special, *(letters[byte] for byte in range(256)), letters[32] + "t"]
    kinds = [gguf.TokenType.CONTROL] * len(special) + [gguf.TokenType.NORMAL] * (len(tokens) - len(special))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([letters[32] + " t"])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(CHATML)
    return len(tokens)


def _add_tensors(writer: gguf.GGUFWriter, tokens: int) -> None:
    random = np.random.default_rng(0)
    head = EMBEDDING // HEADS
    output = _weights(random, tokens, EMBEDDING)
    output[:3] = 0  # it seldom ends by itself
    writer.add_tensor("token_embd.weight", _weights(random, tokens, EMBEDDING))
    writer.add_tensor("output_norm.weight", np.ones(EMBEDDING, np.float32))
    writer.add_tensor("output.weight", output)
    shapes = {
        "attn_q": (HEADS * head, EMBEDDING),
        "attn_k": (KV_HEADS * head, EMBEDDING),
        "attn_v": (KV_HEADS * head, EMBEDDING),
        "attn_output": (EMBEDDING, HEADS * head),
        "ffn_gate": (FEED_FORWARD, EMBEDDING),
        "ffn_up": (FEED_FORWARD, EMBEDDING),
        "ffn_down": (EMBEDDING, FEED_FORWARD),
    }
    for layer in range(LAYERS):
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{norm}.weight", np.ones(EMBEDDING, np.float32))
        for name, shape in shapes.items():
            writer.add_tensor(f"blk.{layer}.{name}.weight", _weights(random, *shape))


def _weights(random: np.random.Generator, *shape: int) -> NDArray[np.float16]:
    return (random.standard_normal(shape, dtype=np.float32) * 0.2).astype(np.float16)


def _written(writer: gguf.GGUFWriter, path: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
