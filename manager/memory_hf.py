"""What a Hugging Face model will take before it is loaded, by part and by device. It reads no files itself.

docs/memory.md explains the formulas and how they were measured.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from manager.engines.llama.arguments import CTX_SIZE
from manager.entry import HfParams, ModelEntry
from manager.memory import HOST, Estimate, Part
from manager.memory_folder import CONVERTED, WIDTH, WIDTHS, HfFacts, read_folder
from manager.memory_sizes import MIB

# Parts of an estimate that the engine itself counts when it measures; the others come and go, or are the libraries'.
HELD: Final = frozenset({"weights", "cache"})
# The part that stays with the service when the model goes.
LASTING: Final = "libraries"
# torch, transformers, llguidance and the code of one architecture, and what the first answer adds to it.
_LIBRARIES: Final = 350 * MIB
# A context of CUDA on a GPU. An assumption: not measured.
_GPU_CONTEXT: Final = 400 * MIB
# A tokenizer, for each token of the vocabulary; and what the first grammar adds to it.
_TOKEN: Final = 960
_TOKEN_OF_GRAMMARS: Final = 650
# Threads, and what allocators keep between two steps: 60 to 110 MiB after 16 streams of mixed lengths.
_SLACK: Final = 64 * MIB
_CHUNK: Final = 512  # tokens of a prompt that are read at once
_GROWTH: Final = 256  # tokens by which a cache grows (manager.engines.hf.batch.cache)
_SAMPLED: Final = 2  # copies of the logits
_FILLED: Final = 0.9  # how much of a GPU transformers fills with weights (its integration of accelerate)
_SHARED_OUT: Final = frozenset({"auto", "balanced", "balanced_low_0", "sequential"})
# Bits of a weight by the keys of a quantization_config, and what blocks of them have in common besides.
_QUANTISED: Final = {"load_in_4bit": 4.0, "load_in_8bit": 8.0}
_BITS: Final = ("bits", "nbits", "w_bit")
_TYPES: Final = ("weights", "quant_type", "weights_dtype")
_SCALES: Final = 0.5
_WITH_CUDA: Final = re.compile(r"^cuda\b[^=]*= *['\"]", re.MULTILINE)


def estimate_folder(entry: ModelEntry, gpus: Sequence[int] = ()) -> Estimate:
    """What the entry's folder will take. `gpus`: the bytes that it may have on each. Blocks.

    The libraries count only where they are not in this process yet. Raises LoadFailed naming file and key.
    """
    params = entry.hf
    facts = read_folder(entry.path, pickle=params.allow_pickle)
    weights, cache = _weights(facts, params), _cache(facts, params)
    shares = _shares(params.device_map, weights, gpus)
    parts = [
        Part(name, device, round(share * size))
        for device, share in shares.items()
        for name, size in (("weights", weights), ("cache", cache))
    ]
    parts += (Part("compute", device, _activations(facts, params)) for device in shares)
    parts.append(Part("compute", HOST, _answers(facts, params) + _SLACK))
    # While a weight is packed or converted it is there twice, and neither cache nor buffers are there yet.
    later = sum(part.size for part in parts if part.device == HOST and part.name != "weights")
    parts.append(Part("load", HOST, max(0, facts.largest * _width(facts, params) - later)))
    parts.append(Part("tokenizer", HOST, facts.vocabulary * _TOKEN))
    parts += _libraries(shares)
    grammars = facts.vocabulary * _TOKEN_OF_GRAMMARS if _generates(facts, params) else 0
    return Estimate(tuple(_merged(parts)), reclaimable=0, later=tuple(_merged([Part("grammars", HOST, grammars)])))


def goes_by_room(device_map: str | Mapping[str, int | str]) -> bool:
    """Whether what is free decides which layers go to which device, where there are GPUs."""
    return isinstance(device_map, str) and device_map in _SHARED_OUT


@cache
def torch_drives_cuda(find: Callable[[str], ModuleSpec | None] = find_spec) -> bool:
    """Whether the torch that is installed was made for NVIDIA GPUs. Imports nothing. Blocks, the first time."""
    spec = find("torch")
    places = (spec and spec.submodule_search_locations) or []
    files = [Path(place) / "version.py" for place in places]
    return any(file.is_file() and _WITH_CUDA.search(file.read_text("utf-8")) is not None for file in files)


def _width(facts: HfFacts, params: HfParams) -> int:
    return facts.width if params.dtype == "auto" else WIDTHS.get(params.dtype, WIDTH)


def _weights(facts: HfFacts, params: HfParams) -> int:
    """In memory. On the CPU some are packed, which takes the place of what was packed."""
    width = _width(facts, params)
    kept = sum(size for dtype, size in facts.dtypes.items() if dtype not in CONVERTED)
    bits = None if params.quantization is None else _bits(params.quantization)
    if bits is None:
        return kept + facts.converted * width
    return kept + (facts.converted - facts.linear) * width + round(facts.linear * bits / 8)


def _bits(quantization: Mapping[str, Any]) -> float | None:
    """Bits of a weight of a linear layer, what blocks of them have in common included; None where that is not known."""
    bits = next((bits for key, bits in _QUANTISED.items() if quantization.get(key) is True), None)
    if bits is None:
        bits = next((float(quantization[key]) for key in _BITS if isinstance(quantization.get(key), int)), None)
    if bits is None:
        found = (re.search(r"(?:int|float|fp|nf)(\d)", str(quantization.get(key, ""))) for key in _TYPES)
        bits = next((float(match[1]) for match in found if match), None)
    return None if bits is None else bits + _SCALES


def _window(facts: HfFacts, params: HfParams) -> int:
    wanted = CTX_SIZE if params.ctx_size is None else params.ctx_size
    return min(wanted or facts.trained_window, facts.trained_window)


def _generates(facts: HfFacts, params: HfParams) -> bool:
    return facts.generates and not params.embedding


def _cache(facts: HfFacts, params: HfParams) -> int:
    """Of all sequences, those that ended included: they are kept until there is no room for more."""
    if not _generates(facts, params):
        return 0
    window = _window(facts, params)
    tokens = max(params.cache_tokens or 2 * window, -(-window // _GROWTH) * _GROWTH)
    return tokens * facts.layers * facts.row * _width(facts, params)


def _activations(facts: HfFacts, params: HfParams) -> int:
    """Of the most tokens that go through a layer at once: what comes in, what is made of it, and norms in 32 bits."""
    tokens, width = _window(facts, params), _width(facts, params)
    if _generates(facts, params) and not facts.sees:  # a prompt with images is read at once, and so is what is embedded
        tokens = min(params.batch_size or _CHUNK, tokens)
    feed_forward = width * (4 * facts.embedding + 3 * facts.feed_forward)
    norm = (2 * width + 12) * facts.embedding
    return tokens * max(feed_forward, norm)


def _answers(facts: HfFacts, params: HfParams) -> int:
    """Logits of all sequences, and what the samplers make of them in 32 bits."""
    if not _generates(facts, params):
        return 0
    return params.parallel * facts.vocabulary * (_width(facts, params) + 4 * _SAMPLED)


def _shares(device_map: str | Mapping[str, int | str], weights: int, gpus: Sequence[int]) -> dict[str, float]:
    """What part of the layers each device gets, as transformers and accelerate share them out."""
    if not isinstance(device_map, str):
        devices = [_device(one) for one in device_map.values()]
        return {device: devices.count(device) / len(devices) for device in dict.fromkeys(devices)} or {HOST: 1.0}
    if device_map == "cpu" or not gpus or not weights:
        return {HOST: 1.0}
    if device_map not in _SHARED_OUT:
        return {_device(device_map): 1.0}
    even = weights if device_map == "sequential" else -(-weights // len(gpus))
    sizes = [0] * len(gpus)
    for most in (even, weights):  # what is left after the even shares goes where there is room
        for number, room in enumerate(gpus):
            sizes[number] += max(
                0, min(most, int(_FILLED * room), sizes[number] + weights - sum(sizes)) - sizes[number]
            )
    found = {f"gpu{number}": size / weights for number, size in enumerate(sizes) if size}
    rest = 1 - sum(sizes) / weights
    return {**({HOST: rest} if rest > 0 else {}), **found}


def _device(name: int | str) -> str:
    """Ours of what a device_map calls a device."""
    text = str(name).removeprefix("cuda").removeprefix(":")
    return f"gpu{int(text or 0)}" if isinstance(name, int) or text != name else HOST


def _libraries(shares: Mapping[str, float]) -> Iterator[Part]:
    torch = sys.modules.get("torch")
    if torch is None:
        yield Part(LASTING, HOST, _LIBRARIES)
    if torch is None or not torch.cuda.is_initialized():
        yield from (Part(LASTING, device, _GPU_CONTEXT) for device in shares if device != HOST)


def _merged(parts: Sequence[Part]) -> Iterator[Part]:
    sizes = dict.fromkeys(((part.name, part.device) for part in parts), 0)
    for part in parts:
        sizes[part.name, part.device] += part.size
    yield from (Part(name, device, size) for (name, device), size in sizes.items() if size)
