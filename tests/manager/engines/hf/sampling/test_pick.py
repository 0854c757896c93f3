"""The sampler against the definitions of llama.cpp's samplers, written out plainly, and its promises to a batch."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import pytest
import torch

from manager.engines.hf.generation import Sampling
from manager.engines.hf.sampling.chain import Survivors, wide
from manager.engines.hf.sampling.penalties import Bias, Biases
from manager.engines.hf.sampling.pick import SamplerState, pick, survivors
from manager.errors import GenerationFailed

VOCABULARY: Final = 4096
OFF: Final = Sampling(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, seed=1)
DRAWS: Final = 20_000


def language_logits(rows: int, vocabulary: int = VOCABULARY, seed: int = 0) -> torch.Tensor:
    """Logits as a language model has them: few likely tokens, a long tail, some of it negative."""
    random = np.random.default_rng(seed)
    ranks = np.stack([random.permutation(vocabulary) for _ in range(rows)])
    values = 6 - 1.3 * np.log(ranks + 1) + random.normal(0, 0.7, ranks.shape)
    return torch.from_numpy(values.astype(np.float32))


def state(sampling: Sampling, prompt: Sequence[int] = (), banned: Sequence[int] = ()) -> SamplerState:
    return SamplerState(sampling, prompt, None, banned)


def defined(logits: torch.Tensor, sampling: Sampling, history: Sequence[int] = ()) -> dict[int, float]:
    """What may come next, and how probable it is: one sampler after the other, in the words of their definitions."""
    values = {token: float(logit) for token, logit in enumerate(logits.float())}
    for token, bias in sampling.logit_bias.items():
        values[token] += bias
    counts = Counter(history if sampling.repeat_last_n == -1 else history[-sampling.repeat_last_n :])
    for token, count in counts.items() if sampling.repeat_last_n else ():
        value = values[token]
        value = value * sampling.repeat_penalty if value <= 0 else value / sampling.repeat_penalty
        values[token] = value - count * sampling.frequency_penalty - sampling.presence_penalty
    left = sorted((token for token in values if values[token] > -math.inf), key=lambda token: -values[token])
    if sampling.top_k:
        left = left[: sampling.top_k]
    if sampling.typical_p < 1:
        shares = softmax(values, left)
        entropy = -sum(share * math.log(share) for share in shares.values())
        nearest = sorted(left, key=lambda token: abs(-math.log(shares[token]) - entropy))
        typical = until([shares[token] for token in nearest], sampling.typical_p)
        left = sorted(nearest[:typical], key=lambda token: -values[token])
    if sampling.top_p < 1:
        shares = softmax(values, left)
        left = left[: until([shares[token] for token in left], sampling.top_p)]
    if sampling.min_p > 0:
        shares = softmax(values, left)
        left = [token for token in left if shares[token] >= sampling.min_p * shares[left[0]] * (1 - 1e-6)]
    if sampling.temperature == 0:
        return {left[0]: 1.0}
    return softmax({token: values[token] / sampling.temperature for token in left}, left)


def softmax(values: Mapping[int, float], tokens: Sequence[int]) -> dict[int, float]:
    highest = max(values[token] for token in tokens)
    weights = [math.exp(values[token] - highest) for token in tokens]
    total = math.fsum(weights)
    return {token: weight / total for token, weight in zip(tokens, weights, strict=True)}


def until(shares: Sequence[float], amount: float) -> int:
    """How many of them, from the first on, have this much together."""
    reached = 0.0
    for place, share in enumerate(shares, start=1):
        reached += share
        if reached >= amount:
            return place
    return len(shares)


PENALTIES: Final[dict[str, Any]] = {"repeat_penalty": 1.3, "frequency_penalty": 0.4, "presence_penalty": 0.7}
CASES: Final[tuple[dict[str, Any], ...]] = (
    *({"top_k": number} for number in (1, 5, 40, 500, VOCABULARY + 1)),
    *({"top_p": number} for number in (0.0, 0.1, 0.5, 0.95, 0.999)),
    *({"min_p": number} for number in (0.02, 0.1, 0.5, 1.0)),
    *({"typical_p": number} for number in (0.2, 0.9)),
    *({"temperature": number} for number in (0.3, 1.7)),
    PENALTIES,
    {"logit_bias": {7: 9.0, 11: -4.0, 1234: -math.inf}},
    {"top_k": 40, "top_p": 0.8},
    {"top_k": 40, "typical_p": 0.5},
    {"top_k": 5, "typical_p": 0.2, "min_p": 0.3},
    {"top_k": 40, "typical_p": 0.9, "top_p": 0.7, "min_p": 0.05, "temperature": 0.8},
    {"top_k": 200, "top_p": 0.9, "min_p": 0.01},
    {"top_p": 0.9, "min_p": 0.02},
    {"typical_p": 0.8, "top_p": 0.6, "min_p": 0.1},
    {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05, **PENALTIES},
    {"temperature": 0, "top_k": 40},
    {"temperature": 0, "top_k": 40, "typical_p": 0.2},
    {"temperature": 0, "typical_p": 0.2},
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(f"{name}={value}" for name, value in case.items()))
def test_what_survives_is_what_the_definitions_leave(case: dict[str, Any], dtype: torch.dtype) -> None:
    logits = language_logits(1)[0].to(dtype)
    likeliest = logits.topk(30).indices.tolist()
    history = [*likeliest[:20], *likeliest[:5], *range(50), likeliest[0]]
    sampling = replace(OFF, **case)

    left = survivors(logits, state(sampling, history))

    expected = defined(logits, sampling, history)
    assert left.keys() == expected.keys()
    assert [left[token] for token in expected] == pytest.approx(list(expected.values()), rel=1e-4)


@pytest.mark.parametrize(
    "case",
    [{}, {"top_k": 0}, {"top_k": 0, "typical_p": 0.9}, {"top_k": 200}],
    ids=["defaults", "all", "typical", "top 200"],
)
def test_what_survives_of_the_vocabulary_of_a_real_model(case: dict[str, Any]) -> None:
    logits = language_logits(1, 49152, seed=4)[0].bfloat16()
    sampling = replace(Sampling(), **case)
    assert survivors(logits, state(sampling)) == pytest.approx(defined(logits, sampling), rel=1e-4)


@pytest.mark.parametrize("case", [{"top_k": 3}, {"top_k": 300}, {"top_p": 0.5, "top_k": 4}, {"top_k": 3, "min_p": 1.0}])
def test_of_equal_logits_the_lowest_tokens_are_kept(case: dict[str, Any]) -> None:
    logits = torch.zeros(2000)
    logits[::2] = -0.0  # equal to 0 in all but its bits
    logits[[1900, 40, 7, 900, 41]] = 5.0

    left = survivors(logits, state(replace(OFF, **case)))

    by_rank = [7, 40, 41, 900, 1900, *(token for token in range(2000) if logits[token] == 0)]
    assert set(left) == set(by_rank[: len(left)])
    assert len(left) == {3: 3, 300: 300, 4: 2}[case["top_k"]]


@pytest.mark.parametrize("size", [3, 31, 32, 33, 100])
@pytest.mark.parametrize("case", [{"top_k": 40}, {"top_k": 0}, {"top_k": 40, "top_p": 0.9, "typical_p": 0.9}])
def test_vocabulary_of_any_size(size: int, case: dict[str, Any]) -> None:
    logits = language_logits(1, size)[0]
    sampling = replace(OFF, **case)
    assert survivors(logits, state(sampling)).keys() == defined(logits, sampling).keys()


@pytest.mark.parametrize(
    ("last", "penalised"), [(0, ()), (2, (3, 4)), (3, (2, 3, 4)), (64, (1, 2, 3, 4)), (-1, (1, 2, 3, 4))]
)
def test_penalties_look_at_the_last_tokens_of_prompt_and_answer(last: int, penalised: tuple[int, ...]) -> None:
    sampling = replace(OFF, repeat_last_n=last, presence_penalty=5.0)
    one = state(sampling, prompt=(1, 2, 3))
    one.accept(4)

    left = survivors(torch.zeros(8), one)

    assert tuple(token for token in left if left[token] < 0.5 * max(left.values())) == penalised


def test_token_that_left_the_window_is_free_again_and_one_that_is_there_twice_is_not() -> None:
    one = state(replace(OFF, repeat_last_n=2, frequency_penalty=1.0), prompt=(1, 1))
    one.accept(2)
    left = survivors(torch.zeros(4), one)
    assert left[1] / left[0] == pytest.approx(math.exp(-1))
    one.accept(3)
    left = survivors(torch.zeros(4), one)
    assert left[1] == left[0]


def test_token_of_the_prompt_that_the_model_can_not_choose_is_no_matter() -> None:
    logits = language_logits(1, 64)
    one = state(replace(OFF, **PENALTIES), prompt=(64, 70, 5, -1))
    assert survivors(logits[0], one).keys() == set(range(64))
    assert survivors(logits[0], one)[5] == pytest.approx(
        defined(logits[0], replace(OFF, **PENALTIES), (5,))[5], rel=1e-4
    )


def test_banned_token_never_comes_whatever_its_bias() -> None:
    logits = language_logits(1, 64)[0]
    best = int(logits.argmax())
    one = state(replace(OFF, logit_bias={best: 50.0}), banned=(best, 3))
    assert survivors(logits, one).keys() == set(range(64)) - {best, 3}


def test_greedy_takes_the_likeliest_and_of_equals_the_first() -> None:
    logits = language_logits(3, 200)
    logits[1, [150, 20]] = 99.0
    greedy = replace(OFF, temperature=0)
    picked = pick(logits, [state(greedy), state(replace(greedy, top_p=0.1)), state(replace(greedy, min_p=0.9))])
    assert [one.token for one in picked] == [int(logits[0].argmax()), 20, int(logits[2].argmax())]


MIXED: Final = (
    Sampling(seed=1),
    Sampling(seed=2, top_k=100, temperature=1.5),
    Sampling(seed=3, top_k=0),
    Sampling(seed=4, top_k=300, top_p=1.0),
    Sampling(seed=5, temperature=0),
    Sampling(seed=6, typical_p=0.5),
    Sampling(seed=7, top_k=0, typical_p=0.9, temperature=2.0),
    Sampling(seed=8, **PENALTIES),
    Sampling(seed=9, logit_bias={5: 3.0}, top_k=0, top_p=1.0, min_p=0.0),
    Sampling(seed=1, top_logprobs=3),
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_sequence_gets_the_same_tokens_alone_and_in_a_batch(dtype: torch.dtype) -> None:
    steps = [language_logits(len(MIXED), 1000, seed=step).to(dtype) for step in range(8)]
    together = [state(sampling, (1, 2, 3)) for sampling in MIXED]
    batch = [[one.token for one in pick(logits, together)] for logits in steps]
    for row, sampling in enumerate(MIXED):
        one = state(sampling, (1, 2, 3))
        alone = [pick(logits[row : row + 1], [one])[0].token for logits in steps]
        assert alone == [tokens[row] for tokens in batch], sampling


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_sequence_gets_the_same_tokens_on_a_gpu() -> None:
    steps = [language_logits(len(MIXED), 5000, seed=step) for step in range(20)]
    here, there = ([state(sampling, (1, 2, 3)) for sampling in MIXED] for _ in range(2))
    for logits in steps:
        on_gpu = [one.token for one in pick(logits.cuda(), there)]
        assert on_gpu == [one.token for one in pick(logits, here)]


def test_same_seed_gives_the_same_tokens_and_no_seed_others() -> None:
    logits = language_logits(1)

    def text(seed: int | None) -> list[int]:
        one = state(replace(OFF, seed=seed))
        return [pick(logits, [one])[0].token for _ in range(20)]

    assert text(7) == text(7)
    assert len({tuple(text(seed)) for seed in (7, 8, None, None)}) == 4


@pytest.mark.parametrize(
    "case",
    [
        {"top_k": 12},
        {"temperature": 1.6, "top_k": 48},
        {"temperature": 0.7, "top_k": 40, "top_p": 0.9, "min_p": 0.02},
        {"typical_p": 0.8, "top_k": 48},
        {"top_k": 20, **PENALTIES},
    ],
    ids=lambda case: "-".join(case),
)
def test_first_tokens_of_many_seeds_have_the_distribution_that_is_told(case: dict[str, Any]) -> None:
    logits = language_logits(1, 48, seed=3) / 4
    states = [state(replace(OFF, seed=seed, **case), (1, 2, 3)) for seed in range(DRAWS)]
    shares = survivors(logits[0], states[0])
    drawn = Counter(one.token for one in pick(logits.expand(DRAWS, -1), states))
    assert drawn.keys() <= shares.keys()
    assert chi_squared(drawn, shares) < unlikely(len(shares) - 1)


@pytest.mark.parametrize("case", [{"temperature": 1.6}, {"min_p": 0.02}, {"top_p": 0.9}, {"typical_p": 0.8}], ids=str)
def test_draws_of_one_sequence_have_the_distribution_of_what_survived(case: dict[str, Any]) -> None:
    logits = language_logits(1, 48, seed=3)[0] / 4
    one = state(replace(OFF, **case))
    left = wide(logits.numpy(), one.knobs)
    many = Survivors(left.tokens.repeat(DRAWS, 0), left.weights.repeat(DRAWS, 0))
    drawn = Counter(many.draw(np.array([one.chance() for _ in range(DRAWS)])).tolist())
    shares = survivors(logits, one)
    assert drawn.keys() <= shares.keys()
    assert chi_squared(drawn, shares) < unlikely(len(shares) - 1)


def chi_squared(drawn: Mapping[int, int], shares: Mapping[int, float]) -> float:
    return sum((drawn.get(token, 0) - DRAWS * share) ** 2 / (DRAWS * share) for token, share in shares.items())


def unlikely(freedom: int) -> float:
    """What chi-squared passes once in ten thousand times (Wilson and Hilferty's approximation)."""
    part = 2 / (9 * freedom)
    return float(freedom * (1 - part + 3.719 * math.sqrt(part)) ** 3)


class Letters:
    """A grammar that lets some tokens come, in this order; it knows the first `known` tokens only."""

    def __init__(self, *allowed: set[int], known: int = 64) -> None:
        self._allowed = list(allowed)
        self._known = known

    def mask(self) -> np.ndarray[Any, Any]:
        bits = np.zeros(self._known, bool)
        bits[list(self._allowed[0])] = True
        bits.flags.writeable = False  # it may belong to the grammar
        return bits

    def accept(self, token: int) -> None:
        if token not in self._allowed.pop(0):
            raise ValueError("not here")

    @property
    def done(self) -> bool:
        return not self._allowed


class Broken(Letters):
    """A grammar that fails when it is asked or when it is told."""

    def __init__(self, *, asked: bool) -> None:
        super().__init__({1})
        self._asked = asked

    def mask(self) -> np.ndarray[Any, Any]:
        if self._asked:
            raise ValueError("the grammar is broken")
        return super().mask()

    def accept(self, token: int) -> None:
        raise ValueError("the grammar is broken")


@pytest.mark.parametrize("case", [{"top_k": 40}, {"top_k": 0}, {"temperature": 0}, {"typical_p": 0.5, "top_k": 40}])
@pytest.mark.parametrize("known", [20, 64, 80])
def test_grammar_lets_come_what_it_allows_and_is_told_what_came(case: dict[str, Any], known: int) -> None:
    grammar = Letters({3, 9}, {5}, {5, 6, 7}, known=known)
    one = SamplerState(replace(OFF, **case), (), grammar)
    tokens = [pick(language_logits(1, 64, seed=step), [one])[0].token for step in range(3)]
    assert tokens[0] in {3, 9}
    assert tokens[1] == 5
    assert tokens[2] in {5, 6, 7}
    assert grammar.done


def test_token_that_the_grammar_does_not_know_never_comes() -> None:
    logits = torch.zeros(64)
    one = SamplerState(OFF, (), Letters({*range(20)}, known=20))
    assert survivors(logits, one).keys() == set(range(20))


@pytest.mark.parametrize("asked", [True, False])
def test_grammar_that_fails_ends_its_own_sequence_only(asked: bool) -> None:
    logits = language_logits(3, 64)
    states = [state(OFF), SamplerState(OFF, (), Broken(asked=asked)), state(OFF)]
    first, broken, last = pick(logits, states)
    assert str(broken.error) == "the grammar is broken"
    assert (first.token, last.token) == tuple(
        pick(logits[[0, 2]], [state(OFF), state(OFF)])[row].token for row in (0, 1)
    )


@pytest.mark.parametrize("case", [{"top_k": 40}, {"top_k": 0}, {"temperature": 0}, {"top_k": 0, "top_p": 0.9}])
@pytest.mark.parametrize(
    ("value", "reason"), [(math.nan, "not finite"), (math.inf, "not finite"), (-math.inf, "No token may come")]
)
def test_row_without_a_choice_is_told_so_and_the_others_go_on(case: dict[str, Any], value: float, reason: str) -> None:
    sampling = replace(OFF, **case, top_logprobs=2)
    logits = language_logits(3, 300)
    expected = [one.token for one in pick(logits, [state(sampling) for _ in range(3)])]
    logits[1, 200 if reason == "not finite" else slice(None)] = value

    picked = pick(logits, [state(sampling) for _ in range(3)])

    assert isinstance(picked[1].error, GenerationFailed)
    assert reason in str(picked[1].error)
    assert [(one.token, one.error) for one in (picked[0], picked[2])] == [(expected[0], None), (expected[2], None)]
    with pytest.raises(GenerationFailed, match=reason):
        survivors(logits[1], state(sampling))


def test_no_rows_give_no_tokens() -> None:
    assert pick(torch.zeros(0, 64), []) == []


def test_negative_nan_is_seen_too() -> None:
    logits = torch.zeros(1, 64)
    logits.view(torch.int32)[0, 9] = -0x400000  # sign, exponent and the first bit of the fraction
    assert pick(logits, [state(Sampling())])[0].error is not None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_logits_stay_as_they_are(dtype: torch.dtype) -> None:
    logits = language_logits(2, 100).to(dtype)
    before = logits.clone()
    pick(logits, [state(replace(OFF, logit_bias={4: 2.0}, **PENALTIES), (1, 2)), SamplerState(OFF, (), Letters({3}))])
    assert torch.equal(logits, before)


def test_scores_are_the_log_probabilities_by_the_models_own_logits() -> None:
    logits = language_logits(4, 500)
    told = torch.log_softmax(logits.double(), 1)
    sampling = replace(OFF, temperature=0.5, top_k=3, logit_bias={17: 100.0}, **PENALTIES)
    wants = [None, 0, 2, 5]
    picked = pick(logits, [state(replace(sampling, top_logprobs=count), (1, 17)) for count in wants])
    assert picked[0].score is None
    for row in (1, 2, 3):
        score = picked[row].score
        assert score is not None
        assert score.token == picked[row].token == 17
        assert score.logprob == pytest.approx(float(told[row, 17]), abs=1e-4)
        best = told[row].topk(wants[row] or 0)
        assert [token for token, _ in score.top] == best.indices.tolist()
        assert [logprob for _, logprob in score.top] == pytest.approx(best.values.tolist(), abs=1e-4)


@pytest.mark.parametrize("banned", [(), (7, 9)])
def test_biases_of_a_request_are_shared_and_mean_the_same(banned: tuple[int, ...]) -> None:
    given = {5: 1.0, 7: 30.0, 11: -math.inf}
    shared = Biases(given)
    one, other, alone = Bias(shared, banned), Bias(shared, banned), Bias(given, banned)
    assert (one.tokens is other.tokens) == (not banned)
    for bias in (one, other, alone):
        told = dict(zip(bias.tokens.tolist(), bias.values.tolist(), strict=True))
        assert told == {**given, **dict.fromkeys(banned, -math.inf)}
