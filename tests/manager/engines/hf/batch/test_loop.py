"""Sequences join and leave a running batch, and none changes what another says."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from manager.engines.hf.batch.cache import GROWTH
from manager.engines.hf.batch.forward import Forward, Piece, never
from manager.engines.hf.batch.trial import choose_forward
from manager.engines.hf.generation import Generation, Sampling
from manager.engines.hf.loading.load import LoadedModel
from manager.errors import GenerationFailed, InsufficientMemory, UpstreamClosed
from tests.manager.engines.hf.generating import GREEDY, Heard, Table, generating, load_folder


@pytest.fixture(scope="module")
def loaded(tiny_text_folder: Path) -> LoadedModel:
    return load_folder(tiny_text_folder, dtype="float32")


@pytest.fixture
def table(loaded: LoadedModel) -> Iterator[Table]:
    with generating(loaded) as table:
        yield table


def prompt(length: int, step: int = 7) -> tuple[int, ...]:
    return tuple((number * step) % 200 + 20 for number in range(length))


def asked(length: int = 20, step: int = 7, **fields: Any) -> Generation:
    return Generation(prompt(length, step), **{"sampling": GREEDY, "max_tokens": 12, "ignore_eos": True, **fields})


def test_the_greedy_text_is_that_of_the_model_itself(loaded: LoadedModel, table: Table) -> None:
    (heard,) = table.all(asked(30))
    with torch.inference_mode():
        tokens = list(prompt(30))
        for _ in range(12):
            logits = loaded.model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0, -1]
            logits[list(loaded.ends)] = -torch.inf
            tokens.append(int(logits.argmax()))
    assert heard.text == loaded.tokenizer.decode(tokens[30:], skip_special_tokens=True)
    assert (heard.ending.reason, heard.ending.prompt_tokens, heard.ending.tokens) == ("length", 30, 12)


def test_a_batch_says_what_each_says_alone(table: Table) -> None:
    generations = [asked(10 + 3 * step, step, max_tokens=5 + step) for step in range(1, 9)]
    alone = [table.all(dataclasses.replace(one, reuse=False))[0].text for one in generations]
    assert [heard.text for heard in table.all(*generations)] == alone


def test_a_seed_gives_the_same_text_alone_and_in_a_batch(table: Table) -> None:
    hot = Sampling(temperature=1.5, top_k=0, top_p=1.0, min_p=0.0, seed=42)
    (alone,) = table.all(asked(sampling=hot))
    others = [asked(12, step, sampling=dataclasses.replace(hot, seed=step)) for step in range(1, 6)]
    together = table.all(*others[:2], asked(sampling=hot), *others[2:])
    assert together[2].text == alone.text
    assert len({heard.text for heard in together}) == 6


def test_tokens_come_as_they_are_made(table: Table) -> None:
    heard, _ = table.ask(asked(max_tokens=2000))
    heard.until(lambda heard: heard.updates >= 3)
    assert heard.end is None


def test_a_sequence_joins_while_another_runs(table: Table) -> None:
    long, sequence = table.ask(asked(max_tokens=3000))
    long.until(lambda heard: heard.updates > 2)
    assert table.all(asked(9))[0].ending.tokens == 12
    assert long.end is None
    table.generator.cancel(sequence)


def test_a_cancelled_sequence_gets_nothing_more_and_frees_its_place(loaded: LoadedModel) -> None:
    with generating(loaded, limits={"sequences": 1}) as table:
        heard, sequence = table.ask(asked(max_tokens=4000))
        heard.until(lambda heard: heard.updates > 2)
        begun = time.monotonic()
        table.generator.cancel(sequence)
        assert table.all(asked())[0].ending.tokens == 12  # there is but one place
        assert time.monotonic() - begun < 5
        updates = heard.updates
        table.all(asked())
        assert (heard.updates, heard.end, heard.error) == (updates, None, None)


class Held:
    """A model that waits in its steps that read prompts until somebody gives them up, or lets them go."""

    chunks = True

    def __init__(self, inner: Forward) -> None:
        self._inner = inner
        self.new_cache = inner.new_cache
        self.reading = threading.Event()
        self.go = threading.Event()

    def step(self, pieces: list[Piece], given_up: Callable[[], bool] = never) -> torch.Tensor:
        if any(len(piece.tokens) > 1 for piece in pieces):
            self.reading.set()
            while not self.go.wait(0.001):
                if given_up():
                    break
        return self._inner.step(pieces, given_up)


def test_a_long_prompt_is_given_up_within_its_step(loaded: LoadedModel) -> None:
    forward: Any = Held(choose_forward(loaded, "test"))
    with generating(loaded, forward=forward) as table:
        heard, sequence = table.ask(asked(400))
        assert forward.reading.wait(10)
        table.generator.cancel(sequence)
        forward.reading.clear()
        other, _ = table.ask(asked(40))
        assert forward.reading.wait(10)  # the first step is over, though nobody let it go
        forward.go.set()
        assert other.over().ending.tokens == 12
        assert (heard.updates, table.generator.counters.cache_tokens) == (0, GROWTH)


def test_what_waits_may_be_cancelled_too(loaded: LoadedModel) -> None:
    with generating(loaded, limits={"sequences": 1}) as table:
        first, sequence = table.ask(asked(max_tokens=4000))
        waiting, second = table.ask(asked())
        table.generator.cancel(second)
        first.until(lambda heard: heard.updates > 2)
        table.generator.cancel(sequence)
        table.all(asked())
        assert (waiting.updates, table.generator.counters.waiting) == (0, 0)


def test_a_long_prompt_is_read_in_parts_while_others_go_on(loaded: LoadedModel) -> None:
    with generating(loaded, limits={"chunk": 64}) as table:
        steady, sequence = table.ask(asked(max_tokens=4000))
        steady.until(lambda heard: heard.updates > 2)
        before = table.generator.counters.tokens
        long, _ = table.ask(asked(2000, 11, max_tokens=1))
        long.over()
        assert table.generator.counters.tokens - before >= 2000 // 64 - 5
        assert long.ending.prompt_tokens == 2000
        table.generator.cancel(sequence)


def test_reading_in_parts_gives_the_same_text(loaded: LoadedModel) -> None:
    texts = []
    for chunk in (16, 64, 512):
        with generating(loaded, limits={"chunk": chunk}) as table:
            texts.append(table.all(asked(700))[0].text)
    assert len(set(texts)) == 1


def test_a_turn_that_goes_on_reads_only_what_is_new(table: Table) -> None:
    first = asked(300)
    table.all(first)
    (heard,) = table.all(dataclasses.replace(first, prompt=(*first.prompt, 50, 51, 52)))
    assert heard.ending.cached >= 288
    (fresh,) = table.all(dataclasses.replace(first, prompt=(*first.prompt, 50, 51, 52), reuse=False))
    assert (fresh.ending.cached, fresh.text) == (0, heard.text)


def test_sequences_that_come_together_share_their_beginning(table: Table) -> None:
    shared = prompt(600)
    generations = [asked() for _ in range(4)]
    heard = table.all(*(dataclasses.replace(one, prompt=(*shared, 30 + at)) for at, one in enumerate(generations)))
    assert sorted(one.ending.cached for one in heard) == [0, 576, 576, 576]


def test_several_answers_to_one_prompt_read_it_once(table: Table) -> None:
    hot = Sampling(temperature=1.5, top_k=0)
    heard = table.all(*(asked(400, sampling=dataclasses.replace(hot, seed=seed)) for seed in range(3)))
    assert sorted(one.ending.cached for one in heard) == [0, 384, 384]
    assert len({one.text for one in heard}) == 3


def test_caches_keep_to_their_budget(loaded: LoadedModel) -> None:
    budget = 4 * GROWTH
    with generating(dataclasses.replace(loaded, window=GROWTH), limits={"cache": budget}) as table:
        for step in range(1, 9):
            table.all(asked(200, step))
            assert table.generator.counters.cache_tokens <= budget
        assert table.generator.counters.cache_tokens > GROWTH  # ended ones are kept as long as there is room


def test_who_must_step_back_says_the_same_later(loaded: LoadedModel) -> None:
    """Each alone fits; all together they outgrow the budget while they run."""
    generations = [asked(200, step, max_tokens=GROWTH) for step in (3, 5, 9)]
    small = dataclasses.replace(loaded, window=2 * GROWTH)
    with generating(small, limits={"cache": 16 * GROWTH}) as table:
        expected = [heard.text for heard in table.all(*generations)]
    with generating(small, limits={"cache": 3 * GROWTH}) as table:
        assert [heard.text for heard in table.all(*generations)] == expected


def test_the_window_ends_a_sequence(loaded: LoadedModel) -> None:
    with generating(dataclasses.replace(loaded, window=64)) as table:
        (heard,) = table.all(asked(50, max_tokens=None))
        assert (heard.ending.reason, heard.ending.tokens) == ("length", 14)


def test_an_end_token_ends_a_sequence_and_is_no_text(loaded: LoadedModel, table: Table) -> None:
    end = min(loaded.ends)
    sampling = Sampling(temperature=0.0, logit_bias={end: 1000.0})
    (heard,) = table.all(asked(sampling=sampling, ignore_eos=False))
    assert (heard.text, heard.ending.reason, heard.ending.tokens) == ("", "stop", 1)
    (ignored,) = table.all(asked(sampling=sampling, ignore_eos=True, max_tokens=4))
    assert (ignored.ending.reason, ignored.ending.tokens) == ("length", 4)


def test_a_stop_string_ends_a_sequence_before_it(loaded: LoadedModel, table: Table) -> None:
    token = loaded.tokenizer.convert_tokens_to_ids("b")
    (heard,) = table.all(asked(sampling=Sampling(temperature=0.0, logit_bias={token: 1000.0}), stop=("bbb",)))
    assert (heard.text, heard.ending.reason, heard.ending.tokens) == ("", "stop", 3)


def test_scores_are_told_where_they_are_wanted(table: Table) -> None:
    (heard,) = table.all(asked(sampling=Sampling(temperature=0.0, top_logprobs=2), max_tokens=5))
    assert len(heard.scores) == 5
    assert all(len(score.top) == 2 and score.top[0][0] == score.token and score.logprob <= 0 for score in heard.scores)


class Faulty:
    """A model whose steps fail where a sequence has a certain token."""

    chunks = True

    def __init__(self, inner: Forward, token: int, error: Exception) -> None:
        self._inner = inner
        self._token = token
        self._error = error
        self.new_cache = inner.new_cache

    def step(self, pieces: list[Piece], given_up: Callable[[], bool] = never) -> torch.Tensor:
        if any(self._token in piece.tokens for piece in pieces):
            raise self._error
        return self._inner.step(pieces, given_up)


POISON = 250


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "not enough memory"),
        (torch.OutOfMemoryError("CUDA out of memory"), "not enough memory"),
        (IndexError("index out of range in self"), "IndexError"),
    ],
)
def test_a_sequence_that_spoils_a_step_fails_alone(loaded: LoadedModel, error: Exception, message: str) -> None:
    forward: Any = Faulty(choose_forward(loaded, "test"), POISON, error)
    with generating(loaded, forward=forward) as table:
        (expected,) = table.all(asked())
        good, _ = table.ask(asked(max_tokens=60))
        good.until(lambda heard: heard.updates > 2)
        bad, _ = table.ask(dataclasses.replace(asked(), prompt=(30, POISON, 31)))
        assert isinstance(bad.over().error, GenerationFailed | InsufficientMemory)
        assert message in str(bad.error)
        assert good.over().text.startswith(expected.text)
        assert table.ends == []


class OnceFaulty:
    """A model of which one step fails after it has gone through some layers, when it is told to."""

    chunks = True

    def __init__(self, inner: Forward) -> None:
        self._inner = inner
        self.new_cache = inner.new_cache
        self.fail = False

    def step(self, pieces: list[Piece], given_up: Callable[[], bool] = never) -> torch.Tensor:
        logits = self._inner.step(pieces, given_up)
        if self.fail and len(pieces) > 1:
            self.fail = False
            raise MemoryError
        return logits


def test_a_step_that_failed_once_changes_nobodys_text(loaded: LoadedModel) -> None:
    """Also where the caches had taken its tokens already."""
    generations = [asked(20, step, max_tokens=200, reuse=False) for step in (3, 5, 9)]
    forward: Any = OnceFaulty(choose_forward(loaded, "test"))
    with generating(loaded, forward=forward) as table:
        expected = [heard.text for heard in table.all(*generations)]
        heard = [table.ask(one)[0] for one in generations]
        heard[2].until(lambda heard: heard.updates > 2)
        forward.fail = True
        assert [one.over().text for one in heard] == expected
        assert not forward.fail


def test_an_answer_that_cannot_be_written_fails_alone(loaded: LoadedModel) -> None:
    with generating(loaded) as table:
        (expected,) = table.all(asked(max_tokens=60))
        others = [table.ask(asked(max_tokens=60))[0] for _ in range(2)]
        bad = table.generator.make(asked(9, max_tokens=60), (heard := Heard()).take)
        bad.text = None  # type: ignore[assignment]
        table.generator.begin(bad)
        assert isinstance(heard.over().error, GenerationFailed)
        assert [one.over().text for one in others] == [expected.text] * 2


def test_a_short_prompt_does_not_wait_for_a_long_one_to_be_read(loaded: LoadedModel) -> None:
    with generating(loaded, limits={"chunk": 64}) as table:
        steady, sequence = table.ask(asked(max_tokens=4000))
        steady.until(lambda heard: heard.updates > 2)
        long, _ = table.ask(asked(3500, 11, max_tokens=1))
        short, _ = table.ask(asked(20, 13, max_tokens=1))
        short.over()
        assert long.end is None
        long.over()
        table.generator.cancel(sequence)


def test_nothing_is_begun_once_it_is_closed(loaded: LoadedModel) -> None:
    with generating(loaded) as table:
        table.generator.close()
        with pytest.raises(UpstreamClosed):
            table.ask(asked())
        assert table.generator.join(10)
        with pytest.raises(UpstreamClosed):
            table.ask(asked())


def test_a_device_that_broke_ends_the_thread_and_everybody_hears_of_it(loaded: LoadedModel) -> None:
    forward: Any = Faulty(choose_forward(loaded, "test"), POISON, RuntimeError("CUDA error: an illegal memory access"))
    with generating(loaded, forward=forward) as table:
        bad, _ = table.ask(dataclasses.replace(asked(), prompt=(30, POISON, 31)))
        assert bad.over().error is not None
        assert table.generator.join(10)
        assert isinstance(table.ends[0], RuntimeError)


def test_closing_tells_who_is_left(loaded: LoadedModel) -> None:
    with generating(loaded, limits={"sequences": 1}) as table:
        running, _ = table.ask(asked(max_tokens=4000))
        waiting, _ = table.ask(asked())
        running.until(lambda heard: heard.updates > 2)
        table.generator.close()
        assert isinstance(running.over().error, UpstreamClosed)
        assert isinstance(waiting.over().error, UpstreamClosed)
        assert table.generator.join(10)
        assert table.ends == [None]
        assert table.generator.counters.cache_tokens == 0
