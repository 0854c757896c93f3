from __future__ import annotations

import os
from pathlib import Path

import pytest

from manager.doctor import Level
from tests.fakes.nvml import Gpu
from tests.manager.doctor.conftest import Look, Nvml, pci, program

GIB = 1 << 30
NVIDIA, AMD, INTEL = "0x10de", "0x1002", "0x8086"


def test_machine_without_a_gpu_is_fine(look: Look, machine: Path) -> None:
    pci(machine, "0000:00:01.0", INTEL, "0x060000")  # a bridge
    found = look("gpu")
    assert found.keys() == {"graphics"}
    assert found["graphics"].level is Level.OK


def test_driver_gpus_and_who_uses_them_are_told(look: Look) -> None:
    nvml = Nvml(Gpu(total=24 * GIB, free=6 * GIB, used={os.getpid(): 10 * GIB, 2**22 + 1: None}), Gpu(name="NVIDIA T4"))
    found = look("gpu", nvml=nvml)
    assert found["driver"].text == "580.95.05, for CUDA 13.0 and older"
    assert found["GPU 0"].text == "NVIDIA A10, 6.4 of 25.8 GB free"
    assert found["GPU 1"].text.startswith("NVIDIA T4, ")
    used = found["GPU 0 is used by"].text
    assert f"({os.getpid()}, 10.7 GB)" in used
    assert "process (4194305)" in used


def test_persistence_mode_that_is_off_is_a_note_with_the_command(look: Look) -> None:
    found = look("gpu", nvml=Nvml(Gpu(), persistent=False))["GPU 0 persistence"]
    assert found.level is Level.NOTE
    assert "nvidia-smi -pm 1" in str(found.advice)
    assert "GPU 0 persistence" not in look("gpu", nvml=Nvml(Gpu()))
    assert "GPU 0 persistence" not in look("gpu", nvml=Nvml(Gpu(broken=["persistence"])))


def test_gpu_that_does_not_tell_its_memory_is_a_note(look: Look) -> None:
    found = look("gpu", nvml=Nvml(Gpu(broken=["memory"])))["GPU 0"]
    assert (found.level, "does not tell its memory" in found.text) == (Level.NOTE, True)


def test_gpu_that_is_lost_is_named_with_its_number_and_the_others_keep_theirs(look: Look) -> None:
    found = look("gpu", nvml=Nvml(Gpu(broken=["handle"]), Gpu(name="NVIDIA T4", used={1: GIB})))
    assert found["GPU 0"].level is Level.WARNING
    assert "does not answer (Not Supported)" in found["GPU 0"].text
    assert found["GPU 1"].text.startswith("NVIDIA T4, ")
    assert "GPU 1 is used by" in found


def test_only_gpu_that_is_lost_is_not_called_missing(look: Look, machine: Path) -> None:
    pci(machine, "0000:01:00.0", NVIDIA, driver="nvidia")
    found = look("gpu", nvml=Nvml(Gpu(broken=["handle"])))
    assert found["GPU 0"].level is Level.WARNING
    assert "PCI" not in found["driver"].text


@pytest.mark.parametrize(
    ("value", "level", "says"),
    [
        ("1,0", Level.OK, "1,0: NVIDIA T4, NVIDIA A10"),
        ("GPU-b", Level.OK, "GPU-b: NVIDIA T4"),
        ("", Level.NOTE, "models use no GPU"),
        ("-1", Level.NOTE, "It is -1: models use no GPU"),
        ("1,-1,0", Level.OK, "1,-1,0: NVIDIA T4"),
        ("MIG-abc", Level.NOTE, "the memory of a part of a GPU (MIG) is not counted"),
        ("0,0", Level.WARNING, "names a GPU twice"),
        ("1,GPU-b", Level.WARNING, "names a GPU twice"),
        ("0,7,1", Level.WARNING, "of which '7' is no GPU of this machine, and what follows it (1) does not count"),
        ("cuda:0", Level.WARNING, "of which 'cuda:0' is no GPU of this machine."),
    ],
)
def test_what_of_cuda_visible_devices_means_nothing_is_told(look: Look, value: str, level: Level, says: str) -> None:
    nvml = Nvml(Gpu(uuid="GPU-aa"), Gpu(uuid="GPU-bb", name="NVIDIA T4"))
    found = look("gpu", nvml=nvml, llama={"cuda_visible_devices": value})["CUDA_VISIBLE_DEVICES"]
    assert found.level is level
    assert says in found.text


