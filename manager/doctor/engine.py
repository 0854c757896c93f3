"""llama.cpp: which one would run the models, whether it can, and whether it uses the GPUs that are there."""

from __future__ import annotations

import errno
import re
import shutil
import signal
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Final

from manager.builds.kept import BINARY_NAME, builds
from manager.doctor.case import Case, Ran, run
from manager.doctor.finding import Finding, error, note, ok, warning
from manager.engines.llama.native import EMBEDDED_PACKAGE
from manager.errors import ConfigError

BUILD: Final = "llamaherd llama build"
BUILD_CUDA: Final = f"{BUILD} --backend cuda"
# What the loaders of glibc, of musl and of macOS write.
_MISSING: Final = re.compile(
    r"error while loading shared libraries: (\S+?):|Error loading shared library (\S+?):|Library not loaded: (\S+)"
)
_LDD_MISSING: Final = re.compile(r"^\s*(\S+) => not found", re.MULTILINE)
_VERSION: Final = re.compile(r"^version: *(.+)$", re.MULTILINE)
LDD_TIMEOUT: Final = 10.0


def launcher(case: Case) -> Iterator[Finding]:
    try:
        chosen, binary = case.launcher
    except ConfigError as mistake:
        yield error("launcher", mistake.message, f"or compile one: {BUILD}")
        return
    if binary is None:
        version = metadata.version(EMBEDDED_PACKAGE)
        yield ok("launcher", f"{chosen}: llama.cpp of the package {EMBEDDED_PACKAGE} {version}, for the CPU")
    else:
        yield ok("launcher", f"{chosen}: {binary} ({_why(case, binary)})")


def _why(case: Case, binary: Path) -> str:
    settings = case.settings
    if settings.llama.binary is not None:
        return "setting llama.binary"
    if binary.is_relative_to(settings.storage.cache_folder):
        return "'llamaherd llama list' shows it"
    return "the first one on PATH"


def version(case: Case) -> Iterator[Finding]:
    _, binary = _launcher(case)
    if binary is None:
        return
    try:
        ran = case.version
    except OSError as failure:
        what = "It is for another kind of processor" if failure.errno == errno.ENOEXEC else f"{failure.strerror}"
        yield error(BINARY_NAME, f"{binary} can't be started: {what}.", f"compile one: {BUILD}")
        return
    if ran is not None and ran.status == 0:
        said = _VERSION.search(ran.text)
        yield ok("version", said[1] if said else ran.text.strip().partition("\n")[0] or "it does not say")
    elif ran is not None:
        yield _failed(binary, ran)


def _launcher(case: Case) -> tuple[str, Path | None]:
    """As the case has it; none where there is a mistake, which is told already."""
    try:
        return case.launcher
    except ConfigError:
        return "embedded", None


def _failed(binary: Path, ran: Ran) -> Finding:
    name, libraries = "shared libraries", [next(filter(None, names)) for names in _MISSING.findall(ran.text)]
    if libraries:
        every = ", ".join(dict.fromkeys([*libraries, *_missing_by_ldd(binary)]))
        return error(
            name,
            f"{binary} needs {every}, which the system does not find.",
            f"install what brings it, or name its folder in LD_LIBRARY_PATH, or compile one that fits: {BUILD}",
        )
    if ran.status is None:
        return error(BINARY_NAME, f"{binary} --version does not end.", f"compile another: {BUILD}")
    if ran.status == -signal.SIGILL:
        return error(BINARY_NAME, f"{binary} was compiled for another processor.", f"compile one that fits: {BUILD}")
    end = f"signal {-ran.status}" if ran.status < 0 else f"exit status {ran.status}"
    last = (ran.text.strip().splitlines() or ["nothing"])[-1]
    return error(BINARY_NAME, f"{binary} --version fails ({end}): {last}", f"compile another: {BUILD}")


def _missing_by_ldd(binary: Path) -> list[str]:
    """All that are missing, where the loader's message only has the first."""
    ldd = shutil.which("ldd")
    return [] if ldd is None else _LDD_MISSING.findall(run(ldd, str(binary), timeout=LDD_TIMEOUT).text)


def devices(case: Case) -> Iterator[Finding]:
    _, binary = _launcher(case)
    if binary is None or case.version is None or case.version.status != 0:
        return
    listed = case.devices
    if listed is None:
        yield note("devices", f"{binary} --list-devices does not tell: it may be too old for that.")
    else:
        yield ok("devices", ", ".join(listed) or "the CPU alone")


def without_gpu(case: Case) -> Iterator[Finding]:
    """An NVIDIA GPU is there, and GGUF models don't use it."""
    if not case.every_gpu or case.named == ():
        return
    chosen, binary = _launcher(case)
    names = ", ".join(gpu.limit for gpu in case.every_gpu)
    if binary is None:
        how = BUILD_CUDA + ("; then set llama.launcher to auto" if case.settings.llama.launcher == "embedded" else "")
        yield warning("GPU", f"GGUF models run on the CPU: the {chosen} llama.cpp does not use {names}.", how)
    elif case.devices is not None and not any(name.startswith("CUDA") for name in case.devices):
        what = f"uses {', '.join(case.devices)}" if case.devices else "was compiled for the CPU"
        yield warning("GPU", f"{binary} {what}, and not CUDA, while there is {names}.", BUILD_CUDA)


def kept_builds(case: Case) -> Iterator[Finding]:
    there = builds(case.settings.storage.cache_folder / "llama")
    for build in there:
        if lacking := build.lacking():
            yield warning(
                f"build {build.name}",
                f"It needs {', '.join(lacking)}, which this processor does not have.",
                f"{BUILD}, and: llamaherd llama remove {build.name}",
            )
    if there:
        yield ok("builds", ", ".join(build.name for build in there))


CHECKS: Final = (launcher, version, devices, without_gpu, kept_builds)
