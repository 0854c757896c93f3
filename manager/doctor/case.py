"""What several areas look at, each thing once: settings, models, keys, launcher and GPUs."""

from __future__ import annotations

import importlib
import os
import stat
import subprocess
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any, Final

from manager.auth import KeyStore
from manager.catalog import Catalog, load_catalog
from manager.doctor.probe import runs
from manager.engines.llama.native import LIST_TIMEOUT, Launcher, choose_launcher, devices
from manager.memory_free import Free, Gpus
from manager.settings import Settings

OTHERS: Final = 0o077  # rights of group and others
NO_GPU: Final = "-1"  # in a CUDA_VISIBLE_DEVICES
EVERY: Final = ",".join(map(str, range(64)))  # as a CUDA_VISIBLE_DEVICES that hides none


class NotLookedAt(Exception):
    """What a check needs can't be had, for a reason that another finding tells."""


@dataclass(frozen=True, slots=True)
class Ran:
    """How a program ended: its exit status, None where it did not end in time; and what it wrote, to both streams."""

    status: int | None
    text: str


@dataclass
class Case:
    """One machine with its settings. `mistake`: why there are none; then `settings` raises NotLookedAt.

    `nvml` returns a module like pynvml; `sys`, `proc`, `dev` are the folders of the kernel. All of it blocks.
    """

    given: Settings | None
    mistake: str | None = None
    nvml: Callable[[], Any] = lambda: importlib.import_module("pynvml")
    sys: Path = Path("/sys")
    proc: Path = Path("/proc")
    dev: Path = Path("/dev")

    @property
    def settings(self) -> Settings:
        if self.given is None:
            raise NotLookedAt("the settings have mistakes")
        return self.given

    @cached_property
    def catalog(self) -> Catalog:
        """Raises ConfigError."""
        return load_catalog(self.settings)

    @cached_property
    def keys(self) -> KeyStore:
        """Raises ConfigError, and NotLookedAt where reading the file would change its mode."""
        path = self.settings.storage.keys_file
        with suppress(OSError):  # the store tells what is wrong
            if stat.S_IMODE(path.stat().st_mode) & OTHERS:
                raise NotLookedAt(f"others can read {path}")
        store = KeyStore(path)
        store.load()
        return store

    @cached_property
    def launcher(self) -> tuple[Launcher, Path | None]:
        """Raises ConfigError."""
        return choose_launcher(self.settings)

    @cached_property
    def version(self) -> Ran | None:
        """What the llama-server says of its version; None where there is none."""
        binary = self.launcher[1]
        return None if binary is None else run(str(binary), "--version")

    @cached_property
    def devices(self) -> tuple[str, ...] | None:
        """Names such as CUDA0 of what the llama-server would use; None where there is none, or it does not tell."""
        binary = self.launcher[1]
        return None if binary is None else devices(binary, self.settings.llama.cuda_visible_devices)

    @cached_property
    def gpus(self) -> Gpus:
        return Gpus(self.nvml)

    @cached_property
    def every_gpu(self) -> tuple[Free, ...]:
        """The NVIDIA GPUs of the machine, whatever the settings and the environment hide."""
        return self.gpus.free(EVERY)

    @cached_property
    def running(self) -> bool:
        """Whether the service of these settings runs and answers on its port."""
        return runs(self.settings)

    @property
    def visible(self) -> str | None:
        """The CUDA_VISIBLE_DEVICES of models; None: it is not set."""
        chosen = None if self.given is None else self.given.llama.cuda_visible_devices
        return os.environ.get("CUDA_VISIBLE_DEVICES") if chosen is None else chosen

    @property
    def named(self) -> tuple[str, ...] | None:
        """The GPUs that `visible` names; none where it hides all. -1 ends the list."""
        if self.visible is None:
            return None
        names = (name.strip() for name in self.visible.split(","))
        return tuple(takewhile(lambda name: name != NO_GPU, names)) if self.visible.strip() else ()


def run(program: str, *arguments: str, timeout: float = LIST_TIMEOUT) -> Ran:
    """Run a program to its end. Raises OSError where it can't be started. Blocks."""
    try:
        done = subprocess.run(  # noqa: S603  a program of the settings or of PATH
            [program, *arguments], stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout
        )
    except subprocess.TimeoutExpired:
        return Ran(None, "")
    return Ran(done.returncode, (done.stdout + done.stderr).decode("utf-8", "replace"))
