"""Tiny GGUF files for tests: a random llama model that llama.cpp loads in milliseconds, and broken ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np
import numpy.typing as npt

EMBEDDING: Final = 64
CONTEXT: Final = 4096
SPECIAL: Final = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE: Final = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def write_tiny_gguf(
    path: Path,
    *,
    name: str = "tiny-random",
    context: int = CONTEXT,
    layers: int = 2,
    width: int = EMBEDDING,
    chat_template: str | None = CHAT_TEMPLATE,
    seed: int = 0,
    architecture: str = "llama",
    sampling: dict[str, Any] | None = None,
    file_type: gguf.LlamaFileType | None = gguf.LlamaFileType.MOSTLY_F16,
    fills_in: bool = False,
) -> Path:
    """A llama model of random weights, about 230 KB at the default size. It answers nonsense, fast; returns `path`.

    The vocabulary is the 256 bytes and three control tokens, so that a token is a byte of the text. `sampling`
    holds defaults such as {"temp": 0.5}, which llama.cpp takes where nobody gives others. One that `fills_in` has
    tokens for what comes before a gap, what comes after it, and the gap.
    """
    tokens, types = vocabulary()
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, architecture)
    heads, feed_forward = 4, 2 * width
    writer.add_name(name)
    add_shape(writer, context=context, layers=layers, width=width, feed_forward=feed_forward, heads=heads)
    for option, value in (sampling or {}).items():
        add = writer.add_int32 if isinstance(value, int) else writer.add_float32
        add(f"general.sampling.{option}", value)
    writer.add_vocab_size(len(tokens))
    if file_type is not None:
        writer.add_file_type(file_type)
    add_tokenizer(writer, tokens, types)
    for number, place in enumerate(("pre", "suf", "mid") if fills_in else (), tokens.index("<|unused260|>")):
        writer.add_uint32(f"tokenizer.ggml.fim_{place}_token_id", number)
    if chat_template is not None:
        writer.add_chat_template(chat_template)
    _add_tensors(writer, np.random.default_rng(seed), len(tokens), width, layers, feed_forward)
    return written(writer, path)


def write_adapter(path: Path) -> Path:
    """A LoRA adapter for the tiny model at its default size."""
    random = np.random.default_rng(1)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 1.0)
    for name, shape in (("lora_a", (2, EMBEDDING)), ("lora_b", (EMBEDDING, 2))):
        values = random.standard_normal(shape, dtype=np.float32) * 0.2
        writer.add_tensor(f"blk.0.attn_q.weight.{name}", values.astype(np.float16))
    return written(writer, path)


def write_truncated_gguf(path: Path, *, keep: int | None = None) -> Path:
    """A tiny model of which only the first `keep` bytes are there; by default the last kilobyte is missing."""
    data = write_tiny_gguf(path).read_bytes()
    path.write_bytes(data[: len(data) - 1024 if keep is None else keep])
    return path


def write_header_only(path: Path, *, metadata: dict[str, str] | None = None) -> Path:
    """The smallest valid GGUF file: metadata and no tensors. No engine can run it; it takes no time to write."""
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in (metadata or {}).items():
        writer.add_string(key, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def add_shape(writer: gguf.GGUFWriter, *, context: int, layers: int, width: int, feed_forward: int, heads: int) -> None:
    """What a llama is like; half as many heads of keys and values as of queries."""
    writer.add_context_length(context)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(feed_forward)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads // 2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(width // heads)


def matrices(width: int, feed_forward: int) -> dict[str, tuple[int, int]]:
    """Rows and columns of the matrices of one layer."""
    return {
        "attn_q": (width, width),
        "attn_k": (width // 2, width),
        "attn_v": (width // 2, width),
        "attn_output": (width, width),
        "ffn_gate": (feed_forward, width),
        "ffn_up": (feed_forward, width),
        "ffn_down": (width, feed_forward),
    }


def written(writer: gguf.GGUFWriter, path: Path) -> Path:
    """Write what was added; returns `path`."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def vocabulary() -> tuple[list[str], list[gguf.TokenType]]:
    tokens = [*SPECIAL, *_byte_letters()]
    types = [gguf.TokenType.CONTROL] * len(SPECIAL) + [gguf.TokenType.NORMAL] * 256
    tokens.append(_byte_letters()[ord(" ")] + "t")  # a byte-pair tokenizer needs one merge at least
    types.append(gguf.TokenType.NORMAL)
    while len(tokens) % 32:
        tokens.append(f"<|unused{len(tokens)}|>")
        types.append(gguf.TokenType.UNUSED)
    return tokens, types


def _byte_letters() -> list[str]:
    """The printable letter that stands for each byte in GPT-2's byte-level vocabulary."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    replaced = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) if byte in printable else chr(256 + replaced.index(byte)) for byte in range(256)]


def add_tokenizer(writer: gguf.GGUFWriter, tokens: list[str], types: list[gguf.TokenType]) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([f"{_byte_letters()[ord(' ')]} t"])
    writer.add_bos_token_id(SPECIAL.index("<|im_start|>"))
    writer.add_eos_token_id(SPECIAL.index("<|im_end|>"))
    writer.add_pad_token_id(SPECIAL.index("<|im_end|>"))
    writer.add_unk_token_id(SPECIAL.index("<|endoftext|>"))
    writer.add_add_bos_token(False)
    writer.add_add_space_prefix(False)


def _add_tensors(
    writer: gguf.GGUFWriter, random: np.random.Generator, tokens: int, width: int, layers: int, feed_forward: int
) -> None:
    def weights(rows: int, columns: int) -> npt.NDArray[np.float16]:
        return (random.standard_normal((rows, columns), dtype=np.float32) * 0.2).astype(np.float16)

    output = weights(tokens, width)
    # Control and unused tokens never lead, so that answers are as long as they are asked to be.
    output[: len(SPECIAL)] = 0
    output[len(SPECIAL) + 257 :] = 0
    writer.add_tensor("token_embd.weight", weights(tokens, width))
    writer.add_tensor("output_norm.weight", np.ones(width, np.float32))
    writer.add_tensor("output.weight", output)
    for layer in range(layers):
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{norm}.weight", np.ones(width, np.float32))
        for name, (rows, columns) in matrices(width, feed_forward).items():
            writer.add_tensor(f"blk.{layer}.{name}.weight", weights(rows, columns))
