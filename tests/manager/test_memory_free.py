from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from manager.memory_free import Free, Gpus, host_free
from tests.fakes.nvml import FakeNvml, Gpu

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
        memory__stat=f"anon 1\ninactive_file {20 * MIB}\nunevictable 7",
    )
    assert host_free(root, own(tmp_path, "0::/a/b\n")) == Free("host", 64 * MIB, 34 * MIB, "cgroup")


def test_pages_of_files_that_are_in_use_count_as_free_too(root: Path, tmp_path: Path) -> None:
    stat = f"inactive_file {2 * MIB}\nactive_file {8 * MIB}"
    group(root, memory__max=16 * MIB, memory__current=15 * MIB, memory__stat=stat)
    assert host_free(root, own(tmp_path, "0::/\n")).free == 11 * MIB


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


# GPUs by NVML


def read(*gpus: Gpu, visible: str | None = None) -> list[tuple[str, str]]:
    """Numbers and names of the GPUs that count."""
    return [(gpu.device, gpu.limit) for gpu in Gpus(FakeNvml(*gpus)).free(visible)]


@pytest.fixture(autouse=True)
def _all_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.fixture
def no_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))


THREE = (Gpu(uuid="GPU-aa11", name="a"), Gpu(uuid="GPU-aa22", name="b"), Gpu(uuid="GPU-bb33", name="c"))


def test_every_gpu_is_read_from_nvml() -> None:
    nvidia = Gpus(FakeNvml(Gpu(24 * GIB, 20 * GIB), Gpu(80 * GIB, 5 * GIB, name="NVIDIA H100")))
    assert nvidia.free() == (
        Free("gpu0", 24 * GIB, 20 * GIB, "NVIDIA A10"),
        Free("gpu1", 80 * GIB, 5 * GIB, "NVIDIA H100"),
    )


def test_nvml_is_initialised_once() -> None:
    nvml = FakeNvml(Gpu())
    nvidia = Gpus(nvml)
    for _ in range(3):
        nvidia.free()
        nvidia.used({1})
    assert nvml.starts == 1


@pytest.mark.usefixtures("no_smi")
@pytest.mark.parametrize("nvml", [FakeNvml(fails=True), FakeNvml()], ids=["no driver", "no GPU"])
def test_that_there_is_no_gpu_is_remembered(nvml: FakeNvml) -> None:
    nvidia = Gpus(nvml)
    assert [nvidia.free(), nvidia.free(), nvidia.used({1})] == [(), (), {}]
    assert nvml.starts == 1


@pytest.mark.usefixtures("no_smi")
def test_without_its_package_there_is_no_gpu() -> None:
    nvidia = Gpus(missing)
    assert (nvidia.free(), nvidia.used({1})) == ((), {})


def test_a_gpu_that_does_not_tell_its_memory_keeps_its_number(caplog: pytest.LogCaptureFixture) -> None:
    nvidia = Gpus(FakeNvml(Gpu(broken=["memory"], name="GB10"), Gpu(GIB, MIB)))
    for _ in range(2):
        assert nvidia.free() == (Free("gpu0", 0, 0, "GB10"), Free("gpu1", GIB, MIB, "NVIDIA A10"))
    assert [record.message for record in caplog.records] == ["nvml=failed: memory of gpu0: Not Supported"]


def test_an_nvml_that_breaks_has_no_gpus() -> None:
    assert Gpus(FakeNvml(Gpu(broken=["handle"]))).free() == ()


@pytest.mark.parametrize(("visible", "names"), [(None, "ac"), ("0,1", "ac"), ("1", "c"), ("GPU-bb", "c"), ("2", "")])
def test_a_gpu_that_is_lost_hides_no_other(visible: str | None, names: str, caplog: pytest.LogCaptureFixture) -> None:
    nvidia = Gpus(FakeNvml(THREE[0], Gpu(uuid="GPU-aa22", broken=["handle"]), replace(THREE[2], used={7: MIB})))
    assert [gpu.limit for gpu in nvidia.free(visible)] == list(names)
    assert [gpu.device for gpu in nvidia.free(visible)] == [f"gpu{number}" for number in range(len(names))]
    assert nvidia.places(visible) == tuple("abc".index(name) for name in names)
    assert nvidia.used({7}, visible) == ({f"gpu{names.index('c')}": MIB} if "c" in names else {})
    assert nvidia.lost() == {1: "Not Supported"}
    assert [record.message for record in caplog.records] == ["nvml=failed: GPU 1: Not Supported"]


