"""What has come of a file, beside its place: `NAME.part`, and in `NAME.part.json` what it is a part of.

It is locked while a download is at it. All of it blocks; each method may be called from another thread, and after
`close` none does anything.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from manager.downloads.failure import DownloadFailed, NoRoom

BLOCK: Final = 1024 * 1024
# Left over on a disk: so many bytes, or on a small one this share of it.
SPARE: Final = 1024**3
SPARE_SHARE: Final = 0.02
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@dataclass(frozen=True, slots=True)
class Version:
    """Of which content a part is. `address` stands for the URL, `url` shows it without secrets; `total` in bytes."""

    url: str
    address: str
    etag: str | None = None
    modified: str | None = None
    total: int | None = None
    sha256: str | None = None

    @property
    def condition(self) -> str | None:
        """For If-Range: what tells this content from any other at its URL. A weak ETag does not."""
        if self.etag is not None and not self.etag.startswith("W/"):
            return self.etag
        return self.modified


_VERSION: Final = TypeAdapter(Version)


class Part:
    def __init__(self, target: Path) -> None:
        self.target = target
        self.path = target.with_name(target.name + ".part")
        self.note = target.with_name(target.name + ".part.json")
        self.done = 0  # bytes that are there and hashed
        self._digest = hashlib.sha256()
        self._lock = threading.Lock()
        self._closed = False
        self._file: int | None = None

    def open(self) -> Version | None:
        """Take it, or begin it; what it is of, where that is known. Raises DownloadFailed where another is at it."""
        with self._lock, self._told():
            if self._closed:
                return None
            self.target.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._locked()
            try:
                return _VERSION.validate_json(self.note.read_bytes())
            except (FileNotFoundError, ValidationError):
                return None

    def _locked(self) -> int:
        while True:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(file), self.path.lstat()):
                        return file
            except BlockingIOError:
                os.close(file)
                raise DownloadFailed(f"{self.target} is being fetched already, by this or another process") from None
            except BaseException:
                os.close(file)
                raise
            os.close(file)  # whoever had it has finished meanwhile, and put it in its place

    def hash_again(self) -> None:
        """Read what is there, so that the digest goes on from it."""
        with self._told():
            while not self._closed:
                with self._lock:
                    if self._file is None:
                        return
                    block = os.pread(self._file, BLOCK, self.done)
                    self._digest.update(block)
                    self.done += len(block)
                if not block:
                    return

    def rewind(self) -> None:
        """Begin anew, with nothing."""
        with self._lock, self._told():
            if self._file is not None:
                os.ftruncate(self._file, 0)
                self.done = 0
                self._digest = hashlib.sha256()

    def remember(self, version: Version) -> None:
        """Write down of what it is a part, before the first byte of that comes."""
        with self._lock, self._told():
            if self._file is not None:
                new = self.note.with_name(self.note.name + ".new")
                new.write_text(json.dumps(asdict(version), indent=1) + "\n", encoding="utf-8")
                new.replace(self.note)

    def append(self, block: bytes) -> None:
        with self._lock, self._told():
            if self._file is None:
                return
            view = memoryview(block)
            while view:
                written = os.pwrite(self._file, view, self.done)
                self._digest.update(view[:written])
                self.done += written
                view = view[written:]

    def check_room(self, total: int) -> None:
        """Raises NoRoom where what is missing of so many bytes would not leave enough."""
        check_room(self.target, total - self.done)

    def finish(self, sha256: str | None, check: Callable[[Path], str | None] | None = None) -> str:
        """Put it in its place, for good; its digest in hex.

        Raises DownloadFailed where that is not the given one, or `check` tells what is wrong: it is deleted then.
        """
        with self._lock, self._told():
            if self._file is None:
                raise DownloadFailed(f"{self.target}: the download was ended")
            found = self._digest.hexdigest()
            problem = None
            if sha256 is not None and found != sha256.lower():
                problem = f"{self.target.name} is not the expected file: its SHA-256 is {found}, not {sha256.lower()}"
            elif check is not None:
                problem = check(self.path)
            if problem is not None:
                self._unlink()
                raise DownloadFailed(f"{problem}; what came was deleted", elsewhere=True)
            os.fchmod(self._file, 0o644)
            os.fsync(self._file)
            self.path.replace(self.target)
            self.note.unlink(missing_ok=True)
            self._sync_folder()
            return found

    def discard(self) -> None:
        """Delete what has come."""
        with self._lock, self._told():
            if self._file is not None:
                self._unlink()

    def close(self) -> None:
        """Leave it to the next download. One that holds nothing goes away."""
        self._closed = True
        with self._lock:
            file, self._file = self._file, None
            if file is None:
                return
            with contextlib.suppress(OSError):
                if self.done == 0 and os.fstat(file).st_size == 0 and os.fstat(file).st_nlink:
                    self._unlink()
            os.close(file)

    def _unlink(self) -> None:
        self.note.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)

    def _sync_folder(self) -> None:
        folder = os.open(self.target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _told(self) -> AbstractContextManager[None]:
        def kept() -> str:
            return f"{self.done:,} bytes of {self.target.name} are kept there; make room, and fetch it again to go on."

        return disk_errors(self.target, kept)


def check_room(target: Path, missing: int) -> None:
    """Raises NoRoom where so many bytes more, as `target`, would not leave enough."""
    with disk_errors(target):
        folder = next(folder for folder in target.parents if folder.exists())
        disk = shutil.disk_usage(folder)
    spare = min(SPARE, int(disk.total * SPARE_SHARE))
    if missing > 0 and missing + spare > disk.free:
        raise NoRoom(
            f"{target.name} needs {missing:,} more bytes in {folder}, where {disk.free:,} are free and {spare:,} are "
            "to stay free. Make room there, or set storage.models_folder to a folder with room."
        )


@contextmanager
def disk_errors(target: Path, advice: Callable[[], str] = lambda: "Make room there.") -> Iterator[None]:
    """Errors of the disk inside become NoRoom, with that advice, or DownloadFailed."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise NoRoom(f"{target.parent} is full: {error.strerror}. {advice()}") from error
        raise DownloadFailed(f"{target}: can't be written: {error.strerror or error}") from error
