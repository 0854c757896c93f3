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


@pytest.mark.parametrize("name", ["response_format", "json_schema", "grammar"])
def test_a_form_of_answers_has_no_other_name_that_leads_round_a_filter(name: str) -> None:
    assert rule(("response_format",)).applied({name: {}}) == {}
    assert rule(response_format={"type": "text"}).applied({name: {}}) == {"response_format": {"type": "text"}}
    assert rule(default={"grammar": "g"}).applied({name: {}}) is None


def test_a_field_takes_those_with_it_that_are_nothing_without_it() -> None:
    called = {"tools": [], "functions": [], "tool_choice": {}, "function_call": "auto", "parallel_tool_calls": True}
    for name in ("tools", "functions"):
        assert rule((name,)).applied({**called, "seed": 1}) == {"seed": 1}
    scores = {"logprobs": True, "n_probs": 3, "top_logprobs": 3}
    assert rule(("logprobs",)).applied(scores) == {}
    assert rule(logprobs=False).applied(scores) == {"logprobs": False}
    assert rule(logprobs=True).applied(scores) == {"logprobs": True, "top_logprobs": 3}


EFFORT = {"reasoning_effort": "high"}


@pytest.mark.parametrize(
    ("request_filter", "template", "fields"),
    [
        (rule(("reasoning_effort",)), {"a": 1}, {}),
        (rule(reasoning_effort="low"), {"a": 1}, {"reasoning_effort": "low"}),
        (rule(default={"reasoning_effort": "low"}), {"a": 1, "enable_thinking": True, **EFFORT}, EFFORT),
        (rule(chat_template_kwargs={"enable_thinking": False}), {"enable_thinking": False}, {}),
        (rule(chat_template_kwargs={"b": 2}), {"b": 2}, EFFORT),
    ],
)
def test_what_templates_are_told_leads_round_no_filter(
    request_filter: RequestFilter, template: dict[str, Any], fields: dict[str, Any]
) -> None:
    body = {"chat_template_kwargs": {"a": 1, "enable_thinking": True, **EFFORT}, **EFFORT}
    expected = {"chat_template_kwargs": template, **fields}
    assert (request_filter.applied(body) or body) == expected


@pytest.mark.parametrize("told", [{"enable_thinking": True}, EFFORT])
def test_who_tells_the_template_needs_no_default_effort(told: dict[str, Any]) -> None:
    wish = rule(default={"reasoning_effort": "low"})
    assert wish.applied({"chat_template_kwargs": told}) is None
    assert wish.applied({"chat_template_kwargs": {"a": 1}}) == {
        "chat_template_kwargs": {"a": 1},
        "reasoning_effort": "low",
    }


@pytest.mark.parametrize(("one", "other"), [(True, 1), (False, 0), (1, 1.0)])
def test_rules_are_the_same_where_engines_would_read_the_same(one: Any, other: Any) -> None:
    assert rule(x={"a": one}) != rule(x={"a": other})
    assert rule(default={"x": [one]}) != rule(default={"x": [other]})
    assert rule(x={"a": one, "b": 2}) == rule(x={"b": 2, "a": one})
    assert hash(rule(x={"a": one})) == hash(rule(x={"a": one}))