@pytest.mark.parametrize(("visible", "names"), [("0,1", "ab"), ("GPU-aa", "a"), ("1,GPU-bb", "bc"), ("GPU-aa22", "")])
def test_a_gpu_that_does_not_tell_its_uuid_is_known_by_its_number(visible: str, names: str) -> None:
    assert [name for _, name in read(THREE[0], replace(THREE[1], broken=["uuid"]), THREE[2], visible=visible)] == [
        *names
    ]


@pytest.mark.usefixtures("no_smi")
def test_where_there_is_no_gpu_none_is_lost() -> None:
    nvidia = Gpus(missing)
    assert (nvidia.lost(), nvidia.places()) == ({}, ())


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        ("0,1,2", "abc"),
        ("2, 0", "ca"),
        ("GPU-bb", "c"),
        ("GPU-aa22,0", "ba"),
        ("", ""),
        ("-1", ""),
        ("1,7,0", "b"),
        ("GPU-aa", ""),
        ("NoDevFiles", ""),
        ("0,0", ""),
        ("1,GPU-bb,GPU-aa22", ""),
    ],
)
def test_gpus_are_numbered_as_cuda_does_among_the_visible(visible: str, names: str) -> None:
    assert read(*THREE, visible=visible) == [(f"gpu{number}", name) for number, name in enumerate(names)]


def test_the_environment_counts_where_no_setting_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert read(*THREE) == [("gpu0", "b")]
    assert read(*THREE, visible="2") == [("gpu0", "c")]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert read(*THREE) == []


def test_what_processes_have_of_each_gpu_is_added_up() -> None:
    nvidia = Gpus(FakeNvml(Gpu(used={10: GIB, 11: MIB, 99: 5}), Gpu(used={99: 5}), Gpu(used={11: 3})))
    assert nvidia.used({10, 11}) == {"gpu0": GIB + MIB, "gpu2": 3}


def test_use_is_numbered_by_the_visible_gpus() -> None:
    nvidia = Gpus(FakeNvml(Gpu(used={10: 1}), Gpu(used={10: 2})))
    assert nvidia.used({10}, "1") == {"gpu0": 2}


def test_what_nvml_does_not_tell_of_a_process_is_left_out() -> None:
    nvidia = Gpus(FakeNvml(Gpu(used={10: None}), Gpu(used={10: 2}, broken=["processes"]), Gpu(used={10: 3})))
    assert nvidia.used({10}) == {"gpu2": 3}


# and by nvidia-smi


def missing() -> None:
    """An import of what is not installed."""
    raise ImportError


def test_without_nvml_gpus_are_read_from_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi(
        tmp_path,
        monkeypatch,
        'echo "0, GPU-1, 24576, 20000, NVIDIA A10"; echo "1, GPU-2, [N/A], [N/A], NVIDIA GB10, rev 2"',
    )
    nvidia = Gpus(missing)
    assert nvidia.free() == (
        Free("gpu0", 24 * GIB, 20000 * MIB, "NVIDIA A10"),
        Free("gpu1", 0, 0, "NVIDIA GB10, rev 2"),
    )
    assert nvidia.free("GPU-2") == (Free("gpu0", 0, 0, "NVIDIA GB10, rev 2"),)
    assert (nvidia.places(), nvidia.places("GPU-2"), nvidia.lost()) == ((0, 1), (1,), {})
    assert nvidia.used({1}) == {}


def test_who_is_content_with_a_recent_look_starts_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi(tmp_path, monkeypatch, f'echo asked >> "{tmp_path}/asked"; echo "0, GPU-1, 24576, $(cat {tmp_path}/free), A10"')

    def free(size: int, *, recent: bool) -> int:
        """What is told, when so much is free. MiB."""
        (tmp_path / "free").write_text(f"{size}")
        return nvidia.free(recent=recent)[0].free // MIB

    nvidia = Gpus(missing)
    assert free(1, recent=True) == 1
    asked = len((tmp_path / "asked").read_text().splitlines())
    assert free(2, recent=True) == 1
    assert len((tmp_path / "asked").read_text().splitlines()) == asked
    assert free(3, recent=False) == 3
    assert free(4, recent=True) == 3
    monkeypatch.setattr("manager.memory_free.RECENT", 0.0)
    assert free(5, recent=True) == 5


@pytest.mark.parametrize("script", ["exit 9", "echo No devices were found"])
def test_nvidia_smi_without_a_gpu_means_none_and_is_not_asked_again(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smi(tmp_path, monkeypatch, f'echo asked >> "{tmp_path}/asked"; {script}')
    nvidia = Gpus(missing)
    assert [nvidia.free(), nvidia.free()] == [(), ()]
    assert (tmp_path / "asked").read_text() == "asked\n"
