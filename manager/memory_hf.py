"""What a Hugging Face folder will take before it is loaded, from config.json and the headers of its safetensors.

Nothing was measured with an engine yet: weights and cache are exact, the rest is a guess. Everything is the host's.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from manager.discovery import HF_CONFIG
from manager.engines.llama.arguments import CTX_SIZE
from manager.entry import LlamaParams, ModelEntry
from manager.errors import LoadFailed
from manager.memory import HOST, Estimate, Part
from manager.memory_sizes import MIB

WEIGHTS: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"
_CHAT_TEMPLATES: Final = ("chat_template.jinja", "chat_template.json")
# Python with torch and transformers after a first answer took 341 MiB on x86-64; a tokenizer comes to it.
_PROCESS: Final = 400 * MIB
# No safetensors header may be longer (its format's own limit).
_LONGEST_HEADER: Final = 100_000_000
# Bytes of an element, by what config.json and safetensors call its type; all other floats have two.
_WIDTHS: Final = {"float64": 8, "float32": 4, "F64": 8, "F32": 4}
_WIDTH: Final = 2
# Kinds of layers (config.json's layer_types) that look back for a fixed number of tokens.
_WINDOWED: Final = {"sliding_attention": "sliding_window", "chunked_attention": "attention_chunk_size"}


@dataclass(frozen=True, slots=True)
class HfFacts:
    """A model as its folder describes it. Sizes are in bytes, widths in elements, windows in tokens."""

    architecture: str
    parameters: int
    dtypes: Mapping[str, int]  # safetensors' name of the type to bytes
    width: int  # bytes of one element while it computes
    trained_window: int
    layers: int
    windows: tuple[int, ...]  # of each layer; 0: it looks back at everything
    heads: int
    kv_heads: int
    row: int  # elements of keys and values that one layer keeps of each token
    embedding: int
    feed_forward: int
    vocabulary: int
    chat_template: bool

    @property
    def weights(self) -> int:
        return sum(self.dtypes.values())


def estimate_folder(entry: ModelEntry) -> Estimate:
    """What the entry's folder will take. Blocks. Raises LoadFailed naming file and key."""
    facts, params = read_folder(entry.path), entry.params
    cells = _cells(facts, params)
    sizes = {
        "weights": facts.weights,
        "cache": params.parallel * facts.width * facts.row * sum(min(cells, one or cells) for one in facts.windows),
        "compute": _activations(facts, cells) + params.parallel * facts.vocabulary * 4,
        "process": _PROCESS,
    }
    return Estimate(tuple(Part(name, HOST, size) for name, size in sizes.items() if size), reclaimable=0, later=())


def read_folder(folder: Path) -> HfFacts:
    """Blocks. Raises LoadFailed naming file and key."""
    whole = _Config(folder / HF_CONFIG)
    config = whole.part("text_config")
    parameters, dtypes = 0, Counter[str]()
    for file in weight_files(folder):
        for dtype, count, size in _tensors(file):
            parameters += count
            dtypes[dtype] += size
    layers = config.number("num_hidden_layers")
    heads = config.number("num_attention_heads")
    kv_heads = config.number("num_key_value_heads", heads)
    stored = max(dtypes, key=lambda dtype: dtypes[dtype], default="")
    return HfFacts(
        architecture=whole.architecture,
        parameters=parameters,
        dtypes=dict(dtypes),
        width=_WIDTHS.get(config.text("dtype") or config.text("torch_dtype") or stored, _WIDTH),
        trained_window=config.number("max_position_embeddings"),
        layers=layers,
        windows=config.windows(layers),
        heads=heads,
        kv_heads=kv_heads,
        row=_row(config, heads, kv_heads),
        embedding=config.number("hidden_size"),
        feed_forward=config.number("intermediate_size", 4 * config.number("hidden_size")),
        vocabulary=config.number("vocab_size"),
        chat_template=_has_template(folder),
    )


def weight_files(folder: Path) -> list[Path]:
    """The files with weights. Blocks. Raises LoadFailed where there are none, or the index makes no sense."""
    index = folder / INDEX
    if not index.is_file():
        if not (folder / WEIGHTS).is_file():
            raise LoadFailed(f"{folder.name} holds neither {WEIGHTS} nor {INDEX}", should_retry=False)
        return [folder / WEIGHTS]
    places = _object(index).get("weight_map")
    names = set(places.values()) if isinstance(places, dict) else set()
    if not names:
        raise _wrong(index, "weight_map", "names no files")
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise _wrong(index, "weight_map", f"{name!r} is no name of a file in this folder")
    return [folder / name for name in sorted(names)]


def folder_files(folder: Path) -> list[Path]:
    """The files that decide on memory. Blocks. Raises like weight_files."""
    return [folder / HF_CONFIG, *weight_files(folder)]


