"""Files that nobody but the service's own user may read."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def open_private(path: Path, flags: int) -> int:
    """A descriptor of the file, which is made with mode 0600 where there is none. Raises OSError.

    As root a new file gets the owner of its folder: else `sudo llamaherd …` would leave one that the service's own
    user can't open.
    """
    try:
        return os.open(path, flags | os.O_CLOEXEC)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, flags | os.O_CLOEXEC | os.O_CREAT, 0o600)
    try:
        if os.geteuid() == 0:
            folder = path.parent.stat()
            os.fchown(handle, folder.st_uid, folder.st_gid)
    except BaseException:
        os.close(handle)
        raise
    return handle


def tighten(path: Path) -> bool:
    """Take the file from everyone but its owner; says whether others could open it. Raises OSError."""
    mode = stat.S_IMODE(path.stat().st_mode)
    if not mode & 0o077:
        return False
    path.chmod(mode & 0o700)
    return True
