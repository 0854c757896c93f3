"""The file of API keys: what a key is, how it is read, checked and replaced. It holds digests, never keys."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from manager.errors import ConfigError

logger = logging.getLogger(__name__)

SCOPES: Final = ("inference", "admin")
PRIORITY_MOST: Final = 100  # and the least is as far below 0


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What is known of a key; the key itself is kept nowhere. Times are seconds since the epoch.

    `id` is random and says nothing of the key: it may be shown and logged. `digest` is hex SHA-256.
    `priority` is a tie-breaker among requests that wait: a point counts as a second of having waited longer.
    `models` are the names or aliases that it may use, None: all. The limits are None where there is none; a day is
    one of UTC. `former` is the digest of the key that this one replaced, which is valid until `former_until`.
    """

    id: str
    name: str
    description: str
    digest: str
    scopes: frozenset[str]
    created: float
    expires: float | None = None
    last_used: float | None = None
    priority: int = 0
    models: frozenset[str] | None = None
    requests_per_minute: int | None = None
    tokens_per_day: int | None = None
    at_once: int | None = None
    former: str | None = None
    former_until: float | None = None

    def expired(self, now: float) -> bool:
        return self.expires is not None and now >= self.expires


class _Record(BaseModel):
    """A key as the file has it."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    id: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8,32}$")]
    name: Annotated[str, StringConstraints(min_length=1)]
    description: str = ""
    digest: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    scopes: list[Literal["inference", "admin"]]
    created: AwareDatetime
    expires: AwareDatetime | None = None
    last_used: AwareDatetime | None = None
    priority: Annotated[int, Field(strict=True, ge=-PRIORITY_MOST, le=PRIORITY_MOST)] = 0


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    keys: list[_Record]


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
        document = _Document.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: can't read: {error.strerror or error}.") from None
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise ConfigError(": ".join(filter(None, (str(path), place, first["msg"]))) + ".") from None
    keys = tuple(map(_key_of, document.keys))
    _refuse_twins(path, "id", [key.id for key in keys])
    _refuse_twins(path, "digest", [key.digest for key in keys])
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
        keep_owner(temporary, target)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return version(path)


def keep_owner(path: Path, like: Path | None = None) -> None:
    """As root, give a new file the owner of the one it replaces, or of its folder.

    Else `sudo llamaherd key create` would leave a file that the service's own user can't read.
    """
    if os.geteuid() != 0:
        return
    model = (like if like is not None and like.exists() else path.parent).stat()
    os.chown(path, model.st_uid, model.st_gid)


def iso_time(seconds: float) -> str:
    """Seconds since the epoch as ISO 8601 in UTC, to the second."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def ordered(scopes: Collection[str]) -> list[str]:
    return [scope for scope in SCOPES if scope in scopes]


def _key_of(record: _Record) -> ApiKey:
    return ApiKey(
        id=record.id,
        name=record.name,
        description=record.description,
        digest=record.digest,
        scopes=frozenset(record.scopes),
        created=record.created.timestamp(),
        expires=None if record.expires is None else record.expires.timestamp(),
        last_used=None if record.last_used is None else record.last_used.timestamp(),
        priority=record.priority,
    )


def as_json(key: ApiKey) -> dict[str, object]:
    """As the file has it, and as others may see it once `digest` is taken out."""
    return {
        "id": key.id,
        "name": key.name,
        "description": key.description,
        "digest": key.digest,
        "scopes": ordered(key.scopes),
        "created": iso_time(key.created),
        "expires": None if key.expires is None else iso_time(key.expires),
        "last_used": None if key.last_used is None else iso_time(key.last_used),
        "priority": key.priority,
    }


def _refuse_twins(path: Path, what: str, values: list[str]) -> None:
    for place, value in enumerate(values):
        if value in values[:place]:
            raise ConfigError(f"{path}: keys.{place}.{what}: an earlier key has the same.")


def _tighten(path: Path) -> None:
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        logger.warning("keys_file=%s mode=%o event=too_open others could read it; set to 600", path, mode)
        with contextlib.suppress(OSError):
            path.chmod(0o600)
