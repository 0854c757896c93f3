"""NVIDIA GPUs by NVML: driver, memory, users, and what of CUDA_VISIBLE_DEVICES means nothing; CUDA's compiler."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from importlib import metadata
from typing import Any, Final

import psutil

from manager.doctor.case import EVERY, Case, run
from manager.doctor.finding import Finding, note, ok, warning
from manager.doctor.pci import graphics
from manager.extras import missing_hf
from manager.memory_hf import torch_drives_cuda

VISIBLE: Final = "CUDA_VISIBLE_DEVICES"
PART_OF_GPU: Final = "MIG-"
NVCC_TIMEOUT: Final = 10.0
_RELEASE: Final = re.compile(r"release (\d+)\.(\d+)")


def driver(case: Case) -> Iterator[Finding]:
    nvml = _nvml(case)
    if nvml is None:
        if case.every_gpu:
            yield note("driver", "NVML does not answer, nvidia-smi does.")
        return
    with suppress(nvml.NVMLError):
        major, minor = _cuda(nvml)
        yield ok("driver", f"{_text(nvml.nvmlSystemGetDriverVersion())}, for CUDA {major}.{minor} and older")


def devices(case: Case) -> Iterator[Finding]:
    for number, why in case.gpus.lost().items():
        yield warning(
            f"GPU {number}",
            f"It does not answer ({why}): no model can use it.",
            "'sudo dmesg | grep NVRM' says more; start the machine anew, and where that does not help look at the GPU",
        )
    for number, gpu in zip(case.gpus.places(EVERY), case.every_gpu, strict=False):  # one may be lost meanwhile
        if gpu.total:
            yield ok(f"GPU {number}", f"{gpu.limit}, {gpu.free / 1e9:.1f} of {gpu.total / 1e9:.1f} GB free")
        else:
            yield note(f"GPU {number}", f"{gpu.limit}; it does not tell its memory, which may be the host's.")
        yield from _details(case, number)


def _details(case: Case, number: int) -> Iterator[Finding]:
    nvml = _nvml(case)
    if nvml is None:
        return
    with suppress(nvml.NVMLError):
        handle = nvml.nvmlDeviceGetHandleByIndex(number)
        users = [_user(process) for process in nvml.nvmlDeviceGetComputeRunningProcesses(handle)]
        if users:
            yield note(f"GPU {number} is used by", ", ".join(users))
    with suppress(nvml.NVMLError):
        handle = nvml.nvmlDeviceGetHandleByIndex(number)
        if not nvml.nvmlDeviceGetPersistenceMode(handle):
            yield note(
                f"GPU {number} persistence",
                "It is off: the driver may start anew with each first model, which takes seconds.",
                "sudo nvidia-smi -pm 1, or enable nvidia-persistenced",
            )


def _user(process: Any) -> str:
    try:
        name = psutil.Process(process.pid).name()
    except psutil.Error:  # in a container its number is another one
        name = "process"
    size = process.usedGpuMemory
    return f"{name} ({process.pid}{'' if size is None else f', {size / 1e9:.1f} GB'})"


def visible(case: Case) -> Iterator[Finding]:
    chosen, names = case.visible, case.named
    if names is None or not case.every_gpu:
        return
    if not names:
        yield note(VISIBLE, f"It is {chosen or 'empty'}: models use no GPU.")
        return
    # CUDA reads up to the first name that means nothing.
    wrong = next((at for at in range(len(names)) if len(case.gpus.free(",".join(names[: at + 1]))) <= at), None)
    if wrong is None:
        yield ok(VISIBLE, f"{chosen}: {', '.join(gpu.limit for gpu in case.gpus.free(chosen))}")
    elif names[wrong].startswith(PART_OF_GPU):
        yield note(VISIBLE, f"It is {chosen}: the memory of a part of a GPU (MIG) is not counted.")
    elif case.gpus.free(names[wrong]):
        yield warning(VISIBLE, f"It is {chosen}, which names a GPU twice: CUDA then uses none.", "name each GPU once")
    else:
        rest = f", and what follows it ({','.join(names[wrong + 1 :])}) does not count" if names[wrong + 1 :] else ""
        yield warning(
            VISIBLE,
            f"It is {chosen}, of which {names[wrong]!r} is no GPU of this machine{rest}.",
            f"name GPUs by their numbers 0 to {len(case.every_gpu) - 1}, or by their UUIDs ('nvidia-smi -L')",
        )


def device_files(case: Case) -> Iterator[Finding]:
    if not case.every_gpu or not case.settings.children.no_new_privileges or (case.dev / "nvidia-uvm").exists():
        return
    yield warning(
        "/dev/nvidia-uvm",
        "It is missing, and models may not make it (children.no_new_privileges): they would not find the GPU.",
        "sudo nvidia-modprobe -u -c=0; for each boot: echo nvidia-uvm | sudo tee /etc/modules-load.d/nvidia-uvm.conf",
    )


def compiler(case: Case) -> Iterator[Finding]:
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        if case.every_gpu:
            yield note("nvcc", "CUDA's compiler is not on PATH.", "'llamaherd llama build --backend cuda' needs it")
        return
    release = _RELEASE.search(run(nvcc, "--version", timeout=NVCC_TIMEOUT).text)
    if release is None:
        yield note("nvcc", f"{nvcc} does not tell its version.")
        return
    own, nvml = (int(release[1]), int(release[2])), _nvml(case)
    of_driver = None if nvml is None else _cuda(nvml)
    if of_driver is not None and own[0] > of_driver[0]:
        yield warning(
            "nvcc",
            f"CUDA {own[0]}.{own[1]} is newer than the driver, which is for {of_driver[0]}.{of_driver[1]}: what it "
            "compiles will not run here.",
            f"install a newer driver, or compile with CUDA {of_driver[0]}",
        )
    else:
        yield ok("nvcc", f"CUDA {own[0]}.{own[1]}, {nvcc}")


def torch(case: Case) -> Iterator[Finding]:
    if not case.every_gpu or missing_hf() is not None or torch_drives_cuda():
        return
    yield warning(
        "torch",
        "Hugging Face models run on the CPU: the torch that is installed was made without CUDA.",
        "install one with it: pip install --force-reinstall torch==" + metadata.version("torch").partition("+")[0],
    )


def _nvml(case: Case) -> Any:
    """NVML, started, where it knows a GPU; else None."""
    try:
        nvml = case.nvml()
    except ImportError:
        return None
    try:
        nvml.nvmlInit()
        return nvml if nvml.nvmlDeviceGetCount() else None
    except nvml.NVMLError:
        return None


def _cuda(nvml: Any) -> tuple[int, int]:
    """The newest CUDA that the driver is for: NVML has 1000 for each major version and 10 for each minor one."""
    number = nvml.nvmlSystemGetCudaDriverVersion()
    return number // 1000, number % 1000 // 10


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


CHECKS: Final = (driver, devices, visible, device_files, compiler, torch, graphics)
