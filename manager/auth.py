"""API keys: made, changed, replaced, revoked, and looked up on every request. It knows nothing of HTTP."""

from __future__ import annotations

import hmac
import logging
import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final, Unpack

from manager import key_file
from manager.api_key import PREFIX, SCOPES, ApiKey, digest_of, generate_key
from manager.errors import ConfigError, InvalidKey, PermissionDenied
from manager.key_rules import Asker, Changes, NoKey, changed, check_first, check_last, fitted, one, rotated

__all__ = ["PREFIX", "SCOPES", "ApiKey", "KeyStore", "digest_of", "generate_key"]

logger = logging.getLogger(__name__)

LOCK_TIMEOUT: Final = 10.0

UNKNOWN_KEY: Final = "Incorrect API key provided."
EXPIRED_KEY: Final = "This API key has expired."
REPLACED_KEY: Final = "This API key has expired: another has replaced it."


class KeyStore:
    """The keys of one file, held in memory.

    Whatever changes the file reads it again first, under a lock between processes: a key that the command
    line made or revoked is never lost to the service, nor the other way round. Only `authenticate`, `find`, `list`
    and `len` leave the disk alone. All may be called in any thread.

    An `asker` must still be let to when the file is locked and read anew; the command line has none, and may do all.
    `keep_admin`: there is always a key left that administers, from the first one on. `on_change` is called with
    `created`, `changed`, `rotated` or `revoked` and the key, once that is written, in the same thread; should it
    raise, it stays written. `clock` is seconds since the epoch.
    """

    def __init__(
        self,
        path: Path,
        *,
        lock_timeout: float = LOCK_TIMEOUT,
        keep_admin: bool = False,
        on_change: Callable[[str, ApiKey], None] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.path = path
        self.on_change = on_change
        self._lock_timeout = lock_timeout
        self._keep_admin = keep_admin
        self._clock = clock
        self._keys: tuple[ApiKey, ...] = ()
        self._by_digest: dict[str, ApiKey] = {}  # by former digests too
        self._used: dict[str, float] = {}  # by id; newer than what the file says
        self._seen: key_file.Version | None = None
        # From reading the file until that counts: an older reading must not come after a newer one.
        self._turn = threading.Lock()

    def __len__(self) -> int:
        """How many keys are stored. Expired ones count: expiry must never turn authentication off."""
        return len(self._keys)

    def load(self) -> None:
        """Read the file; a missing one means no keys. Raises ConfigError on a mistake and keeps what it had."""
        with self._turn:
            self._adopt(*key_file.read(self.path))

    def reload_if_changed(self) -> bool:
        """Read the file where it is not the one last read; says whether it was. Raises as `load` does.

        A file that has gone is refused too: taking it away must not open a service that asks for keys.
        """
        with self._turn:
            seen = key_file.version(self.path)
            if seen == self._seen:
                return False
            if seen is None:
                raise self._gone()
            self._adopt(*key_file.read(self.path))
            return True

    def authenticate(self, token: str) -> ApiKey:
        """The key that `token` is. Raises InvalidKey where it is unknown or expired. Never touches the disk.

        The lookup is by digest, so what its timing tells is about SHA-256 of the guess and not about a key.
        """
        digest = digest_of(token)
        key = self._by_digest.get(digest)
        if key is None:
            raise InvalidKey(UNKNOWN_KEY)
        now = self._clock()
        if not hmac.compare_digest(key.digest, digest):
            _check_former(key, digest, now)
        if key.expires is not None and now >= key.expires:
            raise InvalidKey(EXPIRED_KEY)
        self._used[key.id] = now
        return key

    def flush(self) -> None:
        """Write when keys were last used, where that is news. Blocks on the disk; may run in a thread.

        Raises ConfigError where the file can't be read or written; the news is kept for the next time.
        """
        if not self._news(self._keys):
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
        models: Collection[str] | None = None,
        requests_per_minute: int | None = None,
        tokens_per_day: int | None = None,
        at_once: int | None = None,
        asker: Asker | None = None,
    ) -> tuple[str, ApiKey]:
        """Store a new key; returns the key, which can't be had again, and what is known of it.

        Names are unique among keys that have not expired. Raises InvalidRequest naming the argument at fault,
        InvalidKey or PermissionDenied where `asker` may not, and ConfigError where the file can't be read or written;
        so do `change`, `rotate` and `revoke`.
        """
        token, now = generate_key(), self._now()
        made = ApiKey(
            id=secrets.token_hex(4),
            name=name,
            description=description,
            digest=digest_of(token),
            scopes=frozenset(scopes),
            created=now,
            expires=expires,
            priority=priority,
            models=None if models is None else frozenset(models),
            requests_per_minute=requests_per_minute,
            tokens_per_day=tokens_per_day,
            at_once=at_once,
        )
        with self._locked():
            keys = self._stored(asker)
            made = fitted(made, keys, now)
            if self._keep_admin:
                check_first(made, keys, now)
            self._write((*keys, made))
        self._tell("created", made)
        return token, made

    def change(self, id_or_name: str, *, asker: Asker | None = None, **changes: Unpack[Changes]) -> ApiKey:
        """Give the key with this id or name other fields; None takes away a limit, a list of models, the expiry.

        Raises InvalidRequest naming the argument at fault, and LastAdminKey.
        """
        return self._renew("changed", id_or_name, asker, lambda key, keys: changed(key, changes, keys, self._now()))

    def rotate(self, id_or_name: str, overlap: float, *, asker: Asker | None = None) -> tuple[str, ApiKey]:
        """Replace the key with this id or name by a new one, which is returned; all that is known of it stays.

        The old one stays valid for `overlap` seconds, but not beyond the expiry. What that one had replaced is valid
        no longer. Raises InvalidRequest naming the argument at fault.
        """
        token = generate_key()
        digest = digest_of(token)
        new = self._renew("rotated", id_or_name, asker, lambda key, _: rotated(key, digest, overlap, self._now()))
        return token, new

    def revoke(self, id_or_name: str, *, asker: Asker | None = None) -> ApiKey:
        """Forget the key with this id or name. Raises InvalidRequest where that is no key, or several; LastAdminKey."""
        with self._locked():
            keys = self._stored(asker)
            gone = one(keys, id_or_name)
            if self._keep_admin:
                check_last(gone, None, keys, self._now())
            self._write(key for key in keys if key is not gone)
        self._tell("revoked", gone)
        return gone

    def find(self, id_or_name: str) -> ApiKey:
        """The key in memory with this id or name. Raises InvalidRequest where that is no key, or several."""
        return one(self._keys, id_or_name)

    def list(self) -> tuple[ApiKey, ...]:
        """The keys as they are in memory, oldest first, with the latest `last_used`."""
        news = self._news(self._keys)
        keys = (replace(key, last_used=news.get(key.id, key.last_used)) for key in self._keys)
        return tuple(sorted(keys, key=lambda key: key.created))

    def _news(self, keys: Iterable[ApiKey]) -> dict[str, float]:
        """By id, the uses that `keys` does not tell of; in whole seconds, as the file has them."""
        used = {id_: float(int(when)) for id_, when in self._used.copy().items()}
        return {key.id: used[key.id] for key in keys if used.get(key.id, 0.0) > (key.last_used or 0.0)}

    def _renew(
        self,
        event: str,
        id_or_name: str,
        asker: Asker | None,
        renewed: Callable[[ApiKey, tuple[ApiKey, ...]], ApiKey],
    ) -> ApiKey:
        with self._locked():
            keys = self._stored(asker)
            old = one(keys, id_or_name)
            new = renewed(old, keys)
            if self._keep_admin:
                check_last(old, new, keys, self._now())
            self._write(new if key is old else key for key in keys)
        self._tell(event, new)
        return new

    def _stored(self, asker: Asker | None) -> tuple[ApiKey, ...]:
        """The keys of the file. One that has gone is no empty one: keys that are valid would be lost to the next."""
        keys, seen = key_file.read(self.path)
        if seen is None and self._seen is not None:
            raise self._gone()
        if asker is not None:
            self._adopt(keys, seen)
            self._check(asker)
        return keys

    def _check(self, asker: Asker) -> None:
        """Raise InvalidKey or PermissionDenied where it may not change keys, or not any more."""
        if asker.token is None:
            if self._keys:
                raise NoKey("There is an API key by now, and it is needed.")
            return
        key = self.authenticate(asker.token)
        if "admin" not in key.scopes:
            raise PermissionDenied("This API key lacks the scope 'admin'.")
        if key.digest != digest_of(asker.token):
            # Or whoever got hold of the old one could replace the new one, and lock its owner out.
            raise PermissionDenied("Another API key has replaced this one: only that one may change keys now.")

    def _gone(self) -> ConfigError:
        return ConfigError(f"{self.path}: the file has gone; the keys that were read from it stay valid.")

    def _write(self, keys: Iterable[ApiKey]) -> None:
        keys = tuple(keys)
        self._adopt(keys, key_file.write(self.path, keys))

    def _adopt(self, keys: tuple[ApiKey, ...], seen: key_file.Version | None) -> None:
        by_digest = {key.former: key for key in keys if key.former is not None}
        by_digest.update((key.digest, key) for key in keys)
        self._by_digest = by_digest  # at one stroke: requests are looked up meanwhile
        self._keys = keys
        self._seen = seen

    def _tell(self, event: str, key: ApiKey) -> None:
        logger.info("key=%s event=%s name=%r scopes=%s", key.id, event, key.name, ",".join(sorted(key.scopes)))
        if self.on_change is not None:
            self.on_change(event, key)

    def _now(self) -> float:
        """In whole seconds, as the file has them."""
        return float(int(self._clock()))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with key_file.locked(self.path, self._lock_timeout), self._turn:
            yield


def _check_former(key: ApiKey, digest: str, now: float) -> None:
    if key.former is None or key.former_until is None or not hmac.compare_digest(key.former, digest):
        raise InvalidKey(UNKNOWN_KEY)
    if now >= key.former_until:
        raise InvalidKey(REPLACED_KEY)
