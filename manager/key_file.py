"""The file of API keys: how it is read, checked, locked and replaced. It holds digests, never keys."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import ValidationError

from manager.api_key import ApiKey
from manager.errors import ConfigError
from manager.key_record import Document, as_json
from manager.private_file import Place, place_of, tighten

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
        with path.open("rb") as file:
            document = Document.model_validate_json(file.read())
            _keep_private(file.fileno(), path)
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
    with place_of(path) as place:  # where the name is a link, the link stays
        temporary = f".{place.name}-{secrets.token_hex(8)}"
        handle = place.create(temporary, os.O_WRONLY)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(handle)
                _make_newer(handle, place)
            os.replace(temporary, place.name, src_dir_fd=place.folder, dst_dir_fd=place.folder)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=place.folder)
            raise
    return version(path)


@contextlib.contextmanager
def locked(path: Path, timeout: float) -> Iterator[None]:
    """Nobody else changes the file meanwhile.

    Raises ConfigError after `timeout` seconds, which has a `retry_after`, and for every OSError.
    """
    target = Path(os.path.realpath(path))  # by whatever name it is called, there is one lock
    lock = target.with_name(target.name + ".lock")
    try:
        with place_of(path) as place:
            os.close(place.open(lock.name, os.O_RDWR))
        with FileLock(lock, timeout=timeout):  # it follows no link
            yield
    except Timeout:
        message = f"{lock}: another process has held the lock for {timeout:g} s."
        raise ConfigError(message, retry_after=timeout) from None
    except OSError as error:
        raise ConfigError(f"{path}: can't write: {error.strerror or error}.") from None


def _make_newer(handle: int, than: Place) -> None:
    """Give it a later time of change: file systems count in milliseconds, and give the inodes of old files to new ones.

    Else a file that was replaced twice at once could pass for the one that was read.
    """
    old = than.status()
    if old is not None and os.fstat(handle).st_mtime_ns <= old.st_mtime_ns:
        os.utime(handle, ns=(old.st_mtime_ns + 1, old.st_mtime_ns + 1))


def _refuse_twins(path: Path, keys: Collection[ApiKey]) -> None:
    """No two keys have an id in common, nor a digest, be it a former one."""
    seen: set[str] = set()  # ids are shorter than digests
    for place, key in enumerate(keys):
        for field, value in (("id", key.id), ("digest", key.digest), ("former", key.former)):
            if value in seen:
                raise ConfigError(f"{path}: keys.{place}.{field}: the file has the same once before.")
            if value is not None:
                seen.add(value)


def _keep_private(handle: int, path: Path) -> None:
    try:
        mode = tighten(handle, path)
    except OSError:  # another user's, which we may read but not change
        logger.warning("keys_file=%s event=too_open others can read it; its owner has to set it to 600", path)
        return
    if mode is not None:
        logger.warning("keys_file=%s mode=%o event=too_open others could read it; set to 600", path, mode)
