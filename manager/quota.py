"""Limits of API keys: requests a minute, tokens a day, requests at once. What is over a limit counts for nothing."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, NoReturn

from limits import RateLimitItem, RateLimitItemPerDay, RateLimitItemPerMinute
from limits.strategies import FixedWindowRateLimiter, MovingWindowRateLimiter

from manager.api_key import ApiKey
from manager.errors import RateLimited
from manager.quota_windows import Windows

DAY: Final = 86_400
# Clients wait no longer than this by themselves: they would send in vain what has to wait longer.
CLIENTS_WAIT: Final = 60.0
NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})


def _one_name(_: RateLimitItem, *identifiers: bytes | str | int | float) -> str:
    """Without the amount: a key whose limit is changed keeps what it has used."""
    return "/".join(map(str, identifiers))


class _Requests(RateLimitItemPerMinute):
    key_for = _one_name


class _Tokens(RateLimitItemPerDay):
    key_for = _one_name


# For counting alone, where there is no limit, or whatever it is.
_UNLIMITED: Final = _Tokens(0)


class Quotas:
    """Who has used how much. Keys are looked at anew with each request: a changed limit holds at once.

    Requests are counted in a moving window, since a fixed one lets twice as many through around its edge. Tokens are
    known when they are spent: a request that begins below the limit is answered whole. They are counted, as requests
    at once are, for keys without limits too, which may get one.
    """

    def __init__(
        self, *, clock: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """`clock`: seconds since the epoch, for days."""
        self._clock = clock
        self._monotonic = monotonic
        windows = Windows(monotonic)
        self._windows = windows
        self._requests = MovingWindowRateLimiter(windows)
        self._tokens = FixedWindowRateLimiter(windows)
        self._running: dict[str, int] = {}  # by id; no key has 0
        self._anybody = Admission(self, None)

    def admit(self, key: ApiKey | None) -> Admission:
        """Count a request in; `release` of what it returns must follow. None is who needs no key.

        Raises RateLimited, with the headers of the key and the time until it may go on.
        """
        if key is None:
            return self._anybody
        if key.tokens_per_day is not None and not self._tokens.test(_Tokens(key.tokens_per_day), key.id, self._today()):
            self._refuse_tokens(key, key.tokens_per_day)
        running = self._running.get(key.id, 0)
        if key.at_once is not None and running >= key.at_once:
            raise _refusal(
                f"This API key may have {_count(key.at_once, 'request')} at once, and has {running}: "
                "send the next one when one of them has ended.",
                1.0,
                self.headers(key),
            )
        # Last, because it counts: nothing may be refused after it.
        if key.requests_per_minute is not None and not self._requests.hit(_Requests(key.requests_per_minute), key.id):
            self._refuse_requests(key, key.requests_per_minute)
        self._running[key.id] = running + 1
        return Admission(self, key)

    def seed(self, tokens_today: Mapping[str, int]) -> None:
        """Count what keys, by their ids, have used since `day_began`: a restart does not give it back."""
        for key_id, tokens in tokens_today.items():
            self.spend(key_id, tokens)

    def day_began(self) -> float:
        """When the present day of UTC began, in seconds since the epoch."""
        return float(self._day() * DAY)

    def headers(self, key: ApiKey) -> Mapping[str, str]:
        """The limits of the key and what is left of them, as OpenAI's headers tell it.

        Requests are reset when the next of them is free again, tokens when the day ends.
        """
        if key.requests_per_minute is None and key.tokens_per_day is None:
            return NO_HEADERS
        headers: dict[str, str] = {}
        if key.requests_per_minute is not None:
            reset, left = self._requests.get_window_stats(_Requests(key.requests_per_minute), key.id)
            headers |= _headers("requests", key.requests_per_minute, left, reset - self._monotonic())
        if key.tokens_per_day is not None:
            left = self._tokens.get_window_stats(_Tokens(key.tokens_per_day), key.id, self._today()).remaining
            headers |= _headers("tokens", key.tokens_per_day, left, self._until_tomorrow())
        return headers

    def tokens_today(self, key_id: str) -> int:
        """What the key has used since `day_began`."""
        return self._windows.get(_UNLIMITED.key_for(key_id, self._today()))

    def spend(self, key_id: str, tokens: int) -> None:
        self._tokens.hit(_UNLIMITED, key_id, self._today(), cost=tokens)

    def release(self, key_id: str) -> None:
        """One request less at once."""
        running = self._running[key_id] - 1
        if running:
            self._running[key_id] = running
        else:
            del self._running[key_id]

    def _today(self) -> str:
        return str(self._day())

    def _day(self) -> int:
        return int(self._clock() // DAY)

    def _until_tomorrow(self) -> float:
        now = self._clock()
        return DAY - now % DAY

    def _refuse_requests(self, key: ApiKey, limit: int) -> NoReturn:
        reset, _ = self._requests.get_window_stats(_Requests(limit), key.id)
        wait = reset - self._monotonic()
        raise _refusal(
            f"This API key may send {_count(limit, 'request')} a minute: the next one is possible in {duration(wait)}.",
            wait,
            self.headers(key),
        )

    def _refuse_tokens(self, key: ApiKey, limit: int) -> NoReturn:
        wait = self._until_tomorrow()
        raise _refusal(
            f"This API key may use {_count(limit, 'token')} a day, and today's are used up: the next day (UTC) begins "
            f"in {duration(wait)}.",
            wait,
            self.headers(key),
        )


class Admission:
    """A request that was admitted, with what its answer tells of the limits."""

    __slots__ = ("_key", "_quotas", "_released")

    def __init__(self, quotas: Quotas, key: ApiKey | None) -> None:
        self._quotas = quotas
        self._key = key
        self._released = False

    @property
    def headers(self) -> Mapping[str, str]:
        """As things are now; empty where the key has no limits."""
        return NO_HEADERS if self._key is None else self._quotas.headers(self._key)

    def spent(self, tokens: int) -> None:
        """Count what the answer took; after `release` too."""
        if self._key is not None:
            self._quotas.spend(self._key.id, tokens)

    def release(self) -> None:
        """The request has ended. A second time does nothing."""
        if self._key is not None and not self._released:
            self._released = True
            self._quotas.release(self._key.id)


def duration(seconds: float) -> str:
    """As OpenAI's headers have it, rounded up: 120ms, 1s, 6m0s, 5h0m12s."""
    if seconds <= 0.999:
        return f"{math.ceil(seconds * 1000)}ms" if seconds > 0 else "0s"
    minutes, whole = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{whole}s"
    return f"{minutes}m{whole}s" if minutes else f"{whole}s"


def _headers(what: str, limit: int, left: int, reset: float) -> dict[str, str]:
    return {
        f"x-ratelimit-limit-{what}": str(limit),
        f"x-ratelimit-remaining-{what}": str(max(0, left)),
        f"x-ratelimit-reset-{what}": duration(reset),
    }


def _count(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _refusal(message: str, wait: float, headers: Mapping[str, str]) -> RateLimited:
    error = RateLimited(message, retry_after=wait, should_retry=False if wait > CLIENTS_WAIT else None)
    error.headers = headers
    return error
