"""Finds the compiled `llama-server`, and decides which launcher starts a model."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from manager.errors import ConfigError

if TYPE_CHECKING:
    from manager.settings import Settings

Launcher = Literal["native", "embedded"]

# What llama-server writes above its devices, and how long it may take for that: CUDA needs a second or more to begin.
DEVICES: Final = "Available devices:"
LIST_TIMEOUT: Final = 30.0
BINARY_NAME: Final = "llama-server"
EMBEDDED_PACKAGE: Final = "xllamacpp"


def find_binary(settings: Settings) -> Path | None:
    """The setting llama.binary, else llama-server on PATH, else the newest one in the cache folder.

    Raises ConfigError where the setting names something that can't be run. Blocks.
    """
    wanted = settings.llama.binary
    if wanted is not None:
        if not wanted.is_file():
            raise ConfigError(f"llama.binary: {wanted} does not exist or is no file")
        if not _runnable(wanted):
            raise ConfigError(f"llama.binary: {wanted} is not executable")
        return wanted
    on_path = shutil.which(BINARY_NAME)
    if on_path is not None:
        return Path(on_path).absolute()
    built = [path for path in settings.storage.cache_folder.glob(f"llama/*/{BINARY_NAME}") if _runnable(path)]
    return max(built, key=lambda path: path.stat().st_mtime, default=None)


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


def drives_cuda(binary: Path) -> bool:
    """Whether this llama-server was compiled for NVIDIA GPUs and finds one; also where it does not say. Blocks."""
    seen = binary.stat()
    return _drives_cuda(binary, seen.st_mtime_ns, seen.st_size)


@lru_cache
def _drives_cuda(binary: Path, _changed: int, _size: int) -> bool:
    try:
        done = subprocess.run(  # noqa: S603  the one that runs the models
            [str(binary), "--list-devices"], stdin=subprocess.DEVNULL, capture_output=True, timeout=LIST_TIMEOUT
        )
    except (OSError, subprocess.SubprocessError):
        return True
    text = (done.stdout + done.stderr).decode("utf-8", "replace")
    listed = text.partition(DEVICES)
    return not listed[1] or any(line.strip().startswith("CUDA") for line in listed[2].splitlines())


def _runnable(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)
