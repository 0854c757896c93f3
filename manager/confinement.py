"""What the system holds a child to before its program begins: no new rights, limits, a cgroup, and our own life."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from manager.errors import ConfigError
from manager.settings_sections import ChildSettings

PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
PR_CAP_AMBIENT: Final = 47
PR_CAP_AMBIENT_CLEAR_ALL: Final = 4
PR_SET_NO_NEW_PRIVS: Final = 38
CLOSE_RANGE_CLOEXEC: Final = 4  # linux/close_range.h
FIRST_OWN: Final = 3  # descriptors of a child beside its stdin, stdout and stderr
LAST: Final = 2**32 - 1
MEMBERS: Final = "cgroup.procs"
NOT_BEGUN: Final = 126
ON_LINUX: Final = sys.platform == "linux"

_libc = ctypes.CDLL(None) if ON_LINUX else None
# One of the steps that a child takes before its program begins, with the setting that it is for.
_Step = tuple[str, Callable[[], object]]


class Confinement:
    """The rules for children. Nothing is checked here: `check` does it at start."""

    def __init__(self, settings: ChildSettings) -> None:
        self._settings = settings

    def check(self) -> None:
        """Raise ConfigError naming the setting that this system can't do. Blocks."""
        settings = self._settings
        if not ON_LINUX:
            for name in ("address_space", "cgroup"):
                if getattr(settings, name) is not None:
                    raise ConfigError(f"children.{name} needs Linux")
        for name, kind in (("open_files", resource.RLIMIT_NOFILE), ("address_space", resource.RLIMIT_AS)):
            wanted, most = getattr(settings, name), resource.getrlimit(kind)[1]
            if wanted is not None and most != resource.RLIM_INFINITY and wanted > most:
                raise ConfigError(f"children.{name} is {wanted}, but the service itself may have {most} at most")
        if settings.cgroup is not None:
            _check_cgroup(settings.cgroup)

    @contextlib.contextmanager
    def armed(self, log: int) -> Iterator[Callable[[], None]]:
        """What a child runs between fork and exec. Everything it needs is made and opened before. Blocks a little.

        Raises OSError where the cgroup can't be opened. Where a rule can't be kept the program does not begin: the
        descriptor `log` gets a line that names the setting, and the child exits with NOT_BEGUN.
        """
        with contextlib.ExitStack() as stack:
            members = None
            if self._settings.cgroup is not None:
                members = _open(self._settings.cgroup / MEMBERS)
                stack.callback(os.close, members)
            yield _arm(os.getpid(), self._steps(members), log)

    def _steps(self, members: int | None) -> list[_Step]:
        settings = self._settings
        steps: list[_Step] = []
        if settings.no_new_privileges and _libc is not None:
            steps.append(("children.no_new_privileges", _no_new_privileges(_libc.prctl)))
        if members is not None:
            steps.append(("children.cgroup", lambda: os.write(members, b"0")))  # 0: who writes it
        limits = [("core_dumps", resource.RLIMIT_CORE, None if settings.core_dumps else 0)]
        limits.append(("open_files", resource.RLIMIT_NOFILE, settings.open_files))
        # The last one: what follows it may find no memory.
        limits.append(("address_space", resource.RLIMIT_AS, settings.address_space))
        steps += [(f"children.{name}", _limit(kind, most)) for name, kind, most in limits if most is not None]
        return steps


def _arm(parent: int, steps: list[_Step], log: int) -> Callable[[], None]:
    """The function for the child. The parent has threads, whose locks it must not wait for: it only calls the system.

    A manager that is killed with SIGKILL leaves nobody behind (Linux), and no descriptor goes along by mistake.
    """
    prctl = _libc.prctl if _libc is not None else None
    close_range = getattr(_libc, "close_range", None)  # glibc 2.34
    told = {name: f"error: {name} can't be done\n".encode() for name, _ in steps}

    def arm() -> None:
        if prctl is not None:
            # Rights that the service was given for itself, as to listen on port 443 (AmbientCapabilities of systemd).
            prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:  # the manager died between fork and prctl
                os._exit(1)
        if close_range is not None:
            close_range(FIRST_OWN, LAST, CLOSE_RANGE_CLOEXEC)
        for name, step in steps:
            try:
                step()
            except (OSError, ValueError):
                # Not raised: uvloop would leave a zombie.
                os.write(log, told[name])
                os._exit(NOT_BEGUN)

    return arm


def _no_new_privileges(prctl: Callable[..., int]) -> Callable[[], None]:
    def forbid() -> None:
        if prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
            raise OSError

    return forbid


def _limit(kind: int, most: int) -> Callable[[], None]:
    both = (most, most)
    return lambda: resource.setrlimit(kind, both)


def _open(members: Path) -> int:
    try:
        return os.open(members, os.O_WRONLY | os.O_CLOEXEC)
    except OSError as error:
        raise OSError(error.errno, f"children.cgroup can't be done ({error.strerror})") from None


def _check_cgroup(folder: Path) -> None:
    members = folder / MEMBERS
    try:
        is_there = stat.S_ISREG(members.stat().st_mode) and (folder / "cgroup.controllers").is_file()
    except OSError:
        is_there = False
    if not is_there:
        raise ConfigError(f"children.cgroup: {folder} is no folder of a cgroup (v2)")
    if not os.access(members, os.W_OK):
        raise ConfigError(f"children.cgroup: {members} can't be written by the service")
