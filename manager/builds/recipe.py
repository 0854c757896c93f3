"""What is compiled: for which GPU and CPU, with which options of CMake, and what the result is called."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from typing import Final, Literal, get_args

from manager.builds.cpu import PORTABLE, instructions, portable_instructions, word
from manager.errors import ConfigError

Gpu = Literal["cpu", "cuda", "vulkan", "rocm", "metal"]
GPUS: Final[tuple[Gpu, ...]] = get_args(Gpu)
TARGETS: Final = ("llama-server", "ggml-rpc-server")

_SWITCHES: Final = {"cuda": "GGML_CUDA", "vulkan": "GGML_VULKAN", "rocm": "GGML_HIP", "metal": "GGML_METAL"}
_ARCH: Final = re.compile(r"\d{2,3}[af]?(-real|-virtual)?")
_OPTION: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=.*", re.DOTALL)
# What the source says of itself.
OF_SOURCE: Final = frozenset({"LLAMA_BUILD_NUMBER", "LLAMA_BUILD_COMMIT"})
# Static, so that a build is one file. The server's own web page and HTTPS are never used behind this service.
_COMMON: Final = {
    "CMAKE_BUILD_TYPE": "Release",
    "BUILD_SHARED_LIBS": "OFF",
    "LLAMA_CURL": "OFF",
    "LLAMA_OPENSSL": "OFF",
    "LLAMA_BUILD_TESTS": "OFF",
    "LLAMA_BUILD_EXAMPLES": "OFF",
    "LLAMA_BUILD_UI": "OFF",
    "LLAMA_USE_PREBUILT_UI": "OFF",
    "GGML_RPC": "ON",
}


@dataclass(frozen=True, slots=True)
class Recipe:
    """`arch`: compute capabilities for CUDA, with semicolons; empty for all that llama.cpp lists.

    `extra`: NAME=VALUE of the user, which go over ours.
    """

    gpu: Gpu
    arch: str = ""
    portable: bool = False
    extra: tuple[str, ...] = ()

    @property
    def cpu(self) -> str:
        """A short word for what the CPU must have. Blocks."""
        return PORTABLE if self.portable else word(instructions())

    @property
    def features(self) -> tuple[str, ...]:
        """The instructions that the CPU must have. Blocks."""
        return portable_instructions() if self.portable else instructions()

    def name(self, version: str) -> str:
        """What the build is called, where the user says nothing: b11434-cuda90-avx512."""
        return f"{version}-{self.gpu}{self.arch.replace(';', '+').replace('-', '')}-{self.cpu}"

    def options(self, number: int, commit: str) -> dict[str, str]:
        """Options of CMake, but for paths. The number and the commit are what `llama-server --version` says."""
        options = {
            **_COMMON,
            "GGML_NATIVE": "OFF" if self.portable else "ON",
            # Told, or llama.cpp would ask git, and take the repository in which the cache may lie for its own.
            "LLAMA_BUILD_NUMBER": str(number),
            "LLAMA_BUILD_COMMIT": commit,
        }
        if sys.platform == "darwin":
            options["GGML_METAL"] = "OFF"
        if self.gpu != "cpu":
            options[_SWITCHES[self.gpu]] = "ON"
        if self.arch:
            options["CMAKE_CUDA_ARCHITECTURES"] = self.arch
        return options | dict(self._pair(each) for each in self.extra)

    @staticmethod
    def _pair(option: str) -> tuple[str, str]:
        name, _, value = option.partition("=")
        return name, value


def check_arch(text: str) -> str:
    """Compute capabilities as CMake wants them, of a list with semicolons or commas. Raises ConfigError."""
    parts = [part.strip() for part in re.split(r"[;,]", text) if part.strip()]
    if not parts or not all(map(_ARCH.fullmatch, parts)):
        raise ConfigError(f"--cuda-arch: {text!r} is no list of compute capabilities: write 90, 86;90 or native.")
    return ";".join(parts)


def check_option(text: str) -> str:
    """An option of CMake as NAME=VALUE. Raises ConfigError."""
    if not _OPTION.fullmatch(text):
        raise ConfigError(f"--cmake-option: {text!r} is not NAME=VALUE, as in GGML_CUDA_F16=ON.")
    return text


def check_gpu(text: str) -> Gpu:
    """What is compiled for. Raises ConfigError."""
    found = next((gpu for gpu in GPUS if gpu == text.strip().lower()), None)
    if found is None:
        raise ConfigError(f"--backend: {text!r} is none of {', '.join(GPUS)}.")
    return found
