"""The machine: Python, system, processor, limits, clock; and what of llamaherd is installed."""

from __future__ import annotations

import json
import os
import platform
import re
import resource
import time
from collections.abc import Iterator
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Final

import psutil

import manager
from manager.builds.cpu import instructions
from manager.doctor.case import Case
from manager.doctor.finding import Finding, error, note, ok, warning
from manager.extras import missing_hf
from manager.memory_free import host_free
from manager.places import RESERVE

DAY: Final = 86_400.0
SHOWN: Final = ("torch", "transformers")
# What llama.cpp has code of its own for, as the kernel names it: x86 `flags`, ARM `Features`.
# fmt: off
FEATURES: Final = (
    "sse4_2", "avx", "f16c", "fma", "avx2", "bmi2", "avx_vnni", "avx512f", "avx512vl", "avx512bw", "avx512_vnni",
    "avx512_bf16", "amx_tile", "amx_int8", "amx_bf16",
    "asimd", "asimdhp", "asimddp", "i8mm", "sve", "sve2", "sme",
)
# fmt: on


def llamaherd(_: Case) -> Iterator[Finding]:
    try:
        installed = metadata.distribution("llamaherd")
    except metadata.PackageNotFoundError:
        yield warning("llamaherd", "It runs from a folder and is not installed.", "install it: pip install -e .")
        return
    source = json.loads(installed.read_text("direct_url.json") or "{}")
    editable = source.get("dir_info", {}).get("editable", False)
    folder = Path(manager.__file__).parents[1]
    yield ok("llamaherd", f"{installed.version}, {'editable, in' if editable else 'a wheel in'} {folder}")


def python(_: Case) -> Iterator[Finding]:
    yield ok("Python", f"{platform.python_version()} ({platform.python_implementation()})")


def operating_system(_: Case) -> Iterator[Finding]:
    name = platform.system()
    with suppress(OSError):
        name = platform.freedesktop_os_release().get("PRETTY_NAME", name)
    yield ok("system", f"{name}, kernel {platform.release()}, {platform.machine()}")


def processor(case: Case) -> Iterator[Finding]:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else psutil.cpu_count()
    cores = f"{psutil.cpu_count(logical=False) or '?'} cores, {psutil.cpu_count()} threads, {usable} for us"
    yield ok("processor", f"{_model_name(case.proc / 'cpuinfo')}, {cores}")
    there = instructions(case.proc / "cpuinfo")
    used = ", ".join(feature for feature in FEATURES if feature in there)
    if there and platform.machine() == "x86_64" and "avx2" not in there:
        yield warning("features", f"AVX2 is missing (there are: {used or 'none'}): it is slow.", "use a GPU")
    elif there:
        yield ok("features", used or "none that llama.cpp uses")


def _model_name(cpuinfo: Path) -> str:
    named = None
    with suppress(OSError):
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
        named = re.search(r"^model name\s*: *(.+)$", text, re.MULTILINE)
    return named[1] if named else platform.processor() or platform.machine()


def open_files(case: Case) -> Iterator[Finding]:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if most == resource.RLIM_INFINITY:
        yield ok("open files", "no limit")
        return
    wanted = case.settings.server.max_connections + RESERVE
    if most >= wanted:
        yield ok("open files", f"{most} may be open, {wanted} are wanted")
    else:
        yield warning(
            "open files",
            f"{most} may be open, server.max_connections wants {wanted}: the service will take fewer connections.",
            f"LimitNOFILE={wanted} in the systemd unit, 'ulimit -Hn {wanted}' as root, or server.max_connections: "
            f"{max(1, most - RESERVE)}",
        )


def control_group(_: Case) -> Iterator[Finding]:
    free = host_free()
    if free.limit == "cgroup":
        yield note(
            "control group",
            f"Memory is limited to {free.total / 1e9:.1f} GB; the host has "
            f"{psutil.virtual_memory().total / 1e9:.1f} GB.",
            "where models need more: MemoryMax= of the unit, or --memory of the container",
        )


def clock(_: Case) -> Iterator[Finding]:
    now = time.time()
    installed = Path(manager.__file__).stat().st_mtime
    shown = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now))
    if now < installed - DAY:
        yield error(
            "clock",
            f"It says {shown}, which was before llamaherd was installed: certificates and keys will not be valid.",
            "set it: sudo timedatectl set-ntp true",
        )
    else:
        yield ok("clock", shown)


def packages(_: Case) -> Iterator[Finding]:
    missing = missing_hf()
    if missing is not None:
        why, how = missing.split("; ", 1)
        yield note("extra hf", f"{why}.", how)
        return
    yield ok("extra hf", ", ".join(f"{name} {metadata.version(name)}" for name in SHOWN))


CHECKS: Final = (llamaherd, python, operating_system, processor, open_files, control_group, clock, packages)
