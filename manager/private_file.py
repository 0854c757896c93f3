"""Files that nobody but the service's own user may read; and how root handles them in the folders of that user.

Such a user may put links there, with which `sudo llamaherd …` must not create, change or give away what is others'.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_OPEN: Final = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # a pipe in place of a file must not hold us up
_LINKS_MOST: Final = 40  # as the kernel has it


@dataclass(frozen=True, slots=True)
class Place:
    """The folder of a file, open, and the file's name in it: what happens to the path meanwhile changes nothing.

    `host` is whose folder we work in as root, where that is somebody else's.
    """

    folder: int
    name: str
    host: int | None

    def open(self, name: str, flags: int) -> int:
        """A descriptor of a file of the folder, which is made where it is missing. Raises OSError."""
        while True:
            with contextlib.suppress(FileNotFoundError):
                return self._of_host(os.open(name, flags | _OPEN, dir_fd=self.folder))
            with contextlib.suppress(FileExistsError):  # made by another process meanwhile
                return self.create(name, flags)

    def create(self, name: str, flags: int) -> int:
        """A descriptor of a new file of the folder, with mode 0600. Raises OSError.

        As root it gets the owner of the file of this place, or else of the folder: else `sudo llamaherd …` would leave
        one that the service's own user can't open.
        """
        like = self.status() or os.fstat(self.folder)
        handle = os.open(name, flags | _OPEN | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=self.folder)
        try:
            if os.geteuid() == 0:
                os.fchown(handle, like.st_uid, like.st_gid)
        except BaseException:
            os.close(handle)
            raise
        return handle

    def status(self) -> os.stat_result | None:
        """What is known of the file; None where there is none. Raises OSError."""
        try:
            return os.stat(self.name, dir_fd=self.folder, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def _of_host(self, handle: int) -> int:
        """The descriptor itself, where root may write to it. What is root's and has another name may be anything."""
        status = os.fstat(handle)
        ours = status.st_uid == self.host or (status.st_uid == 0 and status.st_nlink == 1)
        if self.host is not None and not (stat.S_ISREG(status.st_mode) and ours):
            os.close(handle)
            raise PermissionError(errno.EPERM, f"{self.name} is no file of the owner of its folder: root leaves it")
        return handle


@contextlib.contextmanager
def place_of(path: Path) -> Iterator[Place]:
    """Where the file is, or would be, that the path and the links at its end lead to; its folder is made. Blocks.

    Raises OSError, and that as root where a link leads out of another user's folder, to what is not that user's.
    """
    _make_folder(path.parent)
    real = Path(os.path.realpath(path))
    folder = os.open(real.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        place = Place(folder, real.name, _host(path))
        if place.host is not None and place.host != os.fstat(folder).st_uid:
            status = place.status()
            if status is None or status.st_uid != place.host:
                raise PermissionError(errno.EPERM, f"it leads to {real}, which is another user's: root leaves it")
        yield place
    finally:
        os.close(folder)


def open_private(path: Path, flags: int) -> int:
    """A descriptor of the file, which is made with mode 0600 where there is none. Raises OSError as `place_of` does."""
    _make_folder(path.parent)
    if _host(path) is None:
        return os.open(path, flags | os.O_CLOEXEC | os.O_CREAT, 0o600)
    with place_of(path) as place:
        return place.open(place.name, flags)


def tighten(handle: int, path: Path) -> int | None:
    """Take the open file from everyone but its owner; what mode it had, where others could open it. Raises OSError.

    Root leaves alone what is neither its own nor of the owner of the folder of `path`.
    """
    status = os.fstat(handle)
    mode = stat.S_IMODE(status.st_mode)
    if not mode & 0o077 or not stat.S_ISREG(status.st_mode):
        return None
    if os.geteuid() == 0 and status.st_uid not in (0, path.parent.stat().st_uid):
        return None
    os.fchmod(handle, mode & 0o700)
    return mode


def _make_folder(folder: Path) -> None:
    if not folder.exists():
        folder.mkdir(parents=True, exist_ok=True)


def _host(path: Path) -> int | None:
    """As root, the other user in whose folder the path ends, or the first link at its end that is in such a one."""
    if os.geteuid() != 0:
        return None
    for _ in range(_LINKS_MOST):
        owner = path.parent.stat().st_uid
        if owner != 0:
            return owner
        if not path.is_symlink():
            break
        path = path.parent / path.readlink()
    return None
