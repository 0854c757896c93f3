"""What a Hugging Face folder says of its model: config.json, and the headers of its weights. It loads nothing."""

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
from manager.errors import LoadFailed

WEIGHTS: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"
# Bytes of an element, by what config.json and safetensors call its type; of all other floats they are 2.
WIDTHS: Final = {"float64": 8, "float32": 4, "F64": 8, "F32": 4}
WIDTH: Final = 2
# What is converted to the type that the model computes in; anything else stays as it is stored.
CONVERTED: Final = frozenset({"F64", "F32", "F16", "BF16"})
_PICKLED: Final = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_CHAT_TEMPLATES: Final = ("chat_template.jinja", "chat_template.json")
_SENTENCE_TRANSFORMERS: Final = "modules.json"
# No safetensors header may be longer (its format's own limit).
_LONGEST_HEADER: Final = 100_000_000
# What some architectures call these.
_ALIASES: Final = {
    "hidden_size": ("n_embd", "d_model", "dim"),
    "intermediate_size": ("n_inner", "ffn_dim", "hidden_dim", "d_ff"),
    "max_position_embeddings": ("n_positions", "n_ctx", "max_seq_len"),
    "num_attention_heads": ("n_head", "n_heads", "num_heads"),
    "num_hidden_layers": ("n_layer", "n_layers", "num_layers"),
}


@dataclass(frozen=True, slots=True)
class HfFacts:
    """A model as its folder describes it. Sizes are in bytes, widths in elements, windows in tokens."""

    architecture: str
    parameters: int
    dtypes: Mapping[str, int]  # safetensors' name of the type to bytes
    converted: int  # elements that are brought to the type that it computes in
    linear: int  # of these, what quantisation makes smaller: the layers' matrices
    largest: int  # elements of the largest tensor
    width: int  # bytes of one element while it computes
    trained_window: int
    layers: int
    heads: int
    kv_heads: int
    row: int  # elements of keys and values that one layer keeps of each token
    embedding: int
    feed_forward: int
    vocabulary: int
    chat_template: bool
    generates: bool  # else it makes embeddings, and keeps nothing of a text
    sees: bool

    @property
    def weights(self) -> int:
        """As they are stored."""
        return sum(self.dtypes.values())


def read_folder(folder: Path, *, pickle: bool = False) -> HfFacts:
    """Blocks. `pickle`: weights that are no safetensors count too. Raises LoadFailed naming file and key."""
    whole = _Config(folder / HF_CONFIG)
    config = whole.part("text_config")
    parameters, converted, linear, largest, dtypes = 0, 0, 0, 0, Counter[str]()
    tied = config.flag("tie_word_embeddings", whole.flag("tie_word_embeddings"))
    tensors = [tensor for file in weight_files(folder, pickle=pickle) for tensor in _tensors(file)]
    for tensor in tensors:
        if tied and tensor.name.endswith("lm_head.weight") and any("embed" in one.name for one in tensors):
            continue  # it is the embeddings once more
        parameters += tensor.count
        dtypes[tensor.dtype] += tensor.size
        largest = max(largest, tensor.count)
        if tensor.dtype in CONVERTED:
            converted += tensor.count
            linear += tensor.count if tensor.is_matrix else 0
    layers, heads = config.number("num_hidden_layers"), config.number("num_attention_heads")
    kv_heads = config.number("num_key_value_heads", heads)
    stored = max(dtypes, key=lambda dtype: dtypes[dtype], default="")
    named = config.dtype or whole.dtype or stored
    return HfFacts(
        architecture=whole.architecture,
        parameters=parameters,
        dtypes=dict(dtypes),
        converted=converted,
        linear=linear,
        largest=largest,
        width=WIDTHS.get(named, WIDTH),
        trained_window=config.number("max_position_embeddings"),
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        row=_row(config, heads, kv_heads),
        embedding=config.number("hidden_size"),
        feed_forward=config.number("intermediate_size", 4 * config.number("hidden_size")),
        vocabulary=config.number("vocab_size"),
        chat_template=_has_template(folder),
        generates=not _embeds(whole.architecture) and not (folder / _SENTENCE_TRANSFORMERS).is_file(),
        sees=whole.has("vision_config"),
    )


def weight_files(folder: Path, *, pickle: bool = False) -> list[Path]:
    """The files with weights. Blocks. Raises LoadFailed where there are none, or the index makes no sense.

    `pickle`: where there are no safetensors, others will do.
    """
    kinds = ((WEIGHTS, INDEX), *((_PICKLED,) if pickle else ()))
    found = next((folder / name for kind in kinds for name in reversed(kind) if (folder / name).is_file()), None)
    if found is None:
        raise LoadFailed(f"{folder.name} holds neither {WEIGHTS} nor {INDEX}", should_retry=False)
    return [found] if found.suffix != ".json" else _indexed(folder, found)


def _indexed(folder: Path, index: Path) -> list[Path]:
    places = _object(index).get("weight_map")
    names = set(places.values()) if isinstance(places, dict) else set()
    if not names:
        raise _wrong(index, "weight_map", "names no files")
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise _wrong(index, "weight_map", f"{name!r} is no name of a file in this folder")
    return [folder / name for name in sorted(names)]


def folder_files(folder: Path, *, pickle: bool = False) -> list[Path]:
    """The files that decide on memory. Blocks. Raises like weight_files."""
    return [folder / HF_CONFIG, *weight_files(folder, pickle=pickle)]


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
        value = next((self._values[name] for name in (key, *_ALIASES.get(key, ())) if self.has(name)), None)
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

    def flag(self, key: str, default: bool = False) -> bool:
        value = self._values.get(key)
        return value if isinstance(value, bool) else default

    @property
    def dtype(self) -> str:
        """What it computes in, by config.json; empty where that is not said."""
        named = self.text("dtype") or self.text("torch_dtype")
        return "" if named == "auto" else named


def _row(config: _Config, heads: int, kv_heads: int) -> int:
    if config.has("kv_lora_rank"):  # transformers keeps what these models compress expanded
        keys = config.number("qk_nope_head_dim") + config.number("qk_rope_head_dim")
        return heads * (keys + config.number("v_head_dim"))
    return 2 * kv_heads * config.number("head_dim", config.number("hidden_size") // heads or 1)


def _embeds(architecture: str) -> bool:
    """As `manager.engines.hf.loading.load` tells it, which knows transformers' lists of classes."""
    return architecture.endswith(("Model", "ForMaskedLM")) and not architecture.endswith("LMHeadModel")


@dataclass(frozen=True, slots=True)
class _Tensor:
    name: str
    dtype: str
    shape: tuple[int, ...]
    size: int

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    @property
    def is_matrix(self) -> bool:
        """Of a linear layer, embeddings and head excepted."""
        return len(self.shape) == 2 and "embed" not in self.name and not self.name.endswith("lm_head.weight")


def _tensors(path: Path, width: int = WIDTH) -> list[_Tensor]:
    """The file begins with the length of its header, which is JSON. Of a pickled one only its size is known."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if path.suffix != ".safetensors":
                return [_Tensor(path.name, "BF16", (size // width,), size)]
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
                shape = tuple(int(one) for one in tensor["shape"])
                found.append(_Tensor(name, str(tensor["dtype"]), shape, max(0, end - start)))
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
