"""The requests that have ended: what is told of them, and how long."""

from __future__ import annotations

from typing import Any

import pytest

from manager.capture import Captures
from manager.history import Ended, History
from manager.inflight import InFlight, Running, Tokens
from manager.redaction import Redactor


def running(**fields: Any) -> Running:
    """A request of which these things are known."""
    one = Running("one", "m", "key", "/v1/chat/completions", True)
    for name, value in fields.items():
        setattr(one, name, value)
    return one


def told(seconds: float = 3.0, **fields: Any) -> dict[str, Any]:
    """What is told of such a request that took so long."""
    one = running(**fields)
    for name in ("leased_at", "first_at"):
        if (after := fields.get(name)) is not None:
            setattr(one, name, one.began + after)
    return Ended(1, one, "ok", seconds).as_dict()


def numbers(history: History, limit: int = 10, before: int | None = None) -> list[int]:
    return [ended.n for ended in history.newest(limit, before)]


async def test_an_end_is_told_with_all_that_is_known() -> None:
    history = History(5)
    one = running(sent=12)
    ended = history.add(one, "queue_full").as_dict()
    assert 0 <= ended.pop("seconds") < 60
    assert ended == {
        "n": 1,
        "id": "one",
        "model": "m",
        "key": "key",
        "route": "/v1/chat/completions",
        "stream": True,
        "outcome": "queue_full",
        "started": one.started,
        "waited": None,
        "first_token": None,
        "bytes": 12,
        "prompt_tokens": None,
        "cached_tokens": None,
        "completion_tokens": None,
        "tokens_per_second": None,
        "prompt_seconds": None,
        "captured": False,
    }


async def test_times_are_told_from_the_start() -> None:
    times = told(leased_at=0.5, first_at=1.0)
    assert times["waited"] == pytest.approx(0.5)
    assert times["first_token"] == pytest.approx(1.0)
    assert times["seconds"] == 3.0


@pytest.mark.parametrize(
    ("fields", "speed"),
    [
        ({"tokens": Tokens(5, 2, 21, 0.05)}, 20.0),
        ({"tokens": Tokens(5, 2, 21), "first_at": 1.0}, 10.0),  # 20 in the 2 seconds after the first
        ({"lines": 42, "first_at": 1.0}, 10.0),  # its client left: about a token an event
        ({"tokens": Tokens(5, 2, 21)}, None),  # a whole answer whose engine does not say
        ({"tokens": Tokens(5, 2, 1), "first_at": 1.0}, None),
        ({"tokens": Tokens(5, 2, 21, 0.0), "first_at": 3.0}, None),
    ],
)
async def test_speed_is_that_of_all_tokens_but_the_first(fields: dict[str, Any], speed: float | None) -> None:
    found = told(**fields)["tokens_per_second"]
    assert found is None if speed is None else found == pytest.approx(speed)


async def test_tokens_are_told_as_they_were_counted() -> None:
    ended = told(tokens=Tokens(5, 2, 21, prompt_seconds=0.25))
    assert (ended["prompt_tokens"], ended["cached_tokens"], ended["completion_tokens"]) == (5, 2, 21)
    assert ended["prompt_seconds"] == 0.25


async def test_how_long_its_prompt_was_read_is_not_told_where_its_client_left_first() -> None:
    ended = told(prompt=5, lines=42)
    assert (ended["prompt_tokens"], ended["prompt_seconds"]) == (5, None)


async def test_the_newest_come_first_in_pages() -> None:
    history = History(10)
    for _ in range(5):
        history.add(running(), "ok")
    assert numbers(history) == [5, 4, 3, 2, 1]
    assert numbers(history, 2) == [5, 4]
    assert numbers(history, 2, before=4) == [3, 2]
    assert numbers(history, 2, before=1) == []
    assert numbers(history, 2, before=99) == [5, 4]


async def test_beyond_the_most_the_oldest_goes_and_its_capture_with_it() -> None:
    held = Captures(enabled=True, size=10, keep=10)
    capture = held.hold("POST", "/", {}, b"x", Redactor({}))
    history = History(1)
    history.add(running(capture=capture), "ok")
    assert history.newest(1)[0].as_dict()["captured"] is True
    history.add(running(), "ok")
    assert (numbers(history), history.find(1)) == ([2], None)
    assert (capture.held, len(held)) == (False, 0)


async def test_what_is_forgotten_is_not_found_and_numbers_go_on() -> None:
    history = History(5)
    first = history.add(running(), "ok")
    assert history.find(1) is first
    assert history.forget() == 1
    assert (numbers(history), history.find(1), history.forget()) == ([], None, 0)
    assert history.add(running(), "ok").n == history.last == 2
    assert (numbers(history), history.find(1)) == ([2], None)


async def test_pages_end_where_the_oldest_is() -> None:
    history = History(3)
    for _ in range(10):
        history.add(running(), "ok")
    assert numbers(history) == numbers(history, 3) == [10, 9, 8]
    assert numbers(history, 5, before=9) == [8]
    assert numbers(history, 5, before=8) == numbers(history, 5, before=1) == []
    assert [history.find(n) is not None for n in (7, 8, 10, 11)] == [False, True, True, False]


async def test_a_request_without_a_model_has_none() -> None:
    assert History(1).add(Running("one", "", None, "/", False), "model_not_found").as_dict()["model"] is None


async def test_a_request_that_is_remembered_does_not_hold_its_task() -> None:
    inflight = InFlight()
    one = inflight.begin("one", "m", None, "/", False)
    inflight.end(one)
    assert one._task is None
