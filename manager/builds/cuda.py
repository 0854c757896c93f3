"""NVIDIA's compiler and libraries, as far as a build needs them; what is missing and how it is got round."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from manager.builds.failure import BuildFailed, Tell
from manager.builds.kept import SHARED
from manager.builds.toolchain import said
from manager.package_index import install

# By major version of CUDA; libraries of one major version fit together.
CUBLAS: Final = {"12": "nvidia-cublas-cu12==12.9.1.4", "13": "nvidia-cublas==13.0.2.14"}
CUBLAS_ROOM: Final = 1_500_000_000  # bytes: the wheel of 420 MB and what is in it, for a moment both

# Options of CMake that `provide_parts` may choose.
PARTS: Final = frozenset({"CMAKE_CUDA_COMPILER", "GGML_CUDA_NO_VMM", "CUDA_cublas_LIBRARY", "CUDA_cublasLt_LIBRARY"})

_SYSTEM: Final = (Path("/usr"), Path("/usr/local"))
_LIBRARIES: Final = ("lib64", "lib", "targets/*/lib", "lib/*-linux-gnu", "lib/wsl/lib")
_INCLUDES: Final = ("include", "targets/*/include")


@dataclass(frozen=True, slots=True)
class Toolkit:
    """Where CUDA's compiler is and what belongs to it. `version` such as 13.0."""

    nvcc: Path
    root: Path
    version: str

    @property
    def has_cublas(self) -> bool:
        return bool(self._find(_INCLUDES, "cublas_v2.h") and self._find(_LIBRARIES, "libcublas.so"))

    @property
    def has_driver_library(self) -> bool:
        """Whether there is a libcuda to link with: the driver's own, or the stand-in that the toolkit brings."""
        return bool(self._find([*_LIBRARIES, *(f"{each}/stubs" for each in _LIBRARIES)], "libcuda.so"))

    @property
    def has_runtime(self) -> bool:
        return bool(self._find(_INCLUDES, "cuda_runtime.h") and self._find(_LIBRARIES, "libcudart.so"))

    def _find(self, folders: Any, name: str) -> Path | None:
        roots = [self.root, *_SYSTEM]
        return next((path for root in roots for folder in folders for path in root.glob(f"{folder}/{name}")), None)


@dataclass(frozen=True, slots=True)
class CudaParts:
    """What CUDA adds to a build: CMake options, variables for the compilers, and names of shared folders."""

    options: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    shared: tuple[str, ...] = ()


def find_toolkit() -> Toolkit | None:
    """The nvcc of $CUDACXX, of PATH, or at its usual place. Blocks."""
    nvcc = shutil.which(os.environ.get("CUDACXX") or "nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
    if nvcc is None:
        return None
    release = re.search(r"release (\d+\.\d+)", said(nvcc, "--version"))
    # What lies on PATH may be a script or a link; nvcc itself knows where it belongs.
    top = re.search(r"^#\$ TOP=(.+)$", said(nvcc, "--dryrun", "-x", "cu", os.devnull), re.MULTILINE)
    root = Path(top[1]) if top else Path(nvcc).resolve().parent.parent
    return Toolkit(Path(nvcc), root.resolve(), release[1] if release else "")


def need_toolkit() -> Toolkit:
    """Raise BuildFailed where CUDA can't be compiled for. Blocks."""
    toolkit = find_toolkit()
    if toolkit is None:
        raise BuildFailed(
            "llama.cpp can't be compiled for CUDA here: nvcc is missing. Install NVIDIA's CUDA toolkit "
            "(apt-get install nvidia-cuda-toolkit, or https://developer.nvidia.com/cuda-downloads), or set CUDACXX."
        )
    if not toolkit.has_runtime:
        raise BuildFailed(
            f"The CUDA toolkit at {toolkit.root} is not whole: cuda_runtime.h or libcudart.so is missing. "
            f"Install NVIDIA's package cuda-cudart-dev of version {toolkit.version}."
        )
    return toolkit


def compute_capabilities() -> list[str]:
    """Of the NVIDIA GPUs that are here, sorted, as CMake names them (90 for 9.0). Blocks."""
    pynvml: Any = importlib.import_module("pynvml")  # it has no types
    try:
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(number) for number in range(pynvml.nvmlDeviceGetCount())]
        pairs = [pynvml.nvmlDeviceGetCudaComputeCapability(handle) for handle in handles]
    except pynvml.NVMLError:
        return []
    return [f"{major}{minor}" for major, minor in sorted(set(pairs))]


def provide_parts(toolkit: Toolkit, folder: Path, tell: Tell, *, from_index: bool, quiet: bool) -> CudaParts:
    """What is to be added so that the toolkit does, complete or not. `folder`: that of the builds. Blocks.

    Raises BuildFailed or FetchFailed.
    """
    options = {"CMAKE_CUDA_COMPILER": str(toolkit.nvcc)}
    if not toolkit.has_driver_library:
        tell.say("There is no libcuda to link with: compiling without CUDA's virtual memory (GGML_CUDA_NO_VMM).")
        options["GGML_CUDA_NO_VMM"] = "ON"
    if toolkit.has_cublas and not from_index:
        return CudaParts(options)
    requirement = CUBLAS.get(toolkit.version.partition(".")[0])
    if requirement is None:
        raise BuildFailed(
            f"cuBLAS is missing in {toolkit.root}, and none is known for CUDA {toolkit.version}: install libcublas-dev."
        )
    cublas = _provide_cublas(requirement, folder, tell, quiet=quiet)
    libraries = next(cublas.rglob("libcublas.so")).parent
    options |= {f"CUDA_{name}_LIBRARY": str(libraries / f"lib{name}.so") for name in ("cublas", "cublasLt")}
    include = str(next(cublas.rglob("cublas_v2.h")).parent)
    paths = [include, *filter(None, [os.environ.get("CPATH")])]
    return CudaParts(options, {"CPATH": os.pathsep.join(paths)}, (cublas.name,))


def shared_name(requirement: str) -> str:
    """What the folder of such a cuBLAS is called."""
    return f"{SHARED}{requirement.rpartition('==')[2]}"


def _provide_cublas(requirement: str, folder: Path, tell: Tell, *, quiet: bool) -> Path:
    """The folder of cuBLAS beside the builds, where they find it at run time."""
    kept = folder / shared_name(requirement)
    if kept.is_dir():
        return kept
    if shutil.disk_usage(folder).free < CUBLAS_ROOM:
        raise BuildFailed(f"{requirement} needs {CUBLAS_ROOM // 10**6} MB in {folder} while it is fetched.")
    tell.say(f"CUDA's toolkit has no cuBLAS: fetching {requirement} from the package index (420 MB, once) ...")
    with tempfile.TemporaryDirectory(dir=folder, prefix=".build-") as temporary:
        target = Path(temporary) / "packages"
        install([requirement], target, quiet=quiet)
        for name in ("cublas", "cublasLt"):
            library = next(target.rglob(f"lib{name}.so.*"), None)
            if library is None:
                raise BuildFailed(f"{requirement} holds no lib{name}.so: it can't be linked with.")
            library.with_name(f"lib{name}.so").symlink_to(library.name)
        target.rename(kept)
    return kept
