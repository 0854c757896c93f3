from __future__ import annotations

import os
import stat
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from manager.memory_free import Free, gpus_free, host_free

MIB = 1 << 20
GIB = 1 << 30


def group(folder: Path, **files: str | int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "cgroup"


def own(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "groups"
    path.write_text(text)
    return path


# Where NVML's package is installed, the machine's own GPUs are found, and not those of the scripts below.
needs_no_nvml = pytest.mark.skipif(find_spec("pynvml") is not None, reason="NVML is asked first")


def smi(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_without_a_control_group_the_host_decides(root: Path, tmp_path: Path) -> None:
    found = host_free(root, tmp_path / "none")
    assert (found.device, found.limit, found.total) == ("host", "host", psutil.virtual_memory().total)
    assert 0 < found.free <= found.total


def test_lower_limit_of_the_control_group_counts(root: Path, tmp_path: Path) -> None:
    group(
        root / "a" / "b",
        memory__max=64 * MIB,
        memory__current=50 * MIB,
        memory__stat=f"anon 1\ninactive_file {20 * MIB}",
    )
    assert host_free(root, own(tmp_path, "0::/a/b\n")) == Free("host", 64 * MIB, 34 * MIB, "cgroup")


def test_the_closest_of_several_limits_counts(root: Path, tmp_path: Path) -> None:
    group(root / "a", memory__max=48 * MIB, memory__current=40 * MIB)
    group(root / "a" / "b", memory__max="max", memory__current=10 * MIB)
    assert host_free(root, own(tmp_path, "0::/a/b\n")) == Free("host", 48 * MIB, 8 * MIB, "cgroup")


def test_a_group_above_its_limit_has_nothing_free(root: Path, tmp_path: Path) -> None:
    group(root, memory__max=10 * MIB, memory__current=11 * MIB)
    assert host_free(root, own(tmp_path, "0::/\n")).free == 0


def test_a_limit_above_the_host_is_none(root: Path, tmp_path: Path) -> None:
    group(root, memory__max=1 << 62, memory__current=0)
    assert host_free(root, own(tmp_path, "0::/\n")).limit == "host"


def test_version_1_has_a_tree_for_memory(root: Path, tmp_path: Path) -> None:
    files: dict[str, str | int] = {
        "memory__limit_in_bytes": 32 * MIB,
        "memory__usage_in_bytes": 30 * MIB,
        "memory__stat": f"total_inactive_file {MIB}",
    }
    group(root / "memory" / "x", **files)
    assert host_free(root, own(tmp_path, "7:cpu:/x\n8:pids,memory:/x\n")) == Free("host", 32 * MIB, 3 * MIB, "cgroup")


def test_a_container_sees_its_group_at_the_root(root: Path, tmp_path: Path) -> None:
    group(root, memory__max=16 * MIB, memory__current=MIB)
    assert host_free(root, own(tmp_path, "0::/docker/1234\n")).total == 16 * MIB


@needs_no_nvml
def test_gpus_are_read_from_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi(tmp_path, monkeypatch, 'echo "0, 24576, 20000, NVIDIA A10"; echo "1, [N/A], [N/A], NVIDIA GB10, rev 2"')
    assert gpus_free() == (
        Free("gpu0", 24 * GIB, 20000 * MIB, "NVIDIA A10"),
        Free("gpu1", 0, 0, "NVIDIA GB10, rev 2"),
    )


@needs_no_nvml
@pytest.mark.parametrize("script", ["exit 9", "echo No devices were found"])
def test_nvidia_smi_without_a_gpu_means_none(script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi(tmp_path, monkeypatch, script)
    assert gpus_free() == ()


@needs_no_nvml
def test_without_nvidia_smi_there_is_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus_free() == ()
