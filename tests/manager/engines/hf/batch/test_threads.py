"""Fewer threads while others need the cores, and all again when they don't."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from manager.engines.hf.batch.threads import PERIOD, ThreadBudget


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    count = torch.get_num_threads()
    yield
    torch.set_num_threads(count)


def test_threads_that_wait_for_each_other_become_fewer() -> None:
    budget = ThreadBudget(4)
    budget.note(PERIOD, 0.4 * PERIOD)
    assert (budget.now, torch.get_num_threads()) == (2, 2)
    budget.note(PERIOD, 0.4 * PERIOD)
    budget.note(PERIOD, 0.4 * PERIOD)
    assert (budget.now, torch.get_num_threads()) == (1, 1)


def test_one_slow_step_changes_nothing() -> None:
    budget = ThreadBudget(4)
    budget.note(PERIOD / 10, 0.0)
    budget.note(PERIOD, PERIOD)
    assert budget.now == 4


@pytest.mark.parametrize(("idle", "after"), [(1.9, 2), (0.1, 1)])
def test_they_are_as_many_as_before_once_cores_are_idle(idle: float, after: int) -> None:
    budget = ThreadBudget(2, idle=lambda: idle, patience=0.0)
    budget.note(PERIOD, 0.4 * PERIOD)
    assert budget.now == 1
    budget.note(PERIOD, PERIOD)
    assert (budget.now, torch.get_num_threads()) == (after, after)


def test_a_change_is_left_alone_for_a_while() -> None:
    budget = ThreadBudget(2, idle=lambda: 2.0, patience=60.0)
    budget.note(PERIOD, 0.4 * PERIOD)
    budget.note(PERIOD, PERIOD)
    assert budget.now == 1
