"""Finds the compiled `llama-server`, and decides which launcher starts a model."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from manager.builds.kept import BINARY_NAME, Build, builds_folder, newest, picked
from manager.errors import ConfigError

if TYPE_CHECKING:
    from manager.settings import Settings

Launcher = Literal["native", "embedded"]

# What llama-server writes above its devices, and how long it may take for that: CUDA needs a second or more to begin.
DEVICES: Final = "Available devices:"
LIST_TIMEOUT: Final = 30.0
_DEVICE: Final = re.compile(r"^\s+(\S+): ", re.MULTILINE)
EMBEDDED_PACKAGE: Final = "xllamacpp"


@dataclass(frozen=True, slots=True)
class Found:
    """A llama-server and why it is the one; `build`: the one of the cache folder, where it is of there."""

    binary: Path
    why: Literal["the setting llama.binary", "chosen with llamaherd llama use", "on PATH", "the newest that fits"]
    build: Build | None = None


def find_binary(settings: Settings) -> Path | None:
    """The llama-server that runs models; see `find`."""
    found = find(settings)
    return None if found is None else found.binary


def find(settings: Settings) -> Found | None:
    """The setting llama.binary, else the build that somebody chose, else PATH, else the newest build that fits.

    Raises ConfigError where the setting, or the choice, names something that can't be run. Blocks.
    """
    wanted = settings.llama.binary
    if wanted is not None:
        if not wanted.is_file():
            raise ConfigError(f"llama.binary: {wanted} does not exist or is no file")
        if not _runnable(wanted):
            raise ConfigError(f"llama.binary: {wanted} is not executable")
        return Found(wanted, "the setting llama.binary")
    builds = builds_folder(settings)
    if (chosen := picked(builds)) is not None:
        return Found(chosen.binary, "chosen with llamaherd llama use", chosen)
    on_path = shutil.which(BINARY_NAME)
    if on_path is not None:
        return Found(Path(on_path).absolute(), "on PATH")
    built = newest(builds)
    return None if built is None else Found(built.binary, "the newest that fits", built)


def choose_launcher(settings: Settings) -> tuple[Launcher, Path | None]:
    """Native, with its binary, where there is one; else embedded.

    Raises ConfigError where neither can be had. Blocks.
    """
    launcher = settings.llama.launcher
    if launcher != "embedded":
        binary = find_binary(settings)
        if binary is not None:
            return "native", binary
        if launcher == "native":
            raise ConfigError(
                f"llama.launcher is native, but there is no {BINARY_NAME}: set llama.binary or put it on PATH"
            )
    # Never imported here: the child does that, and this process stays small.
    if find_spec(EMBEDDED_PACKAGE) is None:
        other = "" if launcher == "embedded" else f", or set llama.binary to a {BINARY_NAME}, or put one on PATH"
        raise ConfigError(f"GGUF models can't be run here: install the package {EMBEDDED_PACKAGE}{other}")
    return "embedded", None


def drives_cuda(binary: Path, visible: str | None = None) -> bool:
    """Whether this llama-server was compiled for NVIDIA GPUs and finds one; also where it does not say. Blocks."""
    listed = devices(binary, visible)
    return listed is None or any(name.startswith("CUDA") for name in listed)


def devices(binary: Path, visible: str | None = None) -> tuple[str, ...] | None:
    """Names such as CUDA0 in llama-server's order, as `--list-devices` tells them; None where it does not. Blocks.

    `visible`: the CUDA_VISIBLE_DEVICES of the children; None: that of our environment. Each file is asked once.
    """
    seen = binary.stat()
    return _devices(binary, visible, seen.st_mtime_ns, seen.st_size)


@lru_cache
def _devices(binary: Path, visible: str | None, _changed: int, _size: int) -> tuple[str, ...] | None:
    environment = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", **os.environ}  # as a child has it
    if visible is not None:
        environment["CUDA_VISIBLE_DEVICES"] = visible
    try:
        done = subprocess.run(  # noqa: S603  the one that runs the models
            [str(binary), "--list-devices"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=LIST_TIMEOUT,
            env=environment,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    _, heading, listed = done.stdout.decode("utf-8", "replace").partition(DEVICES)
    return tuple(_DEVICE.findall(listed)) if heading else None


def _runnable(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)
