"""What filters of requests do to fields, alone and on top of each other."""

from __future__ import annotations

from typing import Any

import pytest

from manager.variants import RequestFilter


def rule(strip: tuple[str, ...] = (), default: dict[str, Any] | None = None, **fields: Any) -> RequestFilter:
    """`fields` are set."""
    return RequestFilter(strip, default or {}, fields)


@pytest.mark.parametrize(
    ("request_filter", "body", "changed"),
    [
        (rule(), {"seed": 1}, None),
        (rule(("seed",)), {"top_k": 1}, None),
        (rule(("seed",)), {"seed": 1, "top_k": 1}, {"top_k": 1}),
        (rule(default={"seed": 2}), {"seed": 1}, None),
        (rule(default={"seed": 2}), {"seed": None}, {"seed": 2}),
        (rule(default={"seed": 2}), {}, {"seed": 2}),
        (rule(("seed",), {"seed": 2}), {"seed": 1}, {"seed": 2}),
        (rule(seed=3), {"seed": 1, "top_k": 1}, {"seed": 3, "top_k": 1}),
        (rule((), {"seed": 2}, seed=3), {}, {"seed": 3}),
        (rule(cache_prompt=True), {"cache_prompt": 1}, {"cache_prompt": True}),
    ],
)
def test_fields_are_stripped_then_filled_in_then_set(
    request_filter: RequestFilter, body: dict[str, Any], changed: dict[str, Any] | None
) -> None:
    before = dict(body)
    assert request_filter.applied(body) == changed
    assert body == before


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "n_predict"])
def test_no_other_name_of_a_field_leads_round_a_filter(name: str) -> None:
    assert rule(("max_tokens",)).applied({name: 9}) == {}
    assert rule(max_tokens=5).applied({name: 9}) == {"max_tokens": 5}
    assert rule(default={"max_tokens": 5}).applied({name: 9}) is None
    assert rule((), {name: 5}, n_predict=7).applied({}) == {"n_predict": 7}


@pytest.mark.parametrize(
    ("entry", "profile", "body", "changed"),
    [
        (rule(("seed",)), rule(("top_k",)), {"seed": 1, "top_k": 1}, {}),
        (rule(("seed",)), rule(("seed",), {"seed": 2}), {"seed": 1}, {"seed": 2}),
        (rule(default={"max_tokens": 1}), rule(default={"n_predict": 2}), {}, {"n_predict": 2}),
        (rule(default={"seed": 1}), rule(seed=2), {"seed": 3}, {"seed": 2}),
        (rule(seed=1), rule(seed=2), {}, {"seed": 2}),
        (rule(seed=1, top_k=1), rule(default={"seed": 2}), {"seed": 3}, {"seed": 3, "top_k": 1}),
        (rule(n_predict=1), rule(max_tokens=2), {"n_predict": 3}, {"max_tokens": 2}),
    ],
)
def test_what_a_profile_says_of_a_field_goes_before_what_its_entry_says(
    entry: RequestFilter, profile: RequestFilter, body: dict[str, Any], changed: dict[str, Any]
) -> None:
    assert entry.under(profile).applied(body) == changed
