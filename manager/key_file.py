"""The file of API keys: how it is read, checked, locked and replaced. It holds digests, never keys."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import ValidationError

from manager.api_key import ApiKey
from manager.errors import ConfigError
from manager.key_record import Document, as_json

__all__ = ["ApiKey", "Version", "locked", "read", "version", "write"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Version:
    """Which version of a file was read; two that differ have different ones."""

    inode: int
    mtime_ns: int
    size: int


def version(path: Path) -> Version | None:
    """None where there is no file. Raises ConfigError where it can't be looked at."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"{path}: can't read: {error.strerror or error}.") from None
    return Version(stat.st_ino, stat.st_mtime_ns, stat.st_size)


def read(path: Path) -> tuple[tuple[ApiKey, ...], Version | None]:
    """The keys of the file, none where it is missing. Raises ConfigError with file and place on a mistake."""
    seen = version(path)  # before the text: a change in between is then read again, not missed
    if seen is None:
        return (), None
    try:
        _tighten(path)
        document = Document.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: can't read: {error.strerror or error}.") from None
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        reason = first["msg"].removeprefix("Value error, ")
        raise ConfigError(": ".join(filter(None, (str(path), place, reason))) + ".") from None
    keys = tuple(record.key() for record in document.keys)
    _refuse_twins(path, keys)
    return keys, seen


def write(path: Path, keys: Collection[ApiKey]) -> Version | None:
    """Replace the file whole: readers see the old one or the new one, and a crash leaves one of them.

    Raises OSError. The caller holds the lock.
    """
    text = json.dumps({"keys": [as_json(key) for key in keys]}, indent=2, ensure_ascii=False) + "\n"
    target = Path(os.path.realpath(path))  # where the name is a link, the link stays
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}-")  # made with mode 0600
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(handle)
        _keep_owner(temporary, target)
        _make_newer(temporary, target)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return version(path)


@contextlib.contextmanager
def locked(path: Path, timeout: float) -> Iterator[None]:
    """Nobody else changes the file meanwhile. Raises ConfigError after `timeout` seconds, and for every OSError."""
    target = Path(os.path.realpath(path))  # by whatever name it is called, there is one lock
    lock = target.with_name(target.name + ".lock")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock, timeout=timeout, mode=0o600):
            _keep_owner(lock)
            yield
    except Timeout:
        raise ConfigError(f"{lock}: another process has held the lock for {timeout:g} s.") from None
    except OSError as error:
        raise ConfigError(f"{path}: can't write: {error.strerror or error}.") from None


def _keep_owner(path: Path, like: Path | None = None) -> None:
    """As root, give a new file the owner of the one it replaces, or of its folder.

    Else `sudo llamaherd key create` would leave a file that the service's own user can't read.
    """
    if os.geteuid() != 0:
        return
    model = (like if like is not None and like.exists() else path.parent).stat()
    os.chown(path, model.st_uid, model.st_gid)


def _make_newer(path: Path, than: Path) -> None:
    """Give it a later time of change: file systems count in milliseconds, and give the inodes of old files to new ones.

    Else a file that was replaced twice at once could pass for the one that was read.
    """
    with contextlib.suppress(FileNotFoundError):
        least = than.stat().st_mtime_ns + 1
        if path.stat().st_mtime_ns < least:
            os.utime(path, ns=(least, least))


def _refuse_twins(path: Path, keys: Collection[ApiKey]) -> None:
    """No two keys have an id in common, nor a digest, be it a former one."""
    seen: set[str] = set()  # ids are shorter than digests
    for place, key in enumerate(keys):
        for field, value in (("id", key.id), ("digest", key.digest), ("former", key.former)):
            if value in seen:
                raise ConfigError(f"{path}: keys.{place}.{field}: the file has the same once before.")
            if value is not None:
                seen.add(value)


def _tighten(path: Path) -> None:
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        logger.warning("keys_file=%s mode=%o event=too_open others could read it; set to 600", path, mode)
        with contextlib.suppress(OSError):
            path.chmod(0o600)
