"""Samples: every token counts once, whenever it is looked at."""

from __future__ import annotations

import pytest

from manager.inflight import Running, Tokens
from manager.samples import Sample, Samples, due_next


class Bench:
    """Samples of 10 seconds, and the requests that run."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.samples = Samples(every=10.0, most=3, clock=lambda: self.now)

    def take(self, *running: Running) -> Sample:
        self.now += 10
        return self.samples.take(running, {})

    def tokens(self, *running: Running) -> float:
        """Those of answers that count for the next sample."""
        return self.take(*running)["completion_tokens_per_second"] * 10


@pytest.fixture
def bench() -> Bench:
    return Bench()


def streaming(tokens: int = 0) -> Running:
    running = Running("one", "m", None, "/", True)
    running.leased_at = 1.0
    running.lines = 2 * tokens
    return running


def ended(samples: Samples, running: Running, tokens: Tokens | None = None) -> None:
    running.tokens = tokens
    samples.ended(running, running.used)


async def test_what_ended_counts_per_second_and_once(bench: Bench) -> None:
    for _ in range(2):
        ended(bench.samples, streaming(), Tokens(100, 50, 40))
    sample = bench.take()
    assert (sample["requests"], sample["prompt_tokens_per_second"]) == (2, 20.0)
    assert sample["completion_tokens_per_second"] == 8.0
    sample = bench.take()
    assert (sample["requests"], sample["prompt_tokens_per_second"]) == (0, 0.0)
    assert sample["completion_tokens_per_second"] == 0.0


async def test_what_a_stream_has_sent_counts_while_it_runs_and_the_rest_at_its_end(bench: Bench) -> None:
    running = streaming(20)
    assert bench.tokens(running) == 20
    running.lines = 2 * 50
    assert bench.tokens(running) == 30
    assert bench.tokens(running) == 0
    ended(bench.samples, running, Tokens(7, 0, 64))
    assert bench.tokens() == 14


async def test_between_its_stream_and_its_end_nothing_is_counted_twice(bench: Bench) -> None:
    running = streaming(20)
    assert bench.tokens(running) == 20
    assert bench.tokens() == 0  # its client still takes the last bytes: it is in no list
    ended(bench.samples, running, Tokens(7, 0, 25))
    assert bench.tokens() == 5


async def test_what_was_counted_too_much_is_taken_off_what_comes_and_never_negative(bench: Bench) -> None:
    running = streaming(23)  # events that are no tokens among them
    assert bench.tokens(running) == 23
    ended(bench.samples, running, Tokens(7, 0, 20))
    assert bench.tokens() == 0
    assert bench.tokens(streaming(10)) == 7


async def test_a_stream_that_its_client_left_counts_what_was_sent(bench: Bench) -> None:
    running = streaming(20)
    assert bench.tokens(running) == 20
    running.lines = 2 * 22
    ended(bench.samples, running)
    assert bench.tokens() == 2


async def test_a_request_without_tokens_is_a_request(bench: Bench) -> None:
    ended(bench.samples, streaming())
    sample = bench.take()
    assert (sample["requests"], sample["completion_tokens_per_second"]) == (1, 0.0)


async def test_who_waits_is_told_from_who_runs(bench: Bench) -> None:
    waiting = streaming()
    waiting.leased_at = None
    sample = bench.take(streaming(), streaming(), waiting)
    assert (sample["running"], sample["waiting"]) == (2, 1)


async def test_two_looks_in_one_moment_divide_by_nothing(bench: Bench) -> None:
    bench.take()
    assert bench.samples.take((), {})["completion_tokens_per_second"] == 0.0


@pytest.mark.parametrize(
    ("now", "due"),
    [
        (100.0, 105.0),
        (100.1, 105.0),  # a little late, as every wait is: the next one is not
        (99.9, 105.0),  # the clock of a wait is coarse
        (104.9, 105.0),
        (105.0, 110.0),
        (117.0, 120.0),  # what was missed is not made up for
    ],
)
def test_samples_are_due_at_multiples(now: float, due: float) -> None:
    assert due_next(100.0, now, 5.0) == pytest.approx(due)


async def test_the_last_ones_are_kept_oldest_first(bench: Bench) -> None:
    taken = [bench.take() for _ in range(5)]
    assert bench.samples.newest() == taken[-3:]
    assert bench.samples.newest(2) == taken[-2:]
    assert bench.samples.newest(4) == taken[-3:]
