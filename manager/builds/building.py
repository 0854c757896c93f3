"""Compiles llama-server: the source, the compilers, the compilation, and what is kept of it."""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil

from manager.builds.compilation import Compilation
from manager.builds.cuda import (
    CUBLAS,
    CudaParts,
    Toolkit,
    compute_capabilities,
    find_toolkit,
    need_toolkit,
    provide_parts,
    shared_name,
)
from manager.builds.existing import kept_as
from manager.builds.failure import BuildFailed, Tell
from manager.builds.kept import BINARY_NAME, RPC_NAME, Build, builds_folder
from manager.builds.recipe import TARGETS, Gpu, Recipe, check_arch, check_option
from manager.builds.source import PINNED, PINNED_NUMBER, Tree, provide_tree
from manager.builds.toolchain import Tools, compiler_version, need_compilers, provide_tools
from manager.builds.workshop import Model, admit, check_name, check_room, workshop
from manager.package_index import Pinned
from manager.settings import Settings

# Bytes that a compilation wants on the disk, source and all; CUDA's objects are many.
_ROOM: Final = {"cuda": 8_000_000_000, "rocm": 8_000_000_000}
_ROOM_ELSE: Final = 3_000_000_000
# Bytes of memory that one compiler may take: with more at once than fit the system kills them.
_PER_JOB: Final = {"cuda": 2 << 30, "rocm": 2 << 30}
_PER_JOB_ELSE: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class Order:
    """What the user asked for; None is for us to choose."""

    gpu: Gpu | None = None
    arch: str | None = None
    jobs: int | None = None
    source: Path | None = None
    portable: bool = False
    extra: tuple[str, ...] = ()
    name: str | None = None
    again: bool = False
    cublas_from_index: bool = False
    pinned: Pinned = PINNED


def build(order: Order, settings: Settings, tell: Tell, model: Model | None, *, quiet: bool) -> Build:
    """The build, made now, or there before and made so. `model` gives that of the smoke test, None: no test. Blocks.

    Raises BuildFailed or FetchFailed where it can't be made, ConfigError for a mistake in the order; then the list of
    builds is as it was. `quiet`: pip shows no progress.
    """
    if order.name is not None:
        check_name(order.name)
    gpu = order.gpu or _choose_gpu(tell)
    need_compilers(gpu)
    toolkit = need_toolkit() if gpu == "cuda" else None
    recipe = Recipe(gpu, _arch(order, gpu, tell), order.portable, tuple(map(check_option, order.extra)))
    folder = builds_folder(settings)
    wanted = _wanted(order, recipe, toolkit)
    if order.source is None:
        name = order.name or recipe.name(f"b{PINNED_NUMBER}")
        if there := _kept(order, folder, name, {**wanted, "source_sha256": order.pinned.sha256}, tell):
            return there
    with workshop(folder) as temporary:
        check_room(folder, _ROOM.get(gpu, _ROOM_ELSE))
        tools = provide_tools(folder / "tools", tell, quiet=quiet)
        tree = provide_tree(order.source, temporary, tell, quiet=quiet, pinned=order.pinned)
        name = order.name or recipe.name(tree.version)
        if there := _kept(order, folder, name, {**wanted, "source_sha256": tree.sha256}, tell):
            return there
        parts = CudaParts()
        if toolkit is not None:
            parts = provide_parts(toolkit, folder, tell, from_index=order.cublas_from_index, quiet=quiet)
        tried_with = None if model is None else model()
        work = Compilation(folder / "logs" / f"{name}.log", parts.environment, tell)
        tell.say(f"Compiling {name}. Its log: {work.path}")
        made = _compile(work, tools, tree, temporary, _options(recipe, tree, tools, parts), order.jobs or _jobs(gpu))
        about = _about(recipe, tree, parts, toolkit)
        return admit(made, name, about, settings, tell, tried_with)


