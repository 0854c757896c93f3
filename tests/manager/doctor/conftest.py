"""Machines for the doctor to look at: real folders, GPUs as a test wants them, programs that answer like others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import pytest

from manager.doctor import Finding, examine
from manager.doctor.case import Case
from manager.doctor.examination import AREAS
from tests.conftest import MakeSettings
from tests.fakes.nvml import FakeNvml, Gpu

CPU = "processor\t: 0\nmodel name\t: Fast CPU\nflags\t\t: pni sse4_2 avx avx2 fma f16c\n\nprocessor\t: 1\n"


class Nvml(FakeNvml):
    """With what the doctor asks besides. `cuda`: the newest that the driver is for, as NVML counts."""

    def __init__(self, *gpus: Gpu, cuda: int = 13000, persistent: bool = True) -> None:
        super().__init__(*gpus)
        self.cuda = cuda
        self.persistent = persistent

    def nvmlSystemGetDriverVersion(self) -> str:
        return "580.95.05"

    def nvmlSystemGetCudaDriverVersion(self) -> int:
        return self.cuda

    def nvmlDeviceGetPersistenceMode(self, gpu: Gpu) -> int:
        return int(self._working(gpu, "persistence") is not None and self.persistent)


def no_nvml() -> Any:
    raise ImportError


class Look(Protocol):
    """The findings of one area by name, the last where there are several of a name."""

    def __call__(self, area: str, *, nvml: Any = no_nvml, **sections: Mapping[str, Any]) -> dict[str, Finding]: ...


def program(path: Path, script: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def llama_server(path: Path, *devices: str) -> Path:
    """One that lists these devices."""
    listed = "; ".join(f"echo '  {device}'" for device in devices or ("(none)",))
    return program(
        path,
        f"""case "$1" in
  --version) echo 'version: 11434 (4f3a2b1)' >&2; echo 'built with GNU 12.2.0' >&2;;
  --list-devices) echo 'Available devices:'; {listed};;
esac""",
    )


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The kernel's folders of a machine without GPUs, and a PATH with nothing on it."""
    folder = tmp_path / "machine"
    for name in ("sys/bus/pci/devices", "proc/sys/net/ipv4", "dev"):
        (folder / name).mkdir(parents=True)
    (folder / "proc/cpuinfo").write_text(CPU)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "on-path"))
    return folder


class MakeCase(Protocol):
    def __call__(self, *, nvml: Any = no_nvml, **sections: Mapping[str, Any]) -> Case: ...


@pytest.fixture
def make_case(machine: Path, make_settings: MakeSettings) -> MakeCase:
    def make(*, nvml: Any = no_nvml, **sections: Mapping[str, Any]) -> Case:
        sections = {"server": {"port": 0}, **sections}
        return Case(
            make_settings(**sections), nvml=nvml, sys=machine / "sys", proc=machine / "proc", dev=machine / "dev"
        )

    return make


@pytest.fixture
def look(make_case: MakeCase) -> Look:
    def ask(area: str, *, nvml: Any = no_nvml, **sections: Mapping[str, Any]) -> dict[str, Finding]:
        case = make_case(nvml=nvml, **sections)
        return {finding.name: finding for finding in examine(case, {area: AREAS[area]})}

    return ask


def pci(machine: Path, address: str, vendor: str, kind: str = "0x030200", driver: str | None = None) -> None:
    device = machine / "sys/bus/pci/devices" / address
    device.mkdir()
    (device / "vendor").write_text(f"{vendor}\n")
    (device / "class").write_text(f"{kind}\n")
    if driver is not None:
        (machine / "sys/bus/pci/drivers" / driver).mkdir(parents=True, exist_ok=True)
        (device / "driver").symlink_to(machine / "sys/bus/pci/drivers" / driver)
