"""Graphics devices on the PCI bus, and why one that is there can't be used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from manager.doctor.case import Case
from manager.doctor.finding import Finding, note, ok, warning

NVIDIA: Final = "0x10de"
DISPLAY: Final = "0x03"  # class of display controllers; 0x0302, "3D controller", is one without an output
# Vendor, name, and the backend of llama.cpp for it.
OTHERS: Final = (("0x1002", "AMD", "rocm"), ("0x8086", "Intel", "vulkan"))
CONTAINERS: Final = (Path("/.dockerenv"), Path("/run/.containerenv"))
NOUVEAU: Final = "nouveau"


def graphics(case: Case) -> Iterator[Finding]:
    found = list(_display(case.sys / "bus" / "pci" / "devices"))
    drivers = [driver for vendor, driver in found if vendor == NVIDIA]
    known = case.every_gpu or case.gpus.lost()
    if drivers and not known:
        yield _unusable(case, len(drivers), drivers)
    count = Counter(vendor for vendor, _ in found)
    for vendor, name, backend in OTHERS:
        if count[vendor]:
            build = f"llamaherd llama build --backend {backend}"
            yield note(name, f"{count[vendor]} graphics device of {name}, which CUDA does not use.", build)
    if not found and not known:
        yield ok("graphics", "no GPU: models run on the CPU")


def _unusable(case: Case, count: int, drivers: list[str]) -> Finding:
    there = f"{count} NVIDIA GPU{'s' if count > 1 else ''} on the PCI bus"
    if NOUVEAU in drivers:
        return warning(
            "driver",
            f"{there}, with the driver nouveau, which can't compute.",
            "install NVIDIA's driver (Debian: nvidia-driver, Ubuntu: ubuntu-drivers install) and reboot",
        )
    if any(path.exists() for path in CONTAINERS) and not list(case.dev.glob("nvidia[0-9]*")):
        return warning(
            "driver",
            f"{there}, but not in this container.",
            "start it with --gpus all (Docker) or --device nvidia.com/gpu=all (Podman)",
        )
    if (case.proc / "driver" / "nvidia" / "version").exists():
        return warning(
            "driver",
            f"{there} and NVIDIA's driver is loaded, but NVML finds none: its library may be of another version.",
            "'nvidia-smi' says why; after an update of the driver start the machine anew",
        )
    return warning(
        "driver",
        f"{there}, and no driver of NVIDIA's is loaded.",
        "install it (Debian: nvidia-driver, Ubuntu: ubuntu-drivers install), or load it: sudo modprobe nvidia",
    )


def _display(devices: Path) -> Iterator[tuple[str, str]]:
    """Vendor and driver of each display controller; the driver is empty where there is none."""
    for device in sorted(devices.glob("*")):
        try:
            kind, vendor = ((device / name).read_text().strip() for name in ("class", "vendor"))
        except OSError:
            continue
        if kind.startswith(DISPLAY):
            driver = device / "driver"
            yield vendor, driver.resolve().name if driver.exists() else ""