class _Config:
    """Values of a config.json, checked as they are asked for."""

    def __init__(self, path: Path, values: Mapping[str, Any] | None = None, prefix: str = "") -> None:
        self._path = path
        self._values = _object(path) if values is None else values
        self._prefix = prefix

    @property
    def architecture(self) -> str:
        named = self._values.get("architectures")
        first = named[0] if isinstance(named, list) and named else self._values.get("model_type")
        if not isinstance(first, str):
            raise _wrong(self._path, "architectures", "is missing, and so is model_type")
        return first

    def part(self, key: str) -> _Config:
        """What models of several kinds of input say of their language model; this, where there is no such part."""
        values = self._values.get(key)
        return _Config(self._path, values, f"{key}.") if isinstance(values, dict) else self

    def number(self, key: str, default: int | None = None) -> int:
        value = self._values.get(key)
        if value is None and default is not None:
            return default
        if value is None:
            raise _wrong(self._path, self._prefix + key, "is missing")
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 1 << 40:
            raise _wrong(self._path, self._prefix + key, f"is no number above 0: {str(value)[:40]!r}")
        return value

    def text(self, key: str) -> str:
        value = self._values.get(key)
        return value if isinstance(value, str) else ""

    def has(self, key: str) -> bool:
        return self._values.get(key) is not None

    def windows(self, layers: int) -> tuple[int, ...]:
        """Tokens that each layer looks back; 0: everything. Where the kinds of layers are not listed, all of it."""
        kinds = self._values.get("layer_types")
        if not isinstance(kinds, list):
            # Far above any real model; a mistake must not keep us busy.
            if layers > 1 << 12:
                raise _wrong(self._path, f"{self._prefix}num_hidden_layers", f"is too high: {layers:,}")
            return (0,) * layers
        if len(kinds) != layers:
            raise _wrong(self._path, f"{self._prefix}layer_types", f"lists {len(kinds)} layers of {layers}")
        keys = [_WINDOWED.get(str(kind), "") for kind in kinds]
        return tuple(self.number(key) if key else 0 for key in keys)


def _row(config: _Config, heads: int, kv_heads: int) -> int:
    if config.has("kv_lora_rank"):  # transformers keeps what these models compress expanded
        keys = config.number("qk_nope_head_dim") + config.number("qk_rope_head_dim")
        return heads * (keys + config.number("v_head_dim"))
    return 2 * kv_heads * config.number("head_dim", config.number("hidden_size") // heads or 1)


def _cells(facts: HfFacts, params: LlamaParams) -> int:
    return CTX_SIZE if params.ctx_size is None else params.ctx_size or facts.trained_window


def _activations(facts: HfFacts, cells: int) -> int:
    """A prompt as long as the window goes through a layer at once: its input and what comes of it. A guess."""
    return cells * facts.width * (6 * facts.embedding + 3 * facts.feed_forward)


def _tensors(path: Path) -> list[tuple[str, int, int]]:
    """Type, elements and bytes of each tensor. The file begins with the length of its header, which is JSON."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(_LONGEST_HEADER, size - 8):
                raise LoadFailed(f"{_shown(path)} is no whole safetensors file", should_retry=False)
            text = file.read(length)
    except OSError as error:
        raise _unreadable(path, error) from None
    found = []
    for name, tensor in _parsed(path, text).items():
        if name != "__metadata__":
            try:
                start, end = (int(offset) for offset in tensor["data_offsets"])
                found.append((str(tensor["dtype"]), math.prod(tensor["shape"]), max(0, end - start)))
            except (TypeError, KeyError, ValueError):
                raise _wrong(path, name, "is no description of a tensor") from None
            if end > size - 8 - length:
                raise LoadFailed(f"{_shown(path)} is cut off: {size:,} bytes", should_retry=False)
    return found


def _object(path: Path) -> dict[str, Any]:
    try:
        return _parsed(path, path.read_bytes())
    except OSError as error:
        raise _unreadable(path, error) from None


def _parsed(path: Path, text: bytes) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise LoadFailed(f"{_shown(path)} holds no JSON object", should_retry=False)
    return value


def _has_template(folder: Path) -> bool:
    if any((folder / name).is_file() for name in _CHAT_TEMPLATES):
        return True
    config = folder / "tokenizer_config.json"
    return config.is_file() and "chat_template" in _object(config)


def _unreadable(path: Path, error: OSError) -> LoadFailed:
    return LoadFailed(f"{_shown(path)} can't be read: {error.strerror}", should_retry=False)


def _wrong(path: Path, key: str, what: str) -> LoadFailed:
    return LoadFailed(f"{_shown(path)}: {key} {what}", should_retry=False)


def _shown(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"
