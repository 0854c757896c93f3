"""How often a model that fails is tried again, and what requests are told meanwhile."""

from __future__ import annotations

import math

import pytest

from manager import backoff
from manager.backoff import FAILURES_MOST, PATIENCE, Backoff
from manager.errors import HerdError, InsufficientMemory, LoadFailed, LoadTimeout, UpstreamClosed


class Clock:
    """Stands in for the time module; it goes only where a test moves it."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(backoff, "time", clock)
    return clock


def failed(times: int, failure: HerdError | None = None) -> Backoff:
    """A model that has failed so often in a row, and was tried again at once each time."""
    made = Backoff()
    for _ in range(times):
        made.begin()
        made.note(failure or LoadFailed("it fell over"), 1)
    return made


def test_a_model_that_never_failed_may_be_tried_at_once(clock: Clock) -> None:
    fresh = Backoff()
    assert (fresh.failures, fresh.left, fresh.error, fresh.exit_code) == (0, 0.0, None, None)
    assert not fresh.given_up
    assert fresh.answer() is None


@pytest.mark.parametrize(("times", "delay"), [(1, 1.0), (2, 2.0), (3, 4.0), (4, 8.0)])
def test_the_wait_doubles_with_each_failure_in_a_row(clock: Clock, times: int, delay: float) -> None:
    tried = failed(times)
    assert (tried.failures, tried.left, tried.given_up) == (times, delay, False)
    clock.now += delay - 0.25
    assert tried.left == 0.25
    clock.now += 10.0
    assert tried.left == 0.0


def test_after_the_last_failure_no_time_is_long_enough(clock: Clock) -> None:
    tried = failed(FAILURES_MOST)
    clock.now += 1e9
    assert (tried.left, tried.given_up) == (math.inf, True)


def test_the_count_stays_while_it_is_tried_again(clock: Clock) -> None:
    tried = failed(2)
    tried.begin()
    assert (tried.failures, tried.error, tried.exit_code) == (2, None, None)
    tried.note(LoadFailed("again"), 1)
    assert (tried.failures, tried.left) == (3, 4.0)


@pytest.mark.parametrize("times", [1, FAILURES_MOST])
def test_a_clean_slate_is_as_if_it_had_never_failed(clock: Clock, times: int) -> None:
    tried = failed(times)
    tried.forget()
    assert (tried.failures, tried.left, tried.error, tried.exit_code) == (0, 0.0, None, None)
    assert not tried.given_up
    tried.note(LoadFailed("again"), 1)
    assert tried.left == 1.0


def test_the_exit_code_of_a_failed_load_is_what_its_error_tells(clock: Clock) -> None:
    failure = LoadFailed("it fell over")
    failure.exit_code = 7
    loading, running = Backoff(), Backoff()
    loading.note(failure, None)
    running.note(UpstreamClosed("it fell over"), -9)
    assert (loading.exit_code, running.exit_code) == (7, -9)


def test_who_waited_for_it_hears_when_it_is_tried_again(clock: Clock) -> None:
    failure = LoadFailed("it fell over")
    failed(3, failure)
    assert failure.retry_after == 4.0


def test_who_waited_for_what_can_not_succeed_is_not_told_to_come_back(clock: Clock) -> None:
    failure = LoadFailed("there is no such file", should_retry=False)
    failed(3, failure)
    assert failure.retry_after is None


def test_a_wait_that_a_request_sits_out_is_no_answer(clock: Clock) -> None:
    tried = failed(2)
    assert tried.answer() is not None
    clock.now += 2.0 - PATIENCE
    assert tried.answer() is None


def test_a_longer_wait_is_answered_with_the_failure_and_the_time_that_is_left(clock: Clock) -> None:
    tried = failed(3, InsufficientMemory("there is too little"))
    clock.now += 1.5
    answer = tried.answer()
    assert isinstance(answer, InsufficientMemory)
    assert (answer.message, answer.retry_after, answer.should_retry) == ("there is too little", 2.5, None)
    assert answer is not tried.error  # each has its own time that is left


@pytest.mark.parametrize("failure", [UpstreamClosed("it fell over"), LoadTimeout("it was too slow")])
def test_failures_of_every_kind_are_answered_as_a_load_that_failed(clock: Clock, failure: HerdError) -> None:
    answer = failed(2, failure).answer()
    assert type(answer) is LoadFailed
    assert answer.message == failure.message


def test_what_can_not_succeed_is_answered_without_a_time(clock: Clock) -> None:
    answer = failed(2, LoadFailed("there is no such file", should_retry=False)).answer()
    assert answer is not None
    assert (answer.retry_after, answer.should_retry) == (None, False)


def test_a_model_that_was_given_up_says_how_it_can_be_had(clock: Clock) -> None:
    answer = failed(FAILURES_MOST, InsufficientMemory("There is too little.")).answer()
    assert isinstance(answer, InsufficientMemory)
    assert answer.message.startswith("There is too little. It failed 5 times in a row")
    assert "loaded by hand" in answer.message
    assert (answer.retry_after, answer.should_retry) == (None, False)
