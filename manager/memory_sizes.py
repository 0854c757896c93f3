"""How large llama.cpp makes its cache, its state and its buffers: formulas of widths and tokens, no files.

Sources and measurements: docs/memory.md. File names in comments are llama.cpp's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from manager.engines.llama.arguments import CTX_SIZE
from manager.engines.llama.native import Launcher
from manager.entry import LlamaParams
from manager.gguf_header import BLOCK_SIZES
from manager.memory_layers import Layer
from manager.memory_model import ModelFacts

MIB: Final = 1 << 20
# ggml type numbers of the cache types.
_CACHE_TYPES: Final = {
    "f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8, "iq4_nl": 20, "bf16": 30,
}  # fmt: skip
# llama.cpp's own defaults (common/common.h).
_BATCH: Final = 2048
_UBATCH: Final = 512
_CHECKPOINTS: Final = 32
_DRAFTED: Final = 3
_CELLS: Final = 256  # contexts are multiples of it (src/llama-context.cpp)
_FLOAT: Final = 4
# The process with a model of no size; and what it keeps for each token of the vocabulary (text, merges, tables).
_PROCESS: Final[dict[Launcher, tuple[int, int]]] = {"native": (24 * MIB, 320), "embedded": (35 * MIB, 480)}
_TENSOR: Final = 8 << 10  # room for several nodes in each of the graphs
_CANDIDATE: Final = 12  # a sampler has one for each token of the vocabulary (llama_token_data)
_INPUTS: Final = 48  # of one token: its number, position and places in the cache


@dataclass(frozen=True, slots=True)
class Window:
    """Sizes in tokens. `cells` are those of one of `streams` caches; `windowed` those of layers with a window."""

    cells: int
    windowed: int
    streams: int
    tokens: int  # most of one physical batch
    outputs: int  # most tokens of a batch whose logits are kept


def window_of(facts: ModelFacts, params: LlamaParams) -> Window:
    """As src/llama-context.cpp rounds it, and src/llama-kv-cache-iswa.cpp does for layers with a sliding window."""
    size = CTX_SIZE if params.ctx_size is None else params.ctx_size or facts.trained_window
    streams = 1 if params.kv_unified else params.parallel
    cells = _padded(_padded(size * streams) // streams)
    batch = params.batch_size or _BATCH
    tokens = min(params.ubatch_size or _UBATCH, batch, cells * streams)
    sharing = params.parallel if params.kv_unified else 1
    windowed = min(cells, _padded(min(cells, facts.window * sharing + tokens))) if facts.window else 0
    # To check a draft, the logits of all its tokens are needed (common_speculative_get_output_limits).
    drafted = 0 if params.draft_model is None else _DRAFTED if params.draft_max is None else params.draft_max
    outputs = tokens if _embeds(params) else min(tokens, params.parallel * (1 + drafted))
    return Window(cells, windowed, streams, tokens, outputs)


def cache_bytes(layer: Layer, facts: ModelFacts, params: LlamaParams, window: Window) -> int:
    """Keys and values of one layer (src/llama-kv-cache.cpp)."""
    cells = window.windowed if layer.windowed else window.cells
    values = layer.values
    if values and params.flash_attn == "off":  # values lie transposed, and all layers get the width of the widest
        values = max(one.values for one in facts.layers)
    row = row_bytes(params.cache_type_k, layer.keys) + row_bytes(params.cache_type_v, values)
    return cells * window.streams * row


def row_bytes(cache_type: str | None, elements: int) -> int:
    block, size = BLOCK_SIZES[_CACHE_TYPES[cache_type or "f16"]]
    return -(-elements // block) * size


def state_bytes(layer: Layer, params: LlamaParams) -> int:
    """Recurrent state, in 32 bits, one for each slot (src/llama-memory-recurrent.cpp)."""
    return layer.state * params.parallel * _FLOAT


def compute_bytes(facts: ModelFacts, params: LlamaParams, window: Window) -> int:
    """The buffer in which graphs are computed: as much as the largest of their stages holds at once.

    Widths in 32 bits by tokens; which of them live at the same time was found by varying each.
    """
    cells = window.cells if facts.cached else window.tokens
    keys = max((layer.keys + layer.values for layer in facts.layers), default=0)
    flash = params.flash_attn != "off"
    # Flash attention needs no scores, and masks in 16 bits; a sliding window has a mask of its own.
    mask = (2 if flash else 4) * (cells + window.windowed)
    scores = 0 if flash else facts.heads * cells
    extra = 0 if flash else facts.embedding
    feed_forward = 5 * facts.embedding + extra + 3 * facts.feed_forward
    attention = 3 * facts.embedding + extra + 3 * facts.query + keys + scores
    per_token = _FLOAT * max(feed_forward, attention) + mask + _INPUTS
    last = window.outputs * (facts.vocabulary + 6 * facts.embedding) * _FLOAT + window.tokens * (mask + _INPUTS)
    return max(window.tokens * per_token, last)


def work_bytes(facts: ModelFacts, params: LlamaParams, window: Window) -> int:
    """What the CPU converts the input of a product to, 16 bits at most (ggml_graph_plan in ggml-cpu.c)."""
    scores = facts.heads * window.cells if params.flash_attn == "off" else 0
    return 2 * window.tokens * max(facts.embedding, facts.feed_forward, facts.query, scores)


def output_bytes(facts: ModelFacts, params: LlamaParams, window: Window) -> int:
    """Logits, and embeddings where they are wanted (src/llama-context.cpp, output_reserve); and the samplers'."""
    embeddings = facts.embedding if _embeds(params) else 0
    rows = max(window.outputs, params.parallel)
    return rows * (facts.vocabulary + embeddings) * _FLOAT + params.parallel * facts.vocabulary * _CANDIDATE


def process_bytes(facts: ModelFacts, launcher: Launcher) -> int:
    """Programs, libraries, threads, vocabulary, room for graphs."""
    return _PROCESS[launcher][0] + vocabulary_bytes(facts, launcher)


def vocabulary_bytes(facts: ModelFacts, launcher: Launcher) -> int:
    """What a further model in the process adds: its vocabulary, and room for its graphs."""
    return facts.vocabulary * _PROCESS[launcher][1] + facts.tensors * _TENSOR


def checkpoint_bytes(facts: ModelFacts, params: LlamaParams, window: Window) -> int:
    """Copies of what can't be wound back, windows and states, of all slots (tools/server/server-context.cpp)."""
    windows = sum(cache_bytes(layer, facts, params, window) for layer in facts.layers if layer.windowed)
    states = sum(state_bytes(layer, params) for layer in facts.layers)
    return _CHECKPOINTS * (windows + states)


def _embeds(params: LlamaParams) -> bool:
    """Whether embeddings are made: every token of a batch has an output then (tools/server/server-context.cpp)."""
    return params.embedding or params.reranking or params.pooling not in (None, "none")


def _padded(tokens: int) -> int:
    return -(-tokens // _CELLS) * _CELLS
