"""The list of builds: what is there, which one is chosen, and how one is chosen."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeGuard

from manager.builds.cpu import flags
from manager.errors import ConfigError, HerdError
from manager.mistakes import did_you_mean

if TYPE_CHECKING:
    from manager.settings import Settings

BINARY_NAME: Final = "llama-server"
RPC_NAME: Final = "ggml-rpc-server"
ABOUT: Final = "build.json"
CHOSEN: Final = "chosen"
AUTOMATIC: Final = "auto"
GONE: Final = ".old-"  # what a folder is renamed to before it is deleted
# Libraries that several builds share lie beside them, in folders with this beginning.
SHARED: Final = "cublas-"
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
_LATEST: Final = 253402300800  # the year 10000, which dates don't reach


@dataclass(frozen=True, slots=True)
class Build:
    """One llama-server of the cache folder. `made_at`: seconds since the epoch.

    `gpu`: cpu, cuda, vulkan, rocm or metal. `features`: the CPU instructions that it needs, as far as is known;
    `word` is short for them. `shared`: names of the folders beside it whose libraries it needs.
    """

    name: str
    folder: Path
    binary: Path
    version: str
    gpu: str
    features: tuple[str, ...]
    made_at: float
    source: str
    word: str = ""
    shared: tuple[str, ...] = ()

    def lacking(self, cpu: Collection[str] | None = None) -> list[str]:
        """Instructions that it needs and this machine's CPU, or `cpu`, has not. Blocks."""
        # All flags: a build may name some that are none of `instructions`, whose list changes from version to version.
        there = flags() if cpu is None else cpu
        return [feature for feature in self.features if feature not in there] if there else []

    def size(self) -> int:
        """Bytes on the disk. Blocks."""
        return sum(path.lstat().st_size for path in self.folder.rglob("*"))


def builds_folder(settings: Settings) -> Path:
    """Where all builds are."""
    return settings.storage.cache_folder / "llama"


def builds(folder: Path) -> list[Build]:
    """What is whole and can be run, newest first; also a folder with nothing but a llama-server, put there by hand.

    Blocks.
    """
    found = [build for path in _folders(folder) if (build := _read(path)) is not None]
    return sorted(found, key=lambda build: (-build.made_at, build.name))


def newest(folder: Path) -> Build | None:
    """The newest one that this machine's CPU can run. Blocks."""
    return next((build for build in builds(folder) if not build.lacking()), None)


def picked(folder: Path) -> Build | None:
    """The one that somebody chose by `use`; None where nobody did. Blocks.

    Raises ConfigError where that one is gone, or is for another CPU: something else never takes its place.
    """
    name = picked_name(folder)
    if name is None:
        return None
    try:
        return _fitting(folder, name)
    except ConfigError as error:
        raise ConfigError(f"{folder / CHOSEN}: {error.message} Choose another with llamaherd llama use.") from None


def chosen(folder: Path) -> Build | None:
    """The one that somebody chose, else the newest one that fits this machine's CPU. Blocks; raises as `picked`."""
    return picked(folder) or newest(folder)


def picked_name(folder: Path) -> str | None:
    """The name that `use` wrote, whether or not there is such a build. Blocks."""
    try:
        return (folder / CHOSEN).read_text(encoding="utf-8").strip() or None
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{folder / CHOSEN} can't be read: {error}") from error


def use(folder: Path, name: str) -> Build | None:
    """Choose a build by its name from now on, or with "auto" the newest that fits; what is chosen then. Blocks.

    Raises ConfigError where there is no such build, or this machine's CPU can't run it; HerdError where the choice
    can't be written.
    """
    try:
        if name == AUTOMATIC:
            (folder / CHOSEN).unlink(missing_ok=True)
            return newest(folder)
        build = _fitting(folder, name)
        write_whole(folder / CHOSEN, f"{name}\n")
    except OSError as error:
        raise HerdError(f"The choice can't be written to {folder / CHOSEN}: {error.strerror}.") from error
    return build


def find(folder: Path, name: str) -> Build:
    """The build of that name. Raises ConfigError with the nearest name. Blocks."""
    there = {build.name: build for build in builds(folder)}
    if name not in there:
        raise ConfigError(f"There is no build {name!r} in {folder}{did_you_mean(name, there) or '.'}")
    return there[name]


def discard(folder: Path) -> None:
    """Delete a folder so that it is either whole under its name or gone from it. Blocks."""
    gone = folder.with_name(f"{GONE}{folder.name}-{os.getpid()}-{time.monotonic_ns()}")
    folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def write_whole(path: Path, text: str) -> None:
    """Write a file so that nobody ever reads half of it. Blocks; raises OSError."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    with part.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _fitting(folder: Path, name: str) -> Build:
    build = find(folder, name)
    if lacking := build.lacking():
        raise ConfigError(
            f"{name} was compiled for another CPU, with {', '.join(lacking)}, which this machine's has not."
        )
    return build


def _folders(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    except OSError:
        return []


def _read(folder: Path) -> Build | None:
    """The build in a folder; None where there is none, or none that can be run."""
    about = read_about(folder)
    if about is None:
        return None
    features, shared = _names(about, "features"), _names(about, "shared")
    if features is None or shared is None:
        return None
    binary = folder / str(about.get("binary", BINARY_NAME))
    if not (binary.is_file() and os.access(binary, os.X_OK)):
        return None
    made_at = about.get("made_at")
    return Build(
        name=folder.name,
        folder=folder,
        binary=binary,
        version=str(about.get("version", "unknown")),
        gpu=str(about.get("backend", "unknown")),
        features=features,
        made_at=float(made_at) if _is_time(made_at) else binary.stat().st_mtime,
        source=str(about.get("source", "put there by hand")),
        word=str(about.get("cpu", "")),
        shared=shared,
    )


def read_about(folder: Path) -> dict[str, Any] | None:
    """What is said of the build in a folder: nothing where there is no file, None where it can't be understood."""
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        return None
    return about if isinstance(about, dict) else None


def _names(about: Mapping[str, Any], key: str) -> tuple[str, ...] | None:
    """A list of names, which may be missing; None where it is something else."""
    names = about.get(key) or []
    return tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else None


def _is_time(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and 0 <= value < _LATEST
