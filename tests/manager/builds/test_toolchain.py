from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from manager.builds import cuda
from manager.builds.cuda import find_toolkit, need_toolkit, provide_parts
from manager.builds.failure import BuildFailed
from manager.builds.recipe import Recipe, check_arch, check_option
from manager.builds.toolchain import need_compilers, provide_tools
from manager.errors import ConfigError
from manager.package_index import FetchFailed
from tests.manager.builds.conftest import MakeBuild, Watcher, program

NVCC = """#!/bin/sh
case "$1" in
--version) echo "Cuda compilation tools, release 13.0, V13.0.88" ;;
--dryrun) echo "#$ TOP=$FAKE_CUDA/bin/.." >&2 ;;
esac
"""


def test_tools_beside_python_go_before_path(toolbox: Path, tmp_path: Path, watcher: Watcher) -> None:
    tools = provide_tools(tmp_path / "tools", watcher, quiet=True)
    assert (tools.cmake, tools.ninja) == (toolbox / "cmake", toolbox / "ninja")
    assert watcher.said == []


def test_old_cmake_is_passed_over(
    toolbox: Path, tmp_path: Path, watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_CMAKE_VERSION", "3.18.4")
    monkeypatch.setenv("PATH", str(toolbox))
    fetched = program(tmp_path / "tools/cmake/data/bin/cmake", "echo cmake version 4.4.4")
    assert provide_tools(tmp_path / "tools", watcher, quiet=True).cmake == fetched


def test_missing_tools_are_fetched_from_the_index(
    toolbox: Path, tmp_path: Path, watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_CMAKE_VERSION", "3.18.4")
    monkeypatch.setenv("PATH", str(toolbox))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(FetchFailed, match=r"could not download cmake==4\.4\.4"):
        provide_tools(tmp_path / "tools", watcher, quiet=True)
    assert watcher.said == ["Fetching cmake==4.4.4 from the package index ..."]


@pytest.mark.parametrize(
    ("gpu", "remedy"),
    [("cpu", r"apt-get install g\+\+"), ("vulkan", "libvulkan-dev glslc"), ("rocm", "rocm"), ("metal", "macOS")],
)
def test_missing_compiler_is_named_with_its_package(
    gpu: str, remedy: str, toolbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if gpu == "cpu":
        (toolbox / "c++").unlink()
    monkeypatch.setenv("PATH", str(toolbox))
    monkeypatch.setenv("VULKAN_SDK", str(toolbox))
    with pytest.raises(BuildFailed, match=remedy):
        need_compilers(gpu)


def test_vulkan_needs_headers_too(toolbox: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sdk = tmp_path / "sdk"
    program(sdk / "bin" / "glslc", "exit 0")
    monkeypatch.setenv("VULKAN_SDK", str(sdk))
    for header in ("vulkan/vulkan.h", "spirv/unified1/spirv.hpp"):
        if not any((Path(root) / header).exists() for root in ("/usr/include", "/usr/local/include")):
            with pytest.raises(BuildFailed, match=header):
                need_compilers("vulkan")
        (sdk / "include" / header).parent.mkdir(parents=True)
        (sdk / "include" / header).touch()
    need_compilers("vulkan")


@pytest.fixture
def toolkit(toolbox: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """CUDA without cuBLAS and without the stand-in for the driver, whose nvcc is a script on PATH."""
    root = tmp_path / "cuda"
    for name in ("include/cuda_runtime.h", "lib64/libcudart.so"):
        (root / name).parent.mkdir(parents=True)
        (root / name).touch()
    (root / "bin").mkdir()
    program(toolbox / "nvcc", NVCC)
    monkeypatch.setenv("FAKE_CUDA", str(root))
    monkeypatch.setattr(cuda, "_SYSTEM", ())
    return root


def shelve_cublas(folder: Path) -> None:
    for name in ("include/cublas_v2.h", "lib/libcublas.so.13", "lib/libcublasLt.so.13"):
        path = folder / "cublas-13.0.2.14" / "nvidia" / "cu13" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    library = path.parent
    for name in ("cublas", "cublasLt"):
        (library / f"lib{name}.so").symlink_to(f"lib{name}.so.13")


def test_toolkit_is_where_nvcc_says_it_belongs(toolkit: Path) -> None:
    found = find_toolkit()
    assert found is not None
    assert (found.version, found.root) == ("13.0", toolkit)
    assert (found.has_runtime, found.has_cublas, found.has_driver_library) == (True, False, False)


def test_complete_toolkit_needs_nothing(toolkit: Path, tmp_path: Path, watcher: Watcher) -> None:
    (toolkit / "lib64/stubs").mkdir()
    for name in ("include/cublas_v2.h", "lib64/libcublas.so", "lib64/stubs/libcuda.so"):
        (toolkit / name).touch()
    parts = provide_parts(need_toolkit(), tmp_path, watcher, from_index=False, quiet=True)
    assert parts.options.keys() == {"CMAKE_CUDA_COMPILER"}
    assert (parts.environment, parts.shared, watcher.said) == ({}, (), [])


def test_cublas_of_the_index_and_a_missing_driver_are_told_to_cmake(
    toolkit: Path, tmp_path: Path, watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelve_cublas(tmp_path)
    monkeypatch.setenv("CPATH", "/mine")
    parts = provide_parts(need_toolkit(), tmp_path, watcher, from_index=False, quiet=True)
    cublas = tmp_path / "cublas-13.0.2.14" / "nvidia" / "cu13"
    assert parts.options["CUDA_cublas_LIBRARY"] == str(cublas / "lib/libcublas.so")
    assert parts.options["CUDA_cublasLt_LIBRARY"] == str(cublas / "lib/libcublasLt.so")
    assert parts.options["GGML_CUDA_NO_VMM"] == "ON"
    assert parts.environment == {"CPATH": f"{cublas / 'include'}{os.pathsep}/mine"}
    assert parts.shared == ("cublas-13.0.2.14",)
    assert "GGML_CUDA_NO_VMM" in watcher.said[0]


def test_cuda_without_its_compiler_or_runtime_is_told_before_the_work(
    toolkit: Path, toolbox: Path, make_build: MakeBuild, tmp_path: Path
) -> None:
    (toolkit / "lib64/libcudart.so").unlink()
    with pytest.raises(BuildFailed, match=r"cuda-cudart-dev of version 13\.0"):
        make_build(gpu="cuda")
    (toolbox / "nvcc").unlink()
    if find_toolkit() is None:  # unless the machine has one at the usual place
        with pytest.raises(BuildFailed, match="nvidia-cuda-toolkit"):
            make_build(gpu="cuda")
    assert not (tmp_path / "cmake.log").exists()


def test_cuda_build_is_named_by_what_it_is_for(
    toolkit: Path, make_build: MakeBuild, folder: Path, watcher: Watcher, tmp_path: Path
) -> None:
    shelve_cublas(folder)
    made = make_build(gpu="cuda", arch="86;90", portable=True)
    assert made.name == "b4321-cuda86+90-portable"
    assert (made.gpu, made.shared) == ("cuda", ("cublas-13.0.2.14",))
    configure = (tmp_path / "cmake.log").read_text().splitlines()[0]
    assert "-DGGML_CUDA=ON" in configure
    assert "-DCMAKE_CUDA_ARCHITECTURES=86;90" in configure


def test_cuda_without_gpu_is_compiled_for_all_and_native_is_refused(
    toolkit: Path, make_build: MakeBuild, folder: Path, watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelve_cublas(folder)
    monkeypatch.setattr("manager.builds.building.compute_capabilities", list)
    with pytest.raises(BuildFailed, match="no NVIDIA GPU"):
        make_build(gpu="cuda", arch="native")
    assert make_build(gpu="cuda", portable=True).name == "b4321-cuda-portable"
    assert "--cuda-arch" in watcher.said[0]


@pytest.mark.parametrize(("capabilities", "nvcc", "gpu"), [([], True, "cpu"), (["90"], True, "cuda")])
def test_backend_that_nobody_named_is_cuda_with_a_gpu_and_nvcc_else_cpu_and_is_told(
    capabilities: list[str],
    nvcc: bool,
    gpu: str,
    toolkit: Path,
    make_build: MakeBuild,
    folder: Path,
    watcher: Watcher,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shelve_cublas(folder)
    monkeypatch.setattr("manager.builds.building.compute_capabilities", lambda: capabilities)
    made = make_build(gpu=None, portable=True)
    assert made.name == f"b4321-{gpu}{''.join(capabilities)}-portable"
    assert ("GPU" in watcher.said[0], "--backend" in watcher.said[0]) == (True, True)


@pytest.mark.parametrize(("text", "arch"), [("90", "90"), ("86; 90", "86;90"), ("75-virtual,120a", "75-virtual;120a")])
def test_arch_is_a_list_of_compute_capabilities(text: str, arch: str) -> None:
    assert check_arch(text) == arch


@pytest.mark.parametrize("text", ["", "sm_90", "9.0", "90 -DX=1"])
def test_odd_arch_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--cuda-arch"):
        check_arch(text)


def test_odd_option_is_refused() -> None:
    assert check_option("A=b=c d") == "A=b=c d"
    with pytest.raises(ConfigError, match="NAME=VALUE"):
        check_option("-DA=B")


def test_every_kind_of_gpu_has_its_switch() -> None:
    options: dict[str, dict[str, Any]] = {
        gpu: Recipe(gpu).options(1, "x") for gpu in ("cuda", "vulkan", "rocm", "metal")
    }
    assert [options[gpu][f"GGML_{name}"] for gpu, name in (("cuda", "CUDA"), ("vulkan", "VULKAN"))] == ["ON", "ON"]
    assert [options[gpu][f"GGML_{name}"] for gpu, name in (("rocm", "HIP"), ("metal", "METAL"))] == ["ON", "ON"]
