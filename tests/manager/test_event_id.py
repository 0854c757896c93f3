"""Ids of numbered events."""

from __future__ import annotations

import pytest

from manager.event_id import EventId, draw_run


def test_an_id_is_read_as_it_was_written() -> None:
    place = EventId(draw_run(), 17)
    assert EventId.parse(str(place)) == place
    assert EventId.parse("0123abcd-0") == ("0123abcd", 0)


@pytest.mark.parametrize(
    "text",
    [
        *(None, "", "17", "0123abcd", "0123abcd-", "0123abcd--1", "0123ABCD-1", "0123abc-1", "0123abcd-1 "),
        *("0123abcd-٣", "0123abcd-" + "9" * 19),
    ],
)
def test_what_is_no_id_names_no_place(text: str | None) -> None:
    assert EventId.parse(text) is None


def test_runs_are_told_apart() -> None:
    assert draw_run() != draw_run()
