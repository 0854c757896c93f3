"""What a key is, and what is known of one."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

PREFIX: Final = "sk-lh-"
SCOPES: Final = ("inference", "admin")
PRIORITY_MOST: Final = 100  # and the least is as far below 0
# Of the limits of a key; more was surely a slip.
REQUESTS_MOST: Final = 1_000_000
TOKENS_MOST: Final = 10**12
AT_ONCE_MOST: Final = 10_000
MODELS_MOST: Final = 1_000
MODEL_NAME_MOST: Final = 200  # characters
LAST_TIME: Final = 253_370_764_800.0  # the year 9999: what comes after has no date
OVERLAP_MOST: Final = 366 * 86_400.0


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

    def former_valid(self, now: float) -> bool:
        """Whether the key that this one replaced is valid too."""
        return self.former_until is not None and now < self.former_until and not self.expired(now)


def generate_key() -> str:
    """A new key: the prefix and 32 random bytes as 43 base64url characters."""
    return PREFIX + secrets.token_urlsafe(32)


def digest_of(token: str) -> str:
    # Header bytes that are no UTF-8 arrive as surrogates; they must end as "unknown", not as an error.
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def ordered(scopes: Collection[str]) -> list[str]:
    return [scope for scope in SCOPES if scope in scopes]
