"""Which devices models may use: the host, and the NVIDIA GPUs that the engine of an entry drives."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path

from manager.engines.kinds import BUILT_IN
from manager.engines.llama.native import Launcher, choose_launcher, devices, drives_cuda
from manager.entry import ModelEntry
from manager.errors import ConfigError
from manager.memory import HOST
from manager.memory_free import Free, Gpus, gpus, host_free
from manager.memory_hf import torch_drives_cuda
from manager.placement import leaves_open
from manager.settings import Settings

logger = logging.getLogger(__name__)


class Devices:
    """Looks anew each time. All methods block, and may be called in several threads."""

    def __init__(
        self, settings: Settings, host: Callable[[], Free], nvidia: Gpus, torch_cuda: Callable[[], bool]
    ) -> None:
        """`torch_cuda`: whether the torch that is installed can use NVIDIA GPUs."""
        self._settings = settings
        self._visible = settings.llama.cuda_visible_devices
        self._host = host
        self._nvidia = nvidia
        self._torch_cuda = torch_cuda

    def all(self, *, recent: bool = False) -> list[Free]:
        """The host first. A GPU that does not tell its memory uses the host's, and is none of them.

        `recent`: as of Gpus.free.
        """
        seen = *self._of_torch(recent), *self._of_llama(self.launcher()[1], recent)
        return [self._host(), *{gpu.device: gpu for gpu in seen if gpu.total}.values()]

    def gpus_of(self, entry: ModelEntry) -> tuple[Free, ...]:
        """Those that the engine of this entry uses."""
        if entry.engine not in BUILT_IN:
            return tuple(gpu for gpu in self.all() if gpu.device != HOST)
        return self._of_torch() if entry.engine == "hf" else self._of_llama(self.launcher()[1])

    def choosable(self, entry: ModelEntry) -> list[int]:
        """The numbers of the GPUs among which one may be chosen for all of the entry."""
        try:
            if self._settings.llama.placement != "single" or not leaves_open(entry):
                return []
            found = self.gpus_of(entry)
            if len(found) < 2 or (entry.engine == "llama" and not self._named_alike(len(found))):
                return []
            return [number for number, gpu in enumerate(found) if gpu.total]
        except OSError as error:
            logger.debug("model=%s its GPU can't be chosen: %s", entry.name, error)
            return []

    def two_names(self) -> bool:
        """Whether a name such as gpu0 is one GPU for GGUF models and another for torch."""
        pairs = zip(self._nvidia.places(), self._nvidia.places(self._visible), strict=False)
        return any(ours != theirs for ours, theirs in pairs) and bool(self._of_llama(self.launcher()[1]))

    def launcher(self) -> tuple[Launcher, Path | None]:
        """That of GGUF models, with its binary where it has one."""
        try:
            return choose_launcher(self._settings)
        except ConfigError:  # a load will say it
            return "embedded", None

    def _named_alike(self, count: int) -> bool:
        """Whether llama-server has a name for each GPU that NVML knows, and so the same order of them."""
        binary = self.launcher()[1]
        listed = None if binary is None else devices(binary, self._visible)
        cuda = [name for name in listed or () if name.startswith("CUDA")]
        return cuda == [f"CUDA{number}" for number in range(count)]

    def _of_torch(self, recent: bool = False) -> tuple[Free, ...]:
        """Those of our own process, whatever the children are to see."""
        return self._nvidia.free(recent=recent) if self._torch_cuda() else ()

    def _of_llama(self, binary: Path | None, recent: bool = False) -> tuple[Free, ...]:
        """Those that this llama-server uses: none without it, as the wheel of the embedded one is for the CPU."""
        if binary is None:
            return ()
        found = self._nvidia.free(self._visible, recent=recent)
        return found if any(gpu.total for gpu in found) and drives_cuda(binary, self._visible) else ()


def refuse_two_names(settings: Settings, entries: Iterable[ModelEntry]) -> None:
    """Raise ConfigError where models of both kinds would be counted on one GPU, and are on two. Blocks."""
    visible = settings.llama.cuda_visible_devices
    if not visible or not settings.memory.admission:
        return
    named = next((one.name for one in entries if one.engine == "hf" and one.hf.device_map != "cpu"), None)
    if named is None or not torch_drives_cuda():
        return
    if Devices(settings, host_free, gpus(), torch_drives_cuda).two_names():
        raise ConfigError(
            f"llama.cuda_visible_devices is {visible}, but models of Hugging Face ({named}) run in the service itself "
            "and have other GPUs: what is free could not be told. Set CUDA_VISIBLE_DEVICES in the environment of the "
            "service instead, which counts for both"
        )
