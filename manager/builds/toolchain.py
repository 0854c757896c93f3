"""The programs that compile: found before the long work, or fetched, or named with the package that brings them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from manager.builds.failure import BuildFailed, Tell
from manager.package_index import install

_ASKED: Final = 20.0  # seconds that a program has to tell its version
# What llama.cpp's CUDA part needs for "native" (ggml/src/ggml-cuda/CMakeLists.txt), and Ninja that knows depfiles of
# several outputs.
_OLDEST: Final = {"cmake": (3, 24), "ninja": (1, 10)}
_FETCHED: Final = {"cmake": "cmake==4.4.4", "ninja": "ninja==1.13.2"}
_IN_WHEEL: Final = {"cmake": "cmake/data/bin/cmake", "ninja": "bin/ninja"}

_CXX: Final = ("a C and a C++ compiler", "apt-get install g++")
_VULKAN: Final = "apt-get install libvulkan-dev glslc spirv-headers"


@dataclass(frozen=True, slots=True)
class Tools:
    cmake: Path
    ninja: Path


def provide_tools(folder: Path, tell: Tell, *, quiet: bool) -> Tools:
    """CMake and Ninja: of this Python's environment, of PATH where new enough, else fetched into `folder`. Blocks.

    Raises FetchFailed.
    """
    found = {name: _find(name, folder) for name in _OLDEST}
    missing = [_FETCHED[name] for name, path in found.items() if path is None]
    if missing:
        tell.say(f"Fetching {' and '.join(missing)} from the package index ...")
        folder.mkdir(parents=True, exist_ok=True)
        install(missing, folder, quiet=quiet)
        found = {name: _find(name, folder) for name in _OLDEST}
    cmake, ninja = found["cmake"], found["ninja"]
    if cmake is None or ninja is None:
        raise BuildFailed(
            f"CMake and Ninja from the package index can't be run here: install them ({_cmake_packages()})."
        )
    return Tools(cmake, ninja)


def need_compilers(gpu: str) -> None:
    """Raise BuildFailed where a compiler or header is missing, with the package that brings it. Blocks."""
    if _compiler("CC", ("cc", "gcc", "clang")) is None or _compiler("CXX", ("c++", "g++", "clang++")) is None:
        raise _lacks(*_CXX)
    if gpu == "vulkan":
        _need_vulkan()
    if gpu == "rocm" and _first(("hipcc", "/opt/rocm/bin/hipcc")) is None:
        raise _lacks("hipcc", "AMD's packages for your system: https://rocm.docs.amd.com")
    if gpu == "metal" and sys.platform != "darwin":
        raise BuildFailed("Metal is there on macOS only: choose another --backend.")


def compiler_version() -> str:
    """The first line that the C++ compiler says of itself. Blocks."""
    compiler = _compiler("CXX", ("c++", "g++", "clang++"))
    return said(compiler, "--version").partition("\n")[0] if compiler else ""


def said(program: Path | str, *arguments: str) -> str:
    """All that a program writes, whether it does well or not; empty where it can't be run. Blocks."""
    return run(program, *arguments)[1]


def run(program: Path | str, *arguments: str) -> tuple[int | None, str]:
    """A program's exit status, None where it can't be run, and all that it writes. Blocks."""
    try:
        done = subprocess.run(  # noqa: S603  a compiler or a build tool, found on PATH
            [str(program), *arguments], stdin=subprocess.DEVNULL, capture_output=True, timeout=_ASKED
        )
    except (OSError, subprocess.SubprocessError):
        return None, ""
    return done.returncode, (done.stdout + done.stderr).decode("utf-8", "replace")


def _find(name: str, folder: Path) -> Path | None:
    on_path = shutil.which(name)
    candidates = [Path(sys.executable).parent / name, *([Path(on_path)] if on_path else []), folder / _IN_WHEEL[name]]
    return next((path for path in candidates if path.is_file() and _version(path) >= _OLDEST[name]), None)


def _version(program: Path) -> tuple[int, ...]:
    found = re.search(r"(\d+)\.(\d+)", said(program, "--version"))
    return tuple(map(int, found.groups())) if found else ()


def _compiler(variable: str, names: Iterable[str]) -> str | None:
    """What the variable names, as CMake takes it, else the first that is there."""
    wanted = os.environ.get(variable, "").split()
    return _first(wanted[:1] or names)


def _first(names: Iterable[str]) -> str | None:
    return next((found for name in names if (found := shutil.which(name))), None)


def _need_vulkan() -> None:
    sdk = os.environ.get("VULKAN_SDK")
    roots = [Path(sdk), Path("/usr"), Path("/usr/local")] if sdk else [Path("/usr"), Path("/usr/local")]
    if _first(("glslc", *(str(root / "bin/glslc") for root in roots))) is None:
        raise _lacks("glslc, the compiler of shaders,", _VULKAN)
    for header in ("vulkan/vulkan.h", "spirv/unified1/spirv.hpp"):
        if not any((root / "include" / header).is_file() for root in roots):
            raise _lacks(f"the header {header}", _VULKAN)


def _lacks(what: str, remedy: str) -> BuildFailed:
    return BuildFailed(f"llama.cpp can't be compiled here: {what} is missing. Install it: {remedy}")


def _cmake_packages() -> str:
    return "pip install 'llamaherd[build]', or apt-get install cmake ninja-build"