def test_gpus_are_listed_whatever_the_environment_hides(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    found = look("gpu", nvml=Nvml(Gpu(), Gpu(uuid="GPU-0001", name="NVIDIA T4")))
    assert {"GPU 0", "GPU 1"} <= found.keys()
    assert found["CUDA_VISIBLE_DEVICES"].text == "1: NVIDIA T4"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"


def test_compiler_that_is_newer_than_the_driver_is_a_warning(look: Look, tmp_path: Path) -> None:
    program(tmp_path / "on-path" / "nvcc", "echo 'Cuda compilation tools, release 13.0, V13.0.88'")
    assert look("gpu", nvml=Nvml(Gpu(), cuda=13000))["nvcc"].level is Level.OK
    assert look("gpu")["nvcc"].text.startswith("CUDA 13.0, ")
    found = look("gpu", nvml=Nvml(Gpu(), cuda=12080))["nvcc"]
    assert found.level is Level.WARNING
    assert "CUDA 13.0 is newer than the driver, which is for 12.8" in found.text


def test_missing_compiler_is_only_told_where_there_is_a_gpu(look: Look) -> None:
    assert look("gpu", nvml=Nvml(Gpu()))["nvcc"].level is Level.NOTE
    assert "nvcc" not in look("gpu")


def test_device_file_that_models_may_not_make_is_a_warning(look: Look, machine: Path) -> None:
    assert look("gpu", nvml=Nvml(Gpu()))["/dev/nvidia-uvm"].level is Level.WARNING
    allowed = look("gpu", nvml=Nvml(Gpu()), children={"no_new_privileges": False})
    assert "/dev/nvidia-uvm" not in allowed
    (machine / "dev/nvidia-uvm").touch()
    assert "/dev/nvidia-uvm" not in look("gpu", nvml=Nvml(Gpu()))


def test_nvidia_gpu_without_its_driver_is_told_with_what_is_there_instead(look: Look, machine: Path) -> None:
    pci(machine, "0000:01:00.0", NVIDIA, "0x030000")
    pci(machine, "0000:01:00.1", NVIDIA, "0x040300")  # its sound
    found = look("gpu")["driver"]
    assert found.level is Level.WARNING
    assert found.text.startswith("1 NVIDIA GPU on the PCI bus")
    pci(machine, "0000:02:00.0", NVIDIA, driver="nouveau")
    found = look("gpu")["driver"]
    assert "2 NVIDIA GPUs on the PCI bus, with the driver nouveau" in found.text
    assert found.advice is not None


def test_driver_that_is_loaded_without_its_library_is_told(look: Look, machine: Path) -> None:
    pci(machine, "0000:01:00.0", NVIDIA, driver="nvidia")
    (machine / "dev/nvidia0").touch()
    (machine / "proc/driver/nvidia").mkdir(parents=True)
    (machine / "proc/driver/nvidia/version").touch()
    found = look("gpu")["driver"]
    assert "is loaded, but NVML finds none" in found.text
    assert "nvidia-smi" in str(found.advice)
    assert "driver" not in {name for name, one in look("gpu", nvml=Nvml(Gpu())).items() if one.level is Level.WARNING}


def test_gpus_of_others_are_noted_with_the_way_to_use_them(look: Look, machine: Path) -> None:
    pci(machine, "0000:03:00.0", AMD)
    pci(machine, "0000:00:02.0", INTEL, "0x030000")
    found = look("gpu")
    assert (found["AMD"].level, found["AMD"].advice) == (Level.NOTE, "llamaherd llama build --backend rocm")
    assert (found["Intel"].level, found["Intel"].advice) == (Level.NOTE, "llamaherd llama build --backend vulkan")
