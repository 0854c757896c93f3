from __future__ import annotations

import json
from pathlib import Path

import pytest

from manager.doctor import Level
from tests.fakes.nvml import Gpu
from tests.manager.doctor.conftest import Look, Nvml, llama_server, program

CUDA = "CUDA0: NVIDIA A10 (24000 MiB, 20000 MiB free)"


def test_embedded_llama_cpp_is_told_with_its_version(look: Look) -> None:
    found = look("engine")
    assert found["launcher"].level is Level.OK
    assert found["launcher"].text.startswith("embedded: llama.cpp of the package xllamacpp 20")
    assert found.keys() == {"launcher"}


def test_native_server_is_told_with_why_its_version_and_its_devices(look: Look, tmp_path: Path) -> None:
    binary = llama_server(tmp_path / "on-path" / "llama-server", CUDA)
    found = look("engine")
    assert found["launcher"].text == f"native: {binary} (the first one on PATH)"
    assert found["version"].text == "11434 (4f3a2b1)"
    assert found["devices"].text == "CUDA0"
    mine = llama_server(tmp_path / "mine")
    found = look("engine", llama={"binary": mine})
    assert found["launcher"].text == f"native: {mine} (setting llama.binary)"
    assert found["devices"].text == "the CPU alone"
    assert {finding.level for finding in found.values()} == {Level.OK}


def test_server_that_is_set_and_missing_is_an_error_with_the_way_out(look: Look) -> None:
    found = look("engine", llama={"binary": "/nowhere/llama-server"})["launcher"]
    assert found.level is Level.ERROR
    assert found.text == "llama.binary: /nowhere/llama-server does not exist or is no file"
    assert found.advice == "or compile one: llamaherd llama build"


def test_missing_libraries_are_named_all_of_them(look: Look, tmp_path: Path) -> None:
    complaint = "error while loading shared libraries: libcudart.so.13: cannot open shared object file"
    binary = program(tmp_path / "llama-server", f"echo '$0: {complaint}' >&2; exit 127")
    program(
        tmp_path / "on-path" / "ldd", "echo '\tlibcudart.so.13 => not found'; echo '\tlibcublas.so.13 => not found'"
    )
    found = look("engine", llama={"binary": binary})["shared libraries"]
    assert found.level is Level.ERROR
    assert "libcudart.so.13, libcublas.so.13" in found.text
    assert found.advice is not None
    assert "LD_LIBRARY_PATH" in found.advice


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("kill -ILL $$", "was compiled for another processor"),
        ("echo first; echo 'no such thing' >&2; exit 3", "fails (exit status 3): no such thing"),
        ("kill -SEGV $$", "fails (signal 11): nothing"),
    ],
)
def test_server_that_can_not_run_is_an_error_with_the_reason(
    look: Look, tmp_path: Path, script: str, says: str
) -> None:
    found = look("engine", llama={"binary": program(tmp_path / "llama-server", script)})["llama-server"]
    assert found.level is Level.ERROR
    assert says in found.text
    assert "llamaherd llama build" in str(found.advice)


def test_server_of_another_kind_of_processor_is_told(look: Look, tmp_path: Path) -> None:
    binary = tmp_path / "llama-server"
    # An ELF header of a machine that nobody has (e_machine 0xFFFF).
    binary.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\xff\xff\x01\x00\x00\x00" + bytes(40))
    binary.chmod(0o755)
    found = look("engine", llama={"binary": binary})["llama-server"]
    assert found.level is Level.ERROR
    assert "another kind of processor" in found.text


def test_gpu_that_llama_cpp_does_not_use_is_a_warning_with_the_command(look: Look, tmp_path: Path) -> None:
    nvml = Nvml(Gpu())
    found = look("engine", nvml=nvml)["GPU"]
    assert (found.level, found.advice) == (Level.WARNING, "llamaherd llama build --backend cuda")
    found = look("engine", nvml=nvml, llama={"launcher": "embedded"})["GPU"]
    assert found.advice == "llamaherd llama build --backend cuda; then set llama.launcher to auto"
    for devices, says in (((), "was compiled for the CPU"), (("Vulkan0: NVIDIA A10 (24000 MiB)",), "uses Vulkan0")):
        binary = llama_server(tmp_path / f"with-{len(devices)}", *devices)
        found = look("engine", nvml=nvml, llama={"binary": binary})["GPU"]
        assert (found.level, found.advice) == (Level.WARNING, "llamaherd llama build --backend cuda")
        assert says in found.text
        assert "NVIDIA A10" in found.text


def test_gpu_that_is_used_or_hidden_is_none(look: Look, tmp_path: Path) -> None:
    with_cuda = llama_server(tmp_path / "llama-server", CUDA)
    assert "GPU" not in look("engine", nvml=Nvml(Gpu()), llama={"binary": with_cuda})
    assert "GPU" not in look("engine", nvml=Nvml(Gpu()), llama={"cuda_visible_devices": ""})
    assert "GPU" not in look("engine")


def test_build_for_another_processor_is_a_warning_and_the_others_are_listed(look: Look, tmp_path: Path) -> None:
    for name, features in (("b1-cpu-avx2", ["sse4_2"]), ("b2-cpu-far", ["avx1024"])):
        binary = llama_server(tmp_path / "cache" / "llama" / name / "llama-server")
        about = {"version": "b1", "backend": "cpu", "features": features, "made_at": 1.0, "source": "test"}
        (binary.parent / "build.json").write_text(json.dumps(about))
    found = look("engine")
    assert found["builds"].text == "b1-cpu-avx2, b2-cpu-far"
    assert "llamaherd llama list" in found["launcher"].text
    lacking = found["build b2-cpu-far"]
    assert lacking.level is Level.WARNING
    assert "avx1024" in lacking.text
    assert lacking.advice == "llamaherd llama build, and: llamaherd llama remove b2-cpu-far"
