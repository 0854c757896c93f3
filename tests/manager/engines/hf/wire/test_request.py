"""What a request asks for, under OpenAI's and llama.cpp's names, and what is refused by name."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from manager.engines.hf.generation import Sampling
from manager.engines.hf.wire.request import AnswerLimits, read_limits, read_sampling
from manager.engines.hf.wire.unsupported import FieldError

VOCABULARY = 100


def encode(text: str) -> list[int]:
    return [ord(letter) - ord("a") for letter in text]


def sampling(body: dict[str, Any], defaults: dict[str, float | int] | None = None, **entry: Any) -> Sampling:
    return read_sampling(body, defaults or {}, SimpleNamespace(**entry), vocabulary=VOCABULARY, encode=encode)


def limits(body: dict[str, Any], **entry: Any) -> AnswerLimits:
    return read_limits(body, SimpleNamespace(**entry))


def refused(body: dict[str, Any]) -> str | None:
    """The field that a request is refused for."""
    try:
        sampling(body)
        limits(body)
    except FieldError as error:
        return error.param if error.status == 400 and f"'{error.param}'" in error.message else "no proper refusal"
    return None


def test_nothing_asked_means_llama_cpps_defaults() -> None:
    assert sampling({}) == Sampling()
    assert sampling(dict.fromkeys(("temperature", "top_k", "seed", "logit_bias", "logprobs", "n_probs"))) == Sampling()
    assert limits({}) == AnswerLimits()
    assert limits(dict.fromkeys(("max_tokens", "n", "stop", "stream", "stream_options", "best_of"))) == AnswerLimits()


def test_request_goes_before_entry_and_entry_before_folder() -> None:
    folder = {"temperature": 0.1, "top_p": 0.2, "top_k": 3}
    given = sampling({"temperature": 0.9}, folder, temperature=0.5, top_p=0.6, top_k=None, min_p=None)
    assert given == Sampling(temperature=0.9, top_p=0.6, top_k=3)


def test_every_sampling_field_is_read() -> None:
    values: dict[str, Any] = {
        "temperature": 0.0,
        "top_k": 7,
        "typical_p": 0.5,
        "top_p": 0.6,
        "min_p": 0.7,
        "repeat_penalty": 1.3,
        "repeat_last_n": -1,
        "presence_penalty": -2.0,
        "frequency_penalty": 2.0,
    }
    assert sampling(values) == sampling({}, values) == sampling({}, **values) == Sampling(**values)


def test_top_k_below_zero_keeps_all() -> None:
    assert sampling({"top_k": -1}).top_k == 0
    assert sampling({}, top_k=-1).top_k == 0


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": "1"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"temperature": math.inf}, "temperature"),
        ({"top_p": 1.1}, "top_p"),
        ({"min_p": -1}, "min_p"),
        ({"typical_p": 2}, "typical_p"),
        ({"top_k": 1.5}, "top_k"),
        ({"repeat_penalty": 0}, "repeat_penalty"),
        ({"repeat_last_n": -2}, "repeat_last_n"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"seed": "1"}, "seed"),
        ({"max_tokens": -2}, "max_tokens"),
        ({"n_predict": 1.0}, "n_predict"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"n_cmpl": True}, "n_cmpl"),
        ({"stop": 1}, "stop"),
        ({"stop": ["a", 1]}, "stop"),
        ({"stop": ""}, "stop"),
        ({"stop": ["a", ""]}, "stop"),
        ({"stop": [str(at) for at in range(129)]}, "stop"),
        ({"ignore_eos": 1}, "ignore_eos"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": True}, "stream_options"),
        ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"logprobs": -1}, "logprobs"),
        ({"logprobs": "5"}, "logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"n_probs": 21}, "n_probs"),
        ({"logprobs": 21}, "logprobs"),
        ({"logit_bias": 1}, "logit_bias"),
        ({"logit_bias": [1, 2]}, "logit_bias"),
        ({"logit_bias": [[1]]}, "logit_bias"),
        ({"logit_bias": [[1.5, 2]]}, "logit_bias"),
        ({"logit_bias": {"1": True}}, "logit_bias"),
        ({"logit_bias": {"1": None}}, "logit_bias"),
        ({"logit_bias": {"1": 1e39}}, "logit_bias"),
        ({"logit_bias": [[1, 3e38], [1, 3e38]]}, "logit_bias"),
        ({"repeat_penalty": 1e39}, "repeat_penalty"),
        ({"max_tokens": 2**40}, "max_tokens"),
        ({"logit_bias": {"100": 1}}, "logit_bias"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"best_of": 2}, "best_of"),
        ({"n": 2, "best_of": 1}, "best_of"),
    ],
)
def test_a_wrong_field_is_named(body: dict[str, Any], param: str) -> None:
    assert refused(body) == param


@pytest.mark.parametrize(
    ("body", "most"),
    [
        ({"max_tokens": 5}, 5),
        ({"max_completion_tokens": 6, "max_tokens": 5}, 6),
        ({"n_predict": 7, "max_completion_tokens": 6}, 7),
        ({"n_predict": None, "max_tokens": 5}, 5),
        ({"max_tokens": 0}, 0),
        ({"max_tokens": -1}, None),
        ({}, 9),
        ({"max_tokens": None}, 9),
    ],
)
def test_the_first_of_the_limits_names_counts_then_the_entrys(body: dict[str, Any], most: int | None) -> None:
    assert limits(body, n_predict=9).max_tokens == most


def test_an_entry_may_say_that_there_is_no_limit() -> None:
    assert limits({}, n_predict=-1).max_tokens is None


def test_all_limits_are_read() -> None:
    body = {
        "max_tokens": 5,
        "n": 3,
        "best_of": 3,
        "stop": ["a", "b", "a"],
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
        "cache_prompt": False,
    }
    expected = AnswerLimits(5, 3, ("a", "b"), ignore_eos=True, stream=True, include_usage=True, reuse=False)
    assert limits(body) == expected
    assert limits({"stop": "x", "n_cmpl": 2, "n": 3}) == AnswerLimits(stop=("x",), n=2)


@pytest.mark.parametrize(
    ("given", "seed"),
    [(5, 5), (0, 0), (-1, None), (2**32 - 1, None), (-2, 2**32 - 2), (2**40 + 3, 3), (None, 77)],
)
def test_seeds_are_llama_cpps_of_32_bits(given: int | None, seed: int | None) -> None:
    assert sampling({"seed": given}, seed=77).seed == seed


def test_a_seed_of_minus_one_in_the_entry_is_random() -> None:
    assert sampling({}, seed=-1).seed is None


@pytest.mark.parametrize(
    ("body", "top"),
    [
        ({"logprobs": True, "top_logprobs": 3}, 3),
        ({"logprobs": True, "top_logprobs": 0}, 0),
        ({"logprobs": True}, 20),
        ({"logprobs": 4}, 4),
        ({"logprobs": 0}, 0),
        ({"logprobs": False}, None),
        ({"n_probs": 20}, 20),
        ({"n_probs": 0}, None),
    ],
)
def test_logprobs_of_chats_completions_and_llama_cpp(body: dict[str, Any], top: int | None) -> None:
    assert sampling(body).top_logprobs == top


@pytest.mark.parametrize(
    ("given", "biases"),
    [
        ({"5": 1, "7": -100.5}, {5: 1.0, 7: -100.5}),
        ({"5": False}, {5: -math.inf}),
        ({"ab": 2}, {0: 2.0, 1: 2.0}),
        ([[5, 1], [6, False]], {5: 1.0, 6: -math.inf}),
        ([["ab", 1], [1, 2]], {0: 1.0, 1: 3.0}),
        ([], {}),
    ],
)
def test_logit_bias_in_openais_and_llama_cpps_forms(given: Any, biases: dict[int, float]) -> None:
    assert sampling({"logit_bias": given}).logit_bias == biases


def test_the_highest_value_is_told() -> None:
    with pytest.raises(FieldError, match="at least -1 and at most 2147483647"):
        limits({"max_tokens": 2**40})


def test_a_token_may_be_forbidden_twice() -> None:
    assert sampling({"logit_bias": [[1, False], [1, 5], [1, False]]}).logit_bias == {1: -math.inf}


NEUTRAL = {
    "dry_multiplier": 0.0,
    "xtc_probability": 0,
    "mirostat": 0,
    "dynatemp_range": 0.0,
    "top_n_sigma": -1,
    "adaptive_target": -1.0,
    "min_keep": 0,
    "samplers": ["dry", "penalties", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature"],
    "backend_sampling": False,
    "post_sampling_probs": False,
    "n_keep": -1,
    "n_discard": 0,
    "n_indent": 0,
    "n_cache_reuse": 0,
    "t_max_predict_ms": -1,
    "id_slot": -1,
    "lora": [],
    "reasoning_format": "none",
    "reasoning_budget_message": "",
    "t_max_prompt_ms": -1,
    "return_tokens": False,
    "response_fields": [],
    "chat_template": "",
    "chat_parser": "",
    "parse_tool_calls": True,
    "generation_prompt": "",
    "preserved_tokens": [],
    "grammar_lazy": False,
    "grammar_triggers": [],
    "audio": None,
    "prediction": None,
    "reasoning_budget_tokens": -1,
    "thinking_budget_tokens": -1,
    "reasoning_control": False,
    "timings_per_token": False,
    "return_progress": False,
    "sse_ping_interval": -1,
    "verbose": False,
    "echo": False,
    "suffix": "",
    "modalities": ["text"],
}
MEANT = {
    "dry_multiplier": 0.8,
    "xtc_probability": 0.5,
    "mirostat": 2,
    "dynatemp_range": 0.5,
    "top_n_sigma": 1.0,
    "adaptive_target": 0.5,
    "min_keep": 2,
    "samplers": ["top_k", "temperature"],
    "backend_sampling": True,
    "post_sampling_probs": True,
    "n_keep": 5,
    "n_discard": 5,
    "n_indent": 4,
    "n_cache_reuse": 256,
    "t_max_predict_ms": 100,
    "id_slot": 0,
    "lora": [{"id": 0, "scale": 1.0}],
    "reasoning_format": "deepseek-legacy",
    "reasoning_budget_message": "enough",
    "t_max_prompt_ms": 100,
    "return_tokens": True,
    "response_fields": ["content"],
    "chat_template": "{{ messages }}",
    "chat_parser": "peg",
    "parse_tool_calls": False,
    "generation_prompt": "<think>",
    "preserved_tokens": ["<c>"],
    "grammar_lazy": True,
    "grammar_triggers": [{"type": 0, "value": "x"}],
    "audio": {"voice": "a"},
    "prediction": {"type": "content", "content": "x"},
    "reasoning_budget_tokens": 0,
    "thinking_budget_tokens": 10,
    "reasoning_control": True,
    "timings_per_token": True,
    "return_progress": True,
    "sse_ping_interval": 5,
    "verbose": True,
    "echo": True,
    "suffix": "end",
    "modalities": ["text", "audio"],
}


def test_what_asks_for_nothing_passes() -> None:
    assert refused(NEUTRAL) is None
    assert refused(dict.fromkeys(NEUTRAL)) is None


@pytest.mark.parametrize("name", MEANT)
def test_what_is_not_honoured_is_refused_by_name(name: str) -> None:
    assert refused({**NEUTRAL, name: MEANT[name]}) == name
    assert refused({name: {"of": ["no", "form"]}}) == name


@pytest.mark.parametrize(
    ("chain", "passes"),
    [
        ("edskypmxt", True),
        ("ekypmt", True),
        ("tkypm", False),
        ("kpt", False),
        (["penalties", "top_k", "typ_p", "top_p", "min_p", "temperature"], True),
        (["temperature", "penalties", "top_k", "typ_p", "top_p", "min_p"], False),
        ([["penalties"]], False),
    ],
)
def test_samplers_pass_in_llama_cpps_own_order_only(chain: Any, passes: bool) -> None:
    assert (refused({"samplers": chain}) is None) == passes


def test_fields_of_no_effect_here_and_unknown_ones_pass() -> None:
    harmless = {
        "user": "me",
        "metadata": {"a": "b"},
        "store": True,
        "service_tier": "auto",
        "parallel_tool_calls": False,
        "dry_base": 1.75,
        "mirostat_tau": 5,
        "xtc_threshold": 0.1,
        "dynatemp_exponent": 1.0,
        "something_else": [1],
    }
    assert refused(harmless) is None
