"""Copies a file to a place that must be free: under another name first, so that nothing half is ever there."""

from __future__ import annotations

import errno
import fcntl
import glob
import hashlib
import os
import secrets
from pathlib import Path
from typing import BinaryIO, Final

from manager.model_store.reading import BLOCK, Tell, digest

# What link(2) says where the other file system, or this one, has no hard links; or may not have more of this file.
NO_LINKS: Final = frozenset({errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
_FICLONE: Final = 0x40049409  # ioctl_ficlone(2)


def copied(real: Path, target: Path, tell: Tell) -> str:
    """The digest of the copy. Raises FileExistsError where the place is taken, OSError else. Blocks.

    The caller holds the lock of the target's part: what other copies have left here is of processes that died.
    """
    for left in target.parent.glob(glob.escape(f".{target.name}.") + "[0-9a-f]" * 8 + ".new"):
        left.unlink()
    new = target.with_name(f".{target.name}.{secrets.token_hex(4)}.new")
    try:
        with real.open("rb") as source, new.open("xb") as copy:
            found = _cloned(source, copy, tell) or _streamed(source, copy, tell)
            copy.flush()
            os.fchmod(copy.fileno(), 0o644)
            os.fsync(copy.fileno())
        _rename(new, target)
    finally:
        new.unlink(missing_ok=True)
    return found


def _rename(new: Path, target: Path) -> None:
    """Not as rename(2), which would replace a file that came meanwhile."""
    try:
        os.link(new, target)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from None
        new.replace(target)


def _cloned(source: BinaryIO, copy: BinaryIO, tell: Tell) -> str | None:
    """A copy that shares its blocks, where the file system has that; None where it does not."""
    try:
        fcntl.ioctl(copy.fileno(), _FICLONE, source.fileno())
    except OSError:
        return None
    return digest(Path(copy.name), tell)


def _streamed(source: BinaryIO, copy: BinaryIO, tell: Tell) -> str:
    found = hashlib.sha256()
    while block := source.read(BLOCK):
        found.update(block)
        copy.write(block)
        tell(len(block))
    return found.hexdigest()
