"""API keys: made, revoked, and looked up on every request. It knows nothing of HTTP."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import logging
import secrets
import time
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from manager import key_file
from manager.errors import ConfigError, InvalidKey, InvalidRequest
from manager.key_file import PRIORITY_MOST, SCOPES, ApiKey

__all__ = ["PREFIX", "SCOPES", "ApiKey", "KeyStore", "digest_of", "generate_key"]

logger = logging.getLogger(__name__)

PREFIX: Final = "sk-lh-"
LOCK_TIMEOUT: Final = 10.0

UNKNOWN_KEY: Final = "Incorrect API key provided."
EXPIRED_KEY: Final = "This API key has expired."


def generate_key() -> str:
    """A new key: the prefix and 32 random bytes as 43 base64url characters."""
    return PREFIX + secrets.token_urlsafe(32)


def digest_of(token: str) -> str:
    # Header bytes that are no UTF-8 arrive as surrogates; they must end as "unknown", not as an error.
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


class KeyStore:
    """The keys of one file, held in memory.

    Whatever changes the file reads it again first, under a lock between processes: a key that the command
    line made or revoked is never lost to the service, nor the other way round. Only `authenticate`, `list`
    and `len` leave the disk alone.
    """

    def __init__(self, path: Path, *, lock_timeout: float = LOCK_TIMEOUT) -> None:
        self.path = path
        self._lock_timeout = lock_timeout
        self._keys: dict[str, ApiKey] = {}  # by digest
        self._used: dict[str, float] = {}  # by id; newer than what the file says
        self._seen: key_file.Version | None = None

    def __len__(self) -> int:
        """How many keys are stored. Expired ones count: expiry must never turn authentication off."""
        return len(self._keys)

    def load(self) -> None:
        """Read the file; a missing one means no keys. Raises ConfigError on a mistake and keeps what it had."""
        self._adopt(*key_file.read(self.path))

    def reload_if_changed(self) -> bool:
        """Read the file where it is not the one last read; says whether it was. Raises as `load` does.

        A file that has gone is refused too: taking it away must not open a service that asks for keys.
        """
        seen = key_file.version(self.path)
        if seen == self._seen:
            return False
        if seen is None:
            raise ConfigError(f"{self.path}: the file has gone; the keys that were read from it stay valid.")
        self.load()
        return True

    def authenticate(self, token: str) -> ApiKey:
        """The key that `token` is. Raises InvalidKey where it is unknown or expired. Never touches the disk.

        The lookup is by digest, so what its timing tells is about SHA-256 of the guess and not about a key.
        """
        digest = digest_of(token)
        key = self._keys.get(digest)
        if key is None or not hmac.compare_digest(key.digest, digest):
            raise InvalidKey(UNKNOWN_KEY)
        now = time.time()
        if key.expires is not None and now >= key.expires:
            raise InvalidKey(EXPIRED_KEY)
        self._used[key.id] = now
        return key

    def flush(self) -> None:
        """Write when keys were last used, where that is news. Blocks on the disk; may run in a thread.

        Raises ConfigError where the file can't be read or written; the news is kept for the next time.
        """
        if not self._news(self._keys.values()):
            return
        with self._locked():
            keys, seen = key_file.read(self.path)
            if seen is None:
                return
            if news := self._news(keys):
                keys = tuple(replace(key, last_used=news.get(key.id, key.last_used)) for key in keys)
                seen = key_file.write(self.path, keys)
            self._adopt(keys, seen)

    def create(
        self,
        name: str,
        description: str,
        scopes: Collection[str],
        expires: float | None = None,
        *,
        priority: int = 0,
    ) -> tuple[str, ApiKey]:
        """Store a new key; returns the key, which can't be had again, and what is known of it.

        Names are unique among keys that have not expired. Raises InvalidRequest naming the argument at fault.
        """
        name, description = _checked_text(name, description)
        _check_scopes(scopes)
        _check_priority(priority)
        now = float(int(time.time()))
        if expires is not None and expires <= now:
            raise InvalidRequest("A new key can't have expired already.", param="expires")
        token = generate_key()
        with self._locked():
            keys, _ = key_file.read(self.path)
            if any(key.name == name and not key.expired(now) for key in keys):
                raise InvalidRequest(f"There is a key named {name!r} already; revoke it first.", param="name")
            ids = {key.id for key in keys}
            while (fresh := secrets.token_hex(4)) in ids:
                pass
            digest = digest_of(token)
            made = ApiKey(fresh, name, description, digest, frozenset(scopes), now, expires, priority=priority)
            keys = (*keys, made)
            self._adopt(keys, key_file.write(self.path, keys))
        logger.info("key=%s event=created name=%r scopes=%s", made.id, name, ",".join(sorted(scopes)))
        return token, made

    def revoke(self, id_or_name: str) -> ApiKey:
        """Forget the key with this id or name. Raises InvalidRequest where that is no key, or several."""
        with self._locked():
            keys, _ = key_file.read(self.path)
            found = [key for key in keys if id_or_name in (key.id, key.name)]
            if not found:
                raise InvalidRequest(f"No key has the id or the name {id_or_name!r}.", param="key")
            if len(found) > 1:
                ids = ", ".join(key.id for key in found)
                raise InvalidRequest(f"{len(found)} keys are named {id_or_name!r}; give an id: {ids}.", param="key")
            (gone,) = found
            keys = tuple(key for key in keys if key is not gone)
            self._adopt(keys, key_file.write(self.path, keys))
        logger.info("key=%s event=revoked name=%r", gone.id, gone.name)
        return gone

    def list(self) -> tuple[ApiKey, ...]:
        """The keys as they are in memory, oldest first, with the latest `last_used`."""
        news = self._news(self._keys.values())
        keys = (replace(key, last_used=news.get(key.id, key.last_used)) for key in self._keys.values())
        return tuple(sorted(keys, key=lambda key: key.created))

    def _news(self, keys: Collection[ApiKey]) -> dict[str, float]:
        """By id, the uses that `keys` does not tell of; in whole seconds, as the file has them."""
        used = {id_: float(int(when)) for id_, when in self._used.copy().items()}
        return {key.id: used[key.id] for key in keys if used.get(key.id, 0.0) > (key.last_used or 0.0)}

    def _adopt(self, keys: Collection[ApiKey], seen: key_file.Version | None) -> None:
        self._keys = {key.digest: key for key in keys}
        self._seen = seen

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        lock = self.path.with_name(self.path.name + ".lock")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(lock, timeout=self._lock_timeout, mode=0o600):
                key_file.keep_owner(lock)
                yield
        except Timeout:
            raise ConfigError(f"{lock}: another process has held the lock for {self._lock_timeout:g} s.") from None
        except OSError as error:
            raise ConfigError(f"{self.path}: can't write: {error.strerror or error}.") from None


def _checked_text(name: str, description: str) -> tuple[str, str]:
    name, description = name.strip(), description.strip()
    if not 1 <= len(name) <= 100 or not name.isprintable():
        raise InvalidRequest("The name of a key is 1 to 100 printable characters.", param="name")
    if len(description) > 500 or not description.isprintable():
        raise InvalidRequest("The description of a key is at most 500 printable characters.", param="description")
    return name, description


def _check_scopes(scopes: Collection[str]) -> None:
    if unknown := sorted(set(scopes) - set(SCOPES)):
        raise InvalidRequest(f"Unknown scope {unknown[0]!r}; there are: {', '.join(SCOPES)}.", param="scopes")
    if not scopes:
        raise InvalidRequest(f"A key needs a scope: {', '.join(SCOPES)}.", param="scopes")


def _check_priority(priority: int) -> None:
    if not -PRIORITY_MOST <= priority <= PRIORITY_MOST:
        raise InvalidRequest(f"A priority is {-PRIORITY_MOST} to {PRIORITY_MOST}.", param="priority")
