"""What each layer of a model keeps in memory, from the metadata of its GGUF file and the names of its tensors.

File names in comments are llama.cpp's; docs/memory.md explains the rules.
"""

from __future__ import annotations

import platform
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from manager.errors import LoadFailed
from manager.gguf_header import GgufHeader, Tensor

# Every how many layers one attends to everything, where the file does not say it, and whether that is the first of
# them (src/models/*.cpp, load_swa_pattern). Layers of an architecture that is not here count as attending to
# everything unless the file marks each layer: that is never too little.
_PATTERNS: Final[dict[str, tuple[int, bool]]] = {
    "afmoe": (4, False),
    "cohere2": (4, False),
    "exaone4": (4, False),
    "gemma2": (2, False),
    "gemma3": (6, False),
    "gemma3n": (5, False),
    "gpt-oss": (2, False),
    "laguna": (4, True),
    "llama4": (4, False),
    "olmo2": (4, False),
    "plamo3": (8, False),
    "smallthinker": (4, True),
}
# Windows that llama.cpp sets itself where the file may leave them out, or whatever it says (same files).
_WINDOWS: Final = {"gemma2": 4096, "exaone4": 4096}
_FIXED_WINDOWS: Final = {"llama4": 8192, "smallthinker": 4096}
# Architectures that keep no cache between batches (src/llama-model.cpp, create_memory).
# fmt: off
_WITHOUT_CACHE: Final = frozenset({
    "bert", "clef", "dream", "eurobert", "gemma-embedding", "jina-bert-v2", "jina-bert-v3", "llada", "llada-moe",
    "modern-bert", "neo-bert", "nomic-bert", "nomic-bert-moe", "rnd1", "wavtokenizer-dec",
})
# fmt: on
# Layers of gemma3n after these use the cache of an earlier one (src/models/gemma3n.cpp).
_GEMMA3N_CACHED_LAYERS: Final = 20
# Types of weights of which llama.cpp makes a copy in another order for the CPU, by ggml type number
# (ggml-cpu/repack.cpp): Q4_0, Q2_K, Q4_K, IQ4_NL, MXFP4 with AVX2; on ARM also Q8_0, Q5_K, Q6_K.
_REPACKED_X86: Final = frozenset({2, 10, 12, 20, 39})
_REPACKED_ARM: Final = _REPACKED_X86 | {8, 13, 14}
# More than llama.cpp can load (LLAMA_MAX_LAYERS in src/llama-hparams.h).
_MOST_LAYERS: Final = 1024
_LAYER: Final = re.compile(r"blk\.(\d+)\.(.+)")
_RECURRENT: Final = ("ssm_", "shortconv.", "time_mix_")


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: elements that its cache holds for each token, and that its state holds for each slot."""

    keys: int
    values: int
    state: int
    windowed: bool
    weights: int
    copied: int  # bytes of the weights that are copied for the CPU


class Lookup:
    """Numbers in the metadata, by the part of their key that follows the architecture."""

    def __init__(self, file_name: str, header: GgufHeader) -> None:
        architecture = header.metadata.get("general.architecture")
        if not isinstance(architecture, str):
            raise LoadFailed(f"{file_name} does not say its architecture", should_retry=False)
        self.architecture = architecture
        self._metadata: Mapping[str, Any] = header.metadata
        self._arrays = header.arrays
        self.layers = self.number("block_count")
        if not 0 <= self.layers <= _MOST_LAYERS:
            raise LoadFailed(f"{file_name} claims {self.layers:,} layers", should_retry=False)

    def number(self, key: str, default: int = 0) -> int:
        value = self._metadata.get(f"{self.architecture}.{key}", default)
        return int(value) if isinstance(value, int | float) else default

    def has(self, key: str) -> bool:
        return f"{self.architecture}.{key}" in self._metadata

    def array(self, key: str) -> tuple[int | float | bool, ...]:
        """An array's numbers; empty where there is none, or one number instead."""
        return self._arrays.get(f"{self.architecture}.{key}", ())

    def each(self, key: str, default: int) -> list[int]:
        """A number for each layer, from an array or from one number for all."""
        given = self.array(key)
        if not given:
            return [self.number(key, default)] * self.layers
        return [int(given[layer]) if layer < len(given) else default for layer in range(self.layers)]

    def most(self, key: str, default: int = 0) -> int:
        return max(self.each(key, default), default=0)


