"""What models are expected to take, what they took, and what there is for all of them together."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from manager.engines.llama.native import Launcher, choose_launcher, drives_cuda
from manager.entry import ModelEntry
from manager.errors import ConfigError, LoadFailed
from manager.memory import HOST, Estimate, estimate
from manager.memory_free import Free, Gpus, gpus, host_free
from manager.memory_hf import estimate_folder, folder_files
from manager.memory_learnt import Learnt, Life, corrected, peaks
from manager.memory_measured import anonymous
from manager.memory_model import part_paths, stamps
from manager.settings import Settings

logger = logging.getLogger(__name__)

# Parameters that decide on memory. Sampling, threads, templates and such don't.
# fmt: off
SHAPING: Final = frozenset({
    "batch_size", "cache_ram_mib", "cache_type_k", "cache_type_v", "ctx_size", "device", "draft_gpu_layers",
    "draft_max", "embedding", "extra_args", "flash_attn", "gpu_layers", "kv_unified", "main_gpu", "mlock", "mmap",
    "parallel", "pooling", "reranking", "split_mode", "tensor_split", "ubatch_size",
})
# fmt: on


@dataclass(frozen=True, slots=True)
class Expected:
    """What an entry will take, in bytes.

    `estimate`: by part, None where its files can't be read that far; `learnt`: the most that its last lives took, by
    device, empty where nothing was learnt; `needed`: what has to be there by device before a load: this counts.
    """

    estimate: Estimate | None = None
    learnt: Mapping[str, int] = field(default_factory=dict)
    needed: Mapping[str, int] = field(default_factory=dict)


class Ledger:
    """All methods are for the event loop; files, processes and NVML are looked at in threads."""

    def __init__(self, settings: Settings, *, host: Callable[[], Free] = host_free, nvidia: Gpus | None = None) -> None:
        self._settings = settings
        self._memory = settings.memory
        self._visible = settings.llama.cuda_visible_devices
        self._host = host
        self._nvidia = nvidia or gpus()
        self._learnt = Learnt(settings.storage.memory_file)
        self._read = False
        self._reading = asyncio.Lock()
        self._writing = asyncio.Lock()
        self._changed = False
        # By name: the entry whose memory was last asked for, and the fingerprint of what decided on it then.
        self._asked: dict[str, tuple[ModelEntry, str]] = {}
        self._gpu_room: Mapping[str, int] | None = None

    async def expected(self, entry: ModelEntry) -> Expected:
        """Never raises for the sake of an entry: what is wrong with it the load itself will say."""
        await self._read_once()
        try:
            fingerprint, found = await asyncio.to_thread(self._estimated, entry)
        except (LoadFailed, OSError) as error:
            logger.debug("model=%s memory is not known: %s", entry.name, error)
            return Expected()
        except Exception:  # a header that makes no sense
            logger.exception("model=%s memory is not known", entry.name)
            return Expected()
        self._asked[entry.name] = entry, fingerprint
        lives = self._learnt.lives(fingerprint)
        return Expected(found, peaks(lives), corrected(found, lives))

    async def room(self, running: Mapping[int, Mapping[str, int]]) -> Mapping[str, int]:
        """What all models may take together, of the host and of each GPU, in bytes.

        It is the budget of the settings, where there is one, else what is free, less the reserve, and what the models
        of `running` have of it: pid to what each was admitted with, by device. What one took beyond that is not
        counted, as it is not there for others.
        """
        return await asyncio.to_thread(self._room, dict(running))

    async def total(self) -> Mapping[str, int]:
        """How much memory the host, or its control group, and each GPU have, in bytes."""
        devices = await asyncio.to_thread(self._devices)
        return {device.device: device.total for device in devices}

    def learn(self, entry: ModelEntry, peak: Mapping[str, int], *, served: bool) -> None:
        """Take in the most that a life took; `served`: it had requests. `expected` was asked before that life.

        Nothing is learnt where the entry has been changed meanwhile: what it took is not what the new one will take.
        """
        asked, fingerprint = self._asked.get(entry.name, (None, ""))
        if asked == entry and peak:
            self._learnt.add(fingerprint, entry.name, Life(dict(peak), served))
            self._changed = True

    async def flush(self) -> None:
        """Write what was learnt since the last time. Never raises: a failure is logged, and tried again next time."""
        async with self._writing:
            if not self._changed:
                return
            self._changed = False
            try:
                await asyncio.to_thread(self._learnt.write, self._learnt.snapshot())
            except Exception as error:
                self._changed = True
                logger.warning("memory_file=%s not written: %s", self._settings.storage.memory_file, error)

    async def _read_once(self) -> None:
        async with self._reading:
            if not self._read:
                await asyncio.to_thread(self._learnt.read)
                self._read = True

    def _estimated(self, entry: ModelEntry) -> tuple[str, Estimate]:
        """The fingerprint of all that decides on an entry's memory, and the estimate. Raises as `estimate`. Blocks."""
        launcher, binary = self._launcher()
        if entry.engine == "hf":
            found = estimate_folder(entry)
        else:
            nvidia = self._gpus(binary)
            shares = [float(max(1, gpu.free)) if gpu.total else 0.0 for gpu in nvidia]
            found = estimate(entry, launcher, shares, room=self._room_of(nvidia))
        params = entry.params.model_dump(mode="json", include=set(SHAPING))
        # Where its layers are: what each GPU gets may depend on what is free.
        weights = [(part.device, part.size) for part in found.parts if part.name in ("weights", "draft")]
        whole = json.dumps([stamps(_files(entry)), params, launcher, weights], sort_keys=True)
        return hashlib.sha256(whole.encode()).hexdigest()[:32], found

    def _room_of(self, nvidia: Sequence[Free]) -> list[int]:
        """What each GPU has for models, those that run included, as far as `room` has been asked."""
        if not nvidia:
            return []
        if self._gpu_room is None:
            self._room({})
        known = self._gpu_room or {}
        return [known.get(gpu.device, 0) for gpu in nvidia]

    def _room(self, running: Mapping[int, Mapping[str, int]]) -> dict[str, int]:
        memory = self._memory
        theirs = Counter[str]()
        for pid, admitted in running.items():
            theirs.update(self._has(pid, admitted))
        room = {}
        for device in self._devices():
            budget, reserve = (
                (memory.host_budget, memory.host_reserve)
                if device.device == HOST
                else (memory.gpu_budget, memory.gpu_reserve)
            )
            free = max(0, device.free + theirs[device.device] - reserve)
            room[device.device] = free if budget is None else budget
        self._gpu_room = room
        return room

    def _has(self, pid: int, admitted: Mapping[str, int]) -> dict[str, int]:
        """What a running model has of what it was admitted with."""
        has = self._nvidia.used({pid}, self._visible) if admitted.keys() - {HOST} else {}
        has[HOST] = anonymous(pid)
        return {device: min(most, has.get(device, most)) for device, most in admitted.items()}

    def _devices(self) -> list[Free]:
        """The host first. A GPU that does not tell its memory uses the host's, and is none of them. Blocks."""
        return [self._host(), *(gpu for gpu in self._gpus(self._launcher()[1]) if gpu.total)]

    def _gpus(self, binary: Path | None) -> tuple[Free, ...]:
        """Those that this llama-server uses: none without it, as the wheel of the embedded one is for the CPU."""
        found = self._nvidia.free(self._visible) if binary is not None else ()
        return found if binary is not None and any(gpu.total for gpu in found) and drives_cuda(binary) else ()

    def _launcher(self) -> tuple[Launcher, Path | None]:
        try:
            return choose_launcher(self._settings)
        except ConfigError:  # a load will say it
            return "embedded", None


def _files(entry: ModelEntry) -> Iterator[Path]:
    """All files that a model is made of."""
    yield from folder_files(entry.path) if entry.engine == "hf" else part_paths(entry.path)
    if entry.mmproj is not None:
        yield entry.mmproj
    if entry.params.draft_model is not None:
        yield from part_paths(Path(entry.params.draft_model))
    yield from (Path(adapter.path) for adapter in entry.params.lora)
