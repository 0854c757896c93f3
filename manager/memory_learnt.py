"""What models really took, kept in a file, and how it corrects the estimate of the next load."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from manager.engines.judging import files_of
from manager.engines.kinds import BUILT_IN
from manager.entry import ModelEntry, ModelParams
from manager.errors import LoadFailed
from manager.memory import HOST, Estimate
from manager.memory_folder import folder_files
from manager.memory_hf import HELD, LASTING
from manager.memory_model import Stamp, part_paths, stamps

logger = logging.getLogger(__name__)

VERSION: Final = 1
# Lives that count, and shapes of models that are remembered; the oldest go.
LIVES: Final = 5
SHAPES: Final = 500
# What the next life may take beyond the largest one so far.
MARGIN: Final = 1.03
# How much of an estimate has to be there at least; and of the process's own part, which is mostly libraries: other
# processes may have a share of them, so that it takes less.
FLOOR: Final = 0.9
PROCESS_FLOOR: Final = 0.5
# How much of a peak and all buffers: little enough for a life that had touched all of them, and enough for the next
# one where none had been.
UNTOUCHED: Final = 0.87
# Parts of an estimate that are there from the load on and are touched by use.
BUFFERS: Final = frozenset({"compute", "output"})

# Parameters that decide on memory. Sampling, threads, templates and such don't.
# fmt: off
SHAPING: Final = frozenset({
    "attn_implementation", "batch_size", "cache_ram_mib", "cache_tokens", "cache_type_k", "cache_type_v", "ctx_size",
    "device", "device_map", "draft_gpu_layers", "draft_max", "dtype", "embedding", "extra_args", "flash_attn",
    "gpu_layers", "kv_unified", "main_gpu", "mlock", "mmap", "parallel", "pooling", "quantization", "reranking",
    "split_mode", "tensor_split", "ubatch_size",
})
# fmt: on


@dataclass(frozen=True, slots=True)
class Life:
    """The most that one life of a model took, in bytes by device. `served`: it had requests."""

    peak: Mapping[str, int]
    served: bool


# By fingerprint: a model's name, for whoever reads the file, and its last lives.
Shapes = dict[str, tuple[str, tuple[Life, ...]]]


class Learnt:
    """The last lives of each shape of a model, by its fingerprint. Only `read` and `write` block.

    A shape is everything that decides on memory: files, parameters, launcher, GPUs.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._shapes: Shapes = {}

    def read(self) -> None:
        """Take over what the file holds. Where it can't be read a warning says so, and nothing is known yet."""
        try:
            self._shapes = _parsed(json.loads(self._path.read_bytes()))
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            reason = getattr(error, "strerror", None) or "it is not what was written there"
            logger.warning("memory_file=%s ignored, learning starts anew: %s", self._path, reason)

    def snapshot(self) -> Shapes:
        """All of it as it is now, for `write`, while others learn on."""
        return dict(self._shapes)

    def write(self, shapes: Shapes) -> None:
        """Replace the file as a whole. Raises OSError."""
        models = {fingerprint: _as_json(*shape) for fingerprint, shape in shapes.items()}
        text = json.dumps({"version": VERSION, "models": models}, indent=1, ensure_ascii=False)
        part = self._path.with_name(f"{self._path.name}.{os.getpid()}.part")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(text, encoding="utf-8")
            part.replace(self._path)
        except OSError:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            raise

    def add(self, fingerprint: str, model: str, life: Life) -> None:
        _, lives = self._shapes.pop(fingerprint, (model, ()))
        self._shapes[fingerprint] = (model, (*lives, life)[-LIVES:])
        while len(self._shapes) > SHAPES:
            del self._shapes[next(iter(self._shapes))]

    def lives(self, fingerprint: str) -> tuple[Life, ...]:
        return self._shapes.get(fingerprint, ("", ()))[1]


def peaks(lives: tuple[Life, ...]) -> dict[str, int]:
    """The largest peak on each device."""
    devices = dict.fromkeys(device for life in lives for device in life.peak)
    return {device: max(life.peak.get(device, 0) for life in lives) for device in devices}


def corrected(
    estimate: Estimate, lives: tuple[Life, ...], most: Mapping[str, int], *, settled: bool = True
) -> dict[str, int]:
    """What has to be there on each device before the next load, in bytes.

    It is the largest peak of the lives and a margin, less what the kernel can take back. Upwards every life counts,
    downwards only those that had requests. Their use may have been light all the same, which leaves buffers of the
    host untouched: so UNTOUCHED of the peak with all these buffers is needed, up to the estimate. And pages of the file
    may have been shared with other processes: so FLOOR of the estimate is needed but for its process. On a GPU there is
    no such doubt: llama.cpp takes everything at the load, and shares nothing. But where layers go by what is free, not
    `settled`, a life's share says nothing of the next one's, and nothing counts downwards.

    What was learnt above the estimate counts up to `most`, what a device could have at all: a prompt cache grows into
    what there is, and the model ran. An estimate above that stays.
    """
    everything, served = peaks(lives), peaks(tuple(life for life in lives if life.served))
    result = {}
    for device in dict.fromkeys([*estimate.devices, *everything]):
        peak, needed = everything.get(device, 0), estimate.needed(device)
        reclaimable = estimate.devices.get(device, 0) - needed
        least = round(MARGIN * peak) - reclaimable
        if device not in served or not settled:
            least = max(least, needed)
        elif device == HOST:
            used = round(UNTOUCHED * (peak + _sum(estimate, BUFFERS))) - reclaimable
            least = max(least, min(used, needed), _unshared(estimate))
        result[device] = max(0, min(least, max(needed, most.get(device, 0))))
    return result


