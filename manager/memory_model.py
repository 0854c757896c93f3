"""What a model's files say of it: its size, kind and layers. Reads headers only."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from manager.gguf_file import split_name
from manager.gguf_header import Tensor, read_header
from manager.memory_layers import Layer, Lookup, copied_bytes, head_size, keeps_cache, read_layers, sliding_window

# Path, size and time of the last change in nanoseconds.
Stamp = tuple[str, int, int]


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A model as its headers describe it. Sizes are in bytes, widths in elements."""

    architecture: str
    name: str | None
    parameters: int
    types: Mapping[int, int]  # ggml type number to bytes
    file_type: int | None
    trained_window: int
    embedding: int
    feed_forward: int  # of all experts that one token uses
    heads: int
    kv_heads: int
    query: int  # width of all heads together
    vocabulary: int
    tensors: int
    window: int  # sliding window in tokens, 0 where there is none
    cached: bool  # whether there is a cache at all
    layers: tuple[Layer, ...]
    input: int  # weights that stay with the host: token embeddings and what belongs to no layer
    output: int  # weights after the last layer
    output_copied: int
    tied: int  # bytes of the token embeddings where they are also the output, else 0
    chat_template: bool

    @property
    def weights(self) -> int:
        return self.input + self.output + sum(layer.weights for layer in self.layers)


def read_model(path: Path) -> ModelFacts:
    """Read the headers of all parts. Raises LoadFailed where one is no GGUF header, OSError where one is missing.

    They are remembered while sizes and times of the files stay as they are. Blocks.
    """
    return _remembered(path, stamps(part_paths(path)))


def stamps(files: Iterable[Path]) -> tuple[Stamp, ...]:
    """By which a change of a file is seen. Raises OSError where one is missing. Blocks."""
    found = ((str(path), path.stat()) for path in files)
    return tuple((path, stat.st_size, stat.st_mtime_ns) for path, stat in found)


@lru_cache(maxsize=64)
def _remembered(path: Path, parts: tuple[Stamp, ...]) -> ModelFacts:
    # Errors are raised, and so not remembered.
    headers = [(part, read_header(part)) for part in (Path(name) for name, _, _ in parts)]
    first = headers[0][1]
    lookup = Lookup(path.name, first)
    tensors = [tensor for _, header in headers for tensor in header.infos]
    by_name = {tensor.name: tensor for tensor in tensors}
    embeddings = by_name.get("token_embd.weight")
    # Without weights of its own the output uses the embeddings.
    head = by_name.get("output.weight", embeddings)
    layers = read_layers(lookup, tensors)
    output = sum(tensor.size for tensor in tensors if tensor.name.startswith("output"))
    data = sum(max(0, part.stat().st_size - header.data_start) for part, header in headers)
    types: Counter[int] = Counter()
    for tensor in tensors:
        types[tensor.kind] += tensor.size
    name, file_type = first.metadata.get("general.name"), first.metadata.get("general.file_type")
    heads = lookup.most("attention.head_count")
    return ModelFacts(
        architecture=lookup.architecture,
        name=name if isinstance(name, str) else None,
        parameters=sum(math.prod(tensor.shape) for tensor in tensors),
        types=dict(types),
        file_type=file_type if isinstance(file_type, int) else None,
        trained_window=lookup.number("context_length"),
        embedding=lookup.number("embedding_length"),
        feed_forward=_feed_forward(lookup),
        heads=heads,
        kv_heads=lookup.most("attention.head_count_kv", heads),
        query=heads * head_size(lookup, "key"),
        vocabulary=_vocabulary(lookup, embeddings),
        tensors=len(tensors),
        window=sliding_window(lookup),
        cached=keeps_cache(lookup),
        layers=layers,
        # What lies in the file and belongs nowhere, such as tensors of a type newer than ours, counts here.
        input=max(0, data - output - sum(layer.weights for layer in layers)),
        output=output,
        output_copied=0 if head is None else copied_bytes(head),
        tied=0 if head is None or head is not embeddings else head.size,
        chat_template="tokenizer.chat_template" in first.metadata,
    )


def part_paths(path: Path) -> list[Path]:
    """All files of a model, given its first one."""
    split = split_name(path.name)
    if split is None:
        return [path]
    return [path.with_name(split.sibling(part)) for part in range(1, split.total + 1)]


def tensor_bytes(path: Path) -> int:
    """What an adapter or a projector holds: the whole file but its header."""
    return max(0, path.stat().st_size - read_header(path).data_start)


def read_projector(path: Path) -> tuple[int, int]:
    """Bytes of a vision projector's weights, and of the buffer in which it looks at one image of its own size."""
    lookup = Lookup(path.name, read_header(path))
    patches = (lookup.number("vision.image_size") // max(1, lookup.number("vision.patch_size"))) ** 2
    width, inner = lookup.number("vision.embedding_length"), lookup.number("vision.feed_forward_length")
    # The graph of a layer as in memory_sizes.compute_bytes, all patches at once; not calibrated.
    return tensor_bytes(path), patches * (4 * (6 * width + 3 * inner) + 2 * patches)


def _feed_forward(lookup: Lookup) -> int:
    dense = lookup.most("feed_forward_length", 4 * lookup.number("embedding_length"))
    return max(dense, lookup.most("expert_used_count") * lookup.most("expert_feed_forward_length", dense))


def _vocabulary(lookup: Lookup, embeddings: Tensor | None) -> int:
    if embeddings is not None and len(embeddings.shape) == 2:
        return embeddings.shape[1]
    return lookup.number("vocab_size")
