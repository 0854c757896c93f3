"""A program that runs another one under the system call filter of deploy/llamaherd.service, as systemd would.

python under_filter.py NAME,NAME,… PROGRAM ARGUMENT…: calls that are not named fail with EPERM.
"""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Final

ALLOW: Final = 0x7FFF0000  # SCMP_ACT_ALLOW, and SCMP_ACT_ERRNO with EPERM: seccomp.h
REFUSE: Final = 0x00050001
NO_NEW_PRIVS: Final = 38  # linux/prctl.h


def hold_to(names: list[str]) -> None:
    """From now on this process and its children may make these calls only. Raises OSError."""
    library = ctypes.CDLL("libseccomp.so.2")
    library.seccomp_init.restype = ctypes.c_void_p
    rules = ctypes.c_void_p(library.seccomp_init(REFUSE))
    for name in names:
        number = library.seccomp_syscall_resolve_name(name.encode())
        if number >= 0:  # some calls are other architectures'
            library.seccomp_rule_add(rules, ALLOW, number, 0)
    if ctypes.CDLL(None).prctl(NO_NEW_PRIVS, 1, 0, 0, 0) or library.seccomp_load(rules):
        raise OSError("the filter can't be set")
    try:
        os.chown("/", -1, -1)  # of @privileged
    except PermissionError:
        return
    raise OSError("the filter refuses nothing")


if __name__ == "__main__":
    hold_to(sys.argv[1].split(","))
    os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606  that is what it is for
