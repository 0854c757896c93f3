"""Limits of keys: who is admitted, what is counted, and what the answer tells of it."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manager.api_key import ApiKey
from manager.errors import RateLimited
from manager.quota import Admission, Quotas, duration
from manager.quota_windows import Windows

DAY = 86_400
KEY = ApiKey("0a1b2c3d", "web", "", "0" * 64, frozenset({"inference"}), 0.0)
OTHER = replace(KEY, id="99999999")


class Clock:
    """Both clocks of Quotas. It begins at 2026-11-21 18:00 UTC."""

    def __init__(self) -> None:
        self.day = 20_778
        self.now = self.day * DAY + 18 * 3600.0
        self.put_back = 0.0  # of the one that tells the day

    def epoch(self) -> float:
        return self.now - self.put_back

    def monotonic(self) -> float:
        return self.now - 1e9

    def forward(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def quotas(clock: Clock) -> Quotas:
    return Quotas(clock=clock.epoch, monotonic=clock.monotonic)


def refused(quotas: Quotas, key: ApiKey) -> RateLimited:
    with pytest.raises(RateLimited) as caught:
        quotas.admit(key)
    assert (caught.value.status, caught.value.code, caught.value.param) == (429, "rate_limit_exceeded", None)
    return caught.value


def told_to_wait(quotas: Quotas, key: ApiKey) -> float | None:
    """For how long, where the request is not admitted."""
    try:
        quotas.admit(key)
    except RateLimited as error:
        return error.retry_after
    return None


# requests a minute


def test_as_many_requests_as_the_limit_says_are_admitted_and_the_next_one_is_told_when(
    quotas: Quotas, clock: Clock
) -> None:
    key = replace(KEY, requests_per_minute=3)
    for _ in range(3):
        quotas.admit(key)
        clock.forward(10)
    error = refused(quotas, key)
    assert error.retry_after == 30
    assert error.should_retry is None
    assert error.message == "This API key may send 3 requests a minute: the next one is possible in 30s."
    clock.forward(29.5)
    assert refused(quotas, key).message.endswith(" in 500ms.")
    clock.forward(0.5)
    quotas.admit(key)
    assert refused(quotas, key).retry_after == 10


def test_no_minute_has_more_requests_than_the_limit_not_even_around_its_edge(quotas: Quotas, clock: Clock) -> None:
    key = replace(KEY, requests_per_minute=5)
    admitted: list[float] = []
    for _ in range(1000):
        clock.forward(1.7)
        if not told_to_wait(quotas, key):
            admitted.append(clock.now)
    assert len(admitted) > 100
    assert all(later - earlier >= 60 for earlier, later in zip(admitted, admitted[5:], strict=False))


@settings(deadline=None, derandomize=True, database=None)
@given(st.lists(st.floats(0, 40), min_size=1, max_size=60), st.integers(1, 5))
def test_who_waits_as_long_as_told_is_admitted(pauses: list[float], limit: int) -> None:
    clock = Clock()
    quotas = Quotas(clock=clock.epoch, monotonic=clock.monotonic)
    key = replace(KEY, requests_per_minute=limit)
    for pause in pauses:
        clock.forward(pause)
        if wait := told_to_wait(quotas, key):
            assert 0 < wait <= 60
            clock.forward(wait + 1e-6)  # of rounding
            quotas.admit(key)


def test_keys_have_limits_of_their_own(quotas: Quotas) -> None:
    limit = {"requests_per_minute": 1}
    quotas.admit(replace(KEY, **limit))  # type: ignore[arg-type]
    quotas.admit(replace(OTHER, **limit))  # type: ignore[arg-type]
    refused(quotas, replace(KEY, **limit))  # type: ignore[arg-type]


def test_changed_limit_holds_at_once_and_keeps_what_was_used(quotas: Quotas, clock: Clock) -> None:
    for _ in range(4):
        quotas.admit(replace(KEY, requests_per_minute=4))
        clock.forward(1)
    quotas.admit(replace(KEY, requests_per_minute=5))
    refused(quotas, replace(KEY, requests_per_minute=5))
    # Of five within the minute, three have to go before there is room for one of three.
    assert refused(quotas, replace(KEY, requests_per_minute=3)).retry_after == 58
    quotas.admit(KEY)


def test_clock_that_is_put_back_locks_nobody_out(quotas: Quotas, clock: Clock) -> None:
    key = replace(KEY, requests_per_minute=1)
    quotas.admit(key)
    clock.put_back = 5 * 3600
    assert refused(quotas, key).retry_after == 60
    clock.forward(60)
    quotas.admit(key)


# tokens a day


def test_tokens_are_refused_once_the_days_are_used_up_and_until_it_ends(quotas: Quotas, clock: Clock) -> None:
    key = replace(KEY, tokens_per_day=100)
    quotas.admit(key).spent(99)
    quotas.admit(key).spent(500)
    error = refused(quotas, key)
    assert error.retry_after == 6 * 3600
    assert error.should_retry is False  # clients that wait some seconds would ask in vain
    assert "100 tokens a day" in error.message
    assert "in 6h0m0s" in error.message
    clock.forward(6 * 3600 - 10)
    error = refused(quotas, key)
    assert (error.retry_after, error.should_retry) == (10, None)
    clock.forward(10)
    quotas.admit(key)


def test_what_was_used_today_is_told_with_and_without_a_limit(quotas: Quotas, clock: Clock) -> None:
    assert quotas.tokens_today(KEY.id) == 0
    quotas.seed({KEY.id: 10})
    quotas.admit(KEY).spent(5)
    quotas.admit(replace(OTHER, tokens_per_day=1)).spent(7)
    assert (quotas.tokens_today(KEY.id), quotas.tokens_today(OTHER.id)) == (15, 7)
    clock.forward(6 * 3600)
    assert quotas.tokens_today(KEY.id) == 0


def test_days_are_those_of_utc_and_not_24_hours(quotas: Quotas, clock: Clock) -> None:
    key = replace(KEY, tokens_per_day=100)
    clock.forward(6 * 3600 - 1)
    quotas.admit(key).spent(100)
    clock.forward(1)
    quotas.admit(key).spent(100)
    clock.forward(DAY - 1)
    refused(quotas, key)


def test_restart_does_not_give_tokens_back(quotas: Quotas, clock: Clock) -> None:
    assert quotas.day_began() == clock.day * DAY
    quotas.seed({KEY.id: 90, "-": 1_000})
    key = replace(KEY, tokens_per_day=100)
    quotas.admit(key).spent(10)
    refused(quotas, key)
    quotas.admit(replace(OTHER, tokens_per_day=100))


def test_tokens_that_were_used_before_there_was_a_limit_count(quotas: Quotas) -> None:
    quotas.admit(KEY).spent(1_000)
    refused(quotas, replace(KEY, tokens_per_day=1_000))
    quotas.admit(replace(KEY, tokens_per_day=1_001))


def test_tokens_may_be_counted_after_the_request_was_released(quotas: Quotas) -> None:
    key = replace(KEY, tokens_per_day=10)
    admission = quotas.admit(key)
    admission.release()
    admission.spent(10)
    refused(quotas, key)


# at once


def test_requests_at_once_are_those_that_were_not_released(quotas: Quotas) -> None:
    key = replace(KEY, at_once=2)
    first, _ = quotas.admit(key), quotas.admit(key)
    error = refused(quotas, key)
    assert error.retry_after == 1
    assert error.message == (
        "This API key may have 2 requests at once, and has 2: send the next one when one of them has ended."
    )
    first.release()
    first.release()
    quotas.admit(key)
    refused(quotas, key)


def test_requests_that_ran_before_there_was_a_limit_count(quotas: Quotas) -> None:
    running = quotas.admit(KEY)
    refused(quotas, replace(KEY, at_once=1))
    running.release()
    quotas.admit(replace(KEY, at_once=1))


def test_nothing_is_kept_of_keys_without_requests(quotas: Quotas) -> None:
    for _ in range(2):
        quotas.admit(KEY).release()
    assert quotas._running == {}


# together


@pytest.mark.parametrize("limit", [{"at_once": 1}, {"tokens_per_day": 1}])
def test_refused_request_counts_for_nothing(quotas: Quotas, clock: Clock, limit: dict[str, int]) -> None:
    key = replace(KEY, requests_per_minute=2, **limit)  # type: ignore[arg-type]
    first = quotas.admit(key)
    first.spent(1)
    for _ in range(10):
        refused(quotas, key)
    first.release()
    clock.forward(6 * 3600)
    quotas.admit(key).release()
    quotas.admit(key).release()
    assert "2 requests a minute" in refused(quotas, key).message


def test_request_that_is_over_the_limit_of_a_minute_does_not_count_at_once(quotas: Quotas) -> None:
    key = replace(KEY, requests_per_minute=1, at_once=1)
    quotas.admit(key).release()
    refused(quotas, key)
    quotas.admit(replace(KEY, at_once=1))


def test_who_needs_no_key_has_no_limits(quotas: Quotas) -> None:
    for _ in range(3):
        admission = quotas.admit(None)
        admission.spent(10**9)
        assert admission.headers == {}
        admission.release()
        admission.release()


# what the answer tells


def test_key_without_limits_has_no_headers(quotas: Quotas) -> None:
    assert quotas.admit(KEY).headers == {}
    assert quotas.admit(replace(OTHER, at_once=3)).headers == {}


def test_headers_tell_of_both_limits_as_they_are_now(quotas: Quotas, clock: Clock) -> None:
    key = replace(KEY, requests_per_minute=60, tokens_per_day=1_000)
    quotas.admit(key)
    clock.forward(12.3)
    admission = quotas.admit(key)
    admission.spent(300)
    assert admission.headers == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "58",
        "x-ratelimit-reset-requests": "48s",
        "x-ratelimit-limit-tokens": "1000",
        "x-ratelimit-remaining-tokens": "700",
        "x-ratelimit-reset-tokens": "5h59m48s",
    }


def test_only_limits_that_a_key_has_are_told(quotas: Quotas) -> None:
    assert [name.rpartition("-")[2] for name in quotas.admit(replace(KEY, tokens_per_day=5)).headers] == ["tokens"] * 3
    only = quotas.admit(replace(OTHER, requests_per_minute=5)).headers
    assert [name.rpartition("-")[2] for name in only] == ["requests"] * 3


def test_refusal_has_the_headers_and_less_than_nothing_is_left_of_nothing(quotas: Quotas) -> None:
    key = replace(KEY, requests_per_minute=5, tokens_per_day=10)
    quotas.admit(key).spent(25)
    headers = refused(quotas, key).headers
    assert headers["x-ratelimit-remaining-tokens"] == "0"
    assert headers["x-ratelimit-remaining-requests"] == "4"
    quotas.admit(replace(OTHER, requests_per_minute=1))
    assert refused(quotas, replace(OTHER, requests_per_minute=1)).headers["x-ratelimit-reset-requests"] == "1m0s"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-0.1, "0s"),
        (0, "0s"),
        (0.0001, "1ms"),
        (0.12, "120ms"),
        (0.9991, "1s"),
        (1, "1s"),
        (1.01, "2s"),
        (59.2, "1m0s"),
        (360, "6m0s"),
        (3600, "1h0m0s"),
        (86_399.5, "24h0m0s"),
    ],
)
def test_durations_are_written_as_openai_writes_them_rounded_up(seconds: float, text: str) -> None:
    assert duration(seconds) == text


# what it is counted in


def test_counting_starts_no_threads(clock: Clock) -> None:
    quotas = Quotas()
    before = threading.active_count()
    admission: Admission = quotas.admit(replace(KEY, requests_per_minute=10, tokens_per_day=10))
    admission.spent(1)
    assert threading.active_count() == before


@pytest.mark.parametrize("keys", [10, 1000])
def test_counters_that_have_ended_are_forgotten(clock: Clock, keys: int) -> None:
    windows = Windows(clock.monotonic)
    for day in range(20):
        for key in range(keys):
            assert windows.incr(f"{key}/{day}", DAY) == 1
        clock.forward(DAY)
    assert len(windows._counters) == len(windows._ends) <= 64 + 2 * keys
    assert windows.get("9/19") == 0


def test_counter_begins_anew_when_it_has_ended(clock: Clock) -> None:
    windows = Windows(clock.monotonic)
    windows.incr("a", 60)
    clock.forward(59)
    assert windows.incr("a", 60, 2) == 3
    clock.forward(1)
    assert windows.incr("a", 60, 7) == 7
    assert windows.get_expiry("a") == clock.monotonic() + 60


def test_windows_forget_what_is_over_and_can_be_cleared(clock: Clock) -> None:
    windows = Windows(clock.monotonic)
    assert windows.acquire_entry("a", 3, 60, amount=3)
    assert not windows.acquire_entry("a", 3, 60)
    assert windows.get_moving_window("a", 3, 60) == (clock.monotonic(), 3)
    clock.forward(60)
    assert windows.get_moving_window("a", 3, 60) == (clock.monotonic(), 0)
    windows.acquire_entry("a", 3, 60)
    windows.incr("b", 60)
    windows.clear("a")
    assert windows.get_moving_window("a", 3, 60)[1] == 0
    assert windows.reset() == 2
    assert windows.get("b") == 0
    assert windows.check()