def read_layers(lookup: Lookup, tensors: Sequence[Tensor]) -> tuple[Layer, ...]:
    names: dict[int, set[str]] = {}
    weights: Counter[int] = Counter()
    copied: Counter[int] = Counter()
    for tensor in tensors:
        found = _LAYER.match(tensor.name)
        if found is not None:
            number = int(found[1])
            names.setdefault(number, set()).add(found[2])
            weights[number] += tensor.size
            copied[number] += copied_bytes(tensor)
    windowed = _windowed(lookup)
    kv_heads = lookup.each("attention.head_count_kv", lookup.most("attention.head_count"))
    state, mla = _state(lookup), lookup.number("attention.key_length_mla") > 0
    result = []
    for number in range(lookup.layers):
        own = names.get(number, set())
        recurrent = any(name.startswith(_RECURRENT) for name in own)
        heads = kv_heads[number] if _has_cache(lookup, number, own, recurrent=recurrent) else 0
        result.append(
            Layer(
                keys=heads * head_size(lookup, "key", windowed=windowed[number]),
                values=0 if mla else heads * head_size(lookup, "value", windowed=windowed[number]),
                state=state if recurrent else 0,
                windowed=windowed[number],
                weights=weights[number],
                copied=copied[number],
            )
        )
    return tuple(result)


def head_size(lookup: Lookup, which: str, *, windowed: bool = False) -> int:
    """Width of one head's "key" or "value"."""
    heads = lookup.most("attention.head_count")
    size = lookup.number(f"attention.{which}_length", lookup.number("embedding_length") // heads if heads else 0)
    return lookup.number(f"attention.{which}_length_swa", size) if windowed else size


def keeps_cache(lookup: Lookup) -> bool:
    return lookup.architecture not in _WITHOUT_CACHE


def sliding_window(lookup: Lookup) -> int:
    """Tokens that layers with a window look back; 0 where the model has no such layers."""
    architecture = lookup.architecture
    if architecture == "phi3":  # llama.cpp leaves its window out
        return 0
    if architecture == "llama4" and not lookup.has("attention.sliding_window"):
        return _FIXED_WINDOWS[architecture]
    size = lookup.number("attention.sliding_window", _WINDOWS.get(architecture, 0))
    return _FIXED_WINDOWS.get(architecture, size) if size else 0


def copied_bytes(tensor: Tensor) -> int:
    """The size of the copy that llama.cpp makes of these weights for the CPU; 0 where it makes none."""
    kinds = _REPACKED_ARM if platform.machine().lower() in ("arm64", "aarch64") else _REPACKED_X86
    fits = len(tensor.shape) > 1 and tensor.shape[1] % 8 == 0
    return tensor.size if fits and tensor.kind in kinds else 0


def _has_cache(lookup: Lookup, number: int, tensors: set[str], *, recurrent: bool) -> bool:
    # The last ones may be layers that predict further tokens, which have weights but no cache here.
    if not keeps_cache(lookup) or number >= lookup.layers - lookup.number("nextn_predict_layers"):
        return False
    shared = lookup.number("attention.shared_kv_layers")
    if lookup.architecture == "gemma3n":
        shared = max(0, lookup.layers - _GEMMA3N_CACHED_LAYERS)
    if number >= lookup.layers - shared:
        return False
    # A recurrent layer's one tensor of inputs is named attn_qkv; layers of both kinds have these.
    return not recurrent or not tensors.isdisjoint({"attn_k.weight", "attn_kv_a_mqa.weight"})


def _windowed(lookup: Lookup) -> list[bool]:
    key = "attention.sliding_window_pattern"
    if not sliding_window(lookup):
        return [False] * lookup.layers
    if lookup.array(key):
        return [bool(one) for one in lookup.each(key, 0)]
    if lookup.architecture not in _PATTERNS:
        return [False] * lookup.layers
    period, full_first = _PATTERNS[lookup.architecture]
    period = lookup.number(key, period)
    full = 0 if full_first else period - 1
    return [period == 0 or number % period != full for number in range(lookup.layers)]


def _state(lookup: Lookup) -> int:
    """Elements of recurrent state of one layer and slot (src/llama-hparams.cpp, n_embd_r and n_embd_s)."""
    embedding, kernel = lookup.number("embedding_length"), lookup.number("ssm.conv_kernel")
    inner, size = lookup.number("ssm.inner_size"), lookup.number("ssm.state_size")
    if wkv := lookup.number("wkv.head_size"):
        return embedding * (lookup.number("token_shift_count", 2) + wkv)
    if convolution := lookup.number("shortconv.l_cache"):
        return embedding * (convolution - 1) + size * inner
    if kda := lookup.number("kda.head_dim"):
        return lookup.most("attention.head_count") * kda * (3 * (kernel - 1 if kernel else 3) + kda)
    return max(kernel - 1, 0) * (inner + 2 * lookup.number("ssm.group_count") * size) + size * inner