def _choose_gpu(tell: Tell) -> Gpu:
    """CUDA where it can be compiled and there is a GPU; Metal on macOS; else the CPU."""
    if platform.system() == "Darwin":
        return "metal"
    if not compute_capabilities():
        tell.say("For the CPU: there is no NVIDIA GPU (--backend names other kinds).")
        return "cpu"
    if find_toolkit() is None:
        tell.say("For the CPU: there is an NVIDIA GPU, but no nvcc (apt-get install nvidia-cuda-toolkit).")
        return "cpu"
    tell.say("For CUDA: there are an NVIDIA GPU and nvcc (--backend cpu leaves the GPU out).")
    return "cuda"


def _arch(order: Order, gpu: Gpu, tell: Tell) -> str:
    """What CUDA is compiled for. "native" is told by number, so that the build's name says it."""
    if gpu != "cuda":
        return ""
    if order.arch is not None and order.arch.strip().lower() != "native":
        return check_arch(order.arch)
    native = ";".join(compute_capabilities())
    if not native and order.arch is not None:
        raise BuildFailed("--cuda-arch native: there is no NVIDIA GPU here that could tell its compute capability.")
    if not native:
        tell.say("There is no NVIDIA GPU here: compiling for all that llama.cpp lists. With --cuda-arch it takes less.")
    return native


def _wanted(order: Order, recipe: Recipe, toolkit: Toolkit | None) -> dict[str, Any]:
    """What build.json says of a build that was ordered so, but for its source."""
    wanted = {"backend": recipe.gpu, "cpu": recipe.cpu, "options": recipe.options(0, "")}
    cublas = CUBLAS.get(toolkit.version.partition(".")[0]) if toolkit is not None else None
    return wanted | ({"shared": [shared_name(cublas)]} if order.cublas_from_index and cublas else {})


def _kept(order: Order, folder: Path, name: str, wanted: dict[str, Any], tell: Tell) -> Build | None:
    return None if order.again else kept_as(folder, name, wanted, tell)


def _jobs(gpu: Gpu) -> int:
    """As many as there are processors, and memory for the compilers."""
    most = psutil.virtual_memory().available // _PER_JOB.get(gpu, _PER_JOB_ELSE)
    return max(1, min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, most))


def _options(recipe: Recipe, tree: Tree, tools: Tools, parts: CudaParts) -> list[str]:
    options = {
        "CMAKE_MAKE_PROGRAM": str(tools.ninja),
        **parts.options,
        **recipe.options(tree.number, tree.commit),
    }
    return [f"-D{name}={value}" for name, value in options.items()]


def _compile(work: Compilation, tools: Tools, tree: Tree, temporary: Path, options: list[str], jobs: int) -> Path:
    """A folder with the programs, and llama.cpp's licence."""
    cmake, objects = str(tools.cmake), str(temporary / "objects")
    with work:
        work.run("CMake's configuration", [cmake, "-G", "Ninja", "-S", str(tree.folder), "-B", objects, *options])
        work.run("The compilation", [cmake, "--build", objects, "--target", *TARGETS, "--parallel", str(jobs)])
    made = temporary / "made"
    made.mkdir()
    for name in (BINARY_NAME, RPC_NAME):
        program = temporary / "objects" / "bin" / name
        if not program.is_file():
            raise BuildFailed(f"The compilation made no {name}. Its log: {work.path}")
        shutil.copy2(program, made / name)
    if (tree.folder / "LICENSE").is_file():
        shutil.copyfile(tree.folder / "LICENSE", made / "LICENSE")
    return made


def _about(recipe: Recipe, tree: Tree, parts: CudaParts, toolkit: Toolkit | None) -> dict[str, Any]:
    return {
        "version": tree.version,
        "backend": recipe.gpu,
        "cuda_arch": recipe.arch or None,
        "cuda": toolkit.version if toolkit is not None else None,
        "cpu": recipe.cpu,
        "features": list(recipe.features),
        "options": parts.options | recipe.options(tree.number, tree.commit),
        "ordered": [option.partition("=")[0] for option in recipe.extra],
        "compiler": compiler_version(),
        "source": tree.origin,
        "source_sha256": tree.sha256,
        "shared": list(parts.shared),
    }