def raised(
    estimate: Estimate, lives: tuple[Life, ...], most: Mapping[str, int], *, settled: bool = True
) -> dict[str, int]:
    """`corrected` for a model in our own process.

    Its engine says exactly what it holds, and that is part of the estimate only: the rest comes on top of a peak. A
    cache that was not filled says nothing of the next one, so nothing counts downwards. And where the layers go by what
    is free, not `settled`, nothing counts at all: what was on one device may be on another.
    """
    result, everything = {}, peaks(lives) if settled else {}
    for device in dict.fromkeys([*estimate.devices, *everything]):
        needed = estimate.needed(device)
        unseen = sum(part.size for part in estimate.parts if part.device == device and part.name not in HELD)
        least = everything[device] + unseen if device in everything else 0
        result[device] = max(needed, min(least, most.get(device, 0)))
    return result


def lasting(estimate: Estimate) -> dict[str, int]:
    """Bytes by device that stay with the service when the model goes: what libraries take that it brings in."""
    return {part.device: part.size for part in estimate.parts if part.name == LASTING}


def _sum(estimate: Estimate, names: Collection[str]) -> int:
    return sum(part.size for part in estimate.parts if part.device == HOST and part.name in names)


def _unshared(estimate: Estimate) -> int:
    process = _sum(estimate, {"process"})
    return round(FLOOR * (estimate.needed(HOST) - process) + PROCESS_FLOOR * process)


def _parsed(data: Any) -> Shapes:
    """Raises ValueError, TypeError, KeyError or AttributeError where it is not what `write` writes."""
    if data["version"] != VERSION:
        raise ValueError("another version")
    return {
        str(fingerprint): (str(shape["model"]), tuple(_life(one) for one in shape["lives"])[-LIVES:])
        for fingerprint, shape in list(data["models"].items())[-SHAPES:]
    }


def _life(data: Any) -> Life:
    peak = {str(device): size for device, size in data["peak"].items()}
    if not all(isinstance(size, int) and size >= 0 for size in peak.values()):
        raise ValueError("a size is no number of bytes")
    return Life(peak, data["served"] is True)


def _as_json(model: str, lives: tuple[Life, ...]) -> dict[str, Any]:
    return {"model": model, "lives": [{"served": life.served, "peak": dict(life.peak)} for life in lives]}


def fingerprint(entry: ModelEntry, launcher: str, gpus: Sequence[tuple[str, int]], *, as_read: bool = False) -> str:
    """Of all that decides on what an entry takes, `gpus` by name and size, and not of what is free.

    `as_read`: the files as they were when the catalog was read, as far as that is known. Raises LoadFailed or OSError
    where one is missing. Blocks.
    """
    params = entry.params.model_dump(mode="json", include=set(SHAPING) | _own_keys(entry))
    whole = json.dumps([_stamps(entry, as_read), params, launcher, list(gpus)], sort_keys=True)
    return hashlib.sha256(whole.encode()).hexdigest()[:32]


def _own_keys(entry: ModelEntry) -> set[str]:
    """What an engine of another package has beyond the keys of all: any of it may decide on memory."""
    if entry.engine in BUILT_IN:
        return set()
    return {"model", *type(entry.params).model_fields.keys() - ModelParams.model_fields.keys()}


def file_bytes(entry: ModelEntry) -> int:
    """How large the files are that are there. Blocks."""
    size = 0
    with suppress(LoadFailed, OSError):
        for path in _files(entry):
            with suppress(OSError):
                size += path.stat().st_size
    return size


def _files(entry: ModelEntry) -> Iterator[Path]:
    """All files that a model is made of. Raises as `folder_files`."""
    if entry.engine == "hf":
        yield from folder_files(entry.path, pickle=entry.hf.allow_pickle)
        return
    if entry.engine != "llama":
        yield from files_of(entry)
        return
    yield from part_paths(entry.path)
    if entry.mmproj is not None:
        yield entry.mmproj
    if entry.llama.draft_model is not None:
        yield from part_paths(Path(entry.llama.draft_model))
    yield from (Path(adapter.path) for adapter in entry.llama.lora)


def _stamps(entry: ModelEntry, as_read: bool) -> list[Stamp]:
    known: dict[Path, Stamp] = {}
    if as_read:
        # Entries that no catalog made have no stamps, and a folder may have got more files since.
        pairs = zip(files_of(entry), entry.stamps, strict=False)
        known = {path: (str(path), size, changed) for path, (changed, size) in pairs if size}
    return [known.get(path) or stamps([path])[0] for path in _files(entry)]
