"""How many tokens are kept, whose caches are given up for whom, and what of them is used again."""

from __future__ import annotations

import random

import pytest
import torch

from manager.engines.hf.batch.cache import GROWTH, CachePool, KeyValues, rounded, shared_prefix

LAYERS, HEADS, WIDTH = 2, 3, 4


def filled(cache: KeyValues, length: int, *, seed: int = 0) -> KeyValues:
    """Have `length` tokens in the cache, as a forward would."""
    torch.manual_seed(seed)
    cache.make_room(length)
    for layer in range(LAYERS):
        new = torch.randn(1, HEADS, length, WIDTH)
        keys, values = cache.layer(layer, new, new)
        keys[:, :, :length] = new
        values[:, :, :length] = -new
    cache.length = length
    return cache


def kept(pool: CachePool, tokens: list[int]) -> KeyValues:
    cache = KeyValues(LAYERS)
    assert pool.make_room(cache, len(tokens))
    filled(cache, len(tokens))
    pool.keep(cache, tokens)
    return cache


def test_a_cache_that_grows_keeps_what_it_knows() -> None:
    cache = filled(KeyValues(LAYERS), 200)
    before = cache.keys[1][:, :, :200].clone()  # type: ignore[index]
    cache.make_room(GROWTH + 1)
    assert cache.capacity == 2 * GROWTH
    assert torch.equal(cache.keys[1][:, :, :200], before)  # type: ignore[index]


def test_the_size_of_a_cache_is_that_of_its_tensors() -> None:
    cache = filled(KeyValues(LAYERS), 10)
    assert cache.size == LAYERS * 2 * HEADS * WIDTH * 4 * GROWTH
    cache.make_room(GROWTH + 1)
    assert cache.size == LAYERS * 2 * HEADS * WIDTH * 4 * 2 * GROWTH


def test_a_copy_is_independent_of_its_source() -> None:
    cache = filled(KeyValues(LAYERS), 100)
    twin = cache.copy(60)
    assert (twin.length, twin.capacity) == (60, GROWTH)
    assert torch.equal(twin.values[0][:, :, :60], cache.values[0][:, :, :60])  # type: ignore[index]
    twin.values[0].zero_()  # type: ignore[union-attr]
    assert cache.values[0][:, :, :60].abs().sum() > 0  # type: ignore[index]


def test_no_more_tokens_have_room_than_the_budget() -> None:
    pool = CachePool(2 * GROWTH)
    first, second = KeyValues(LAYERS), KeyValues(LAYERS)
    pool.running = {1: (first, []), 2: (second, [])}
    assert pool.make_room(first, GROWTH)
    assert pool.make_room(second, GROWTH)
    assert not pool.make_room(first, GROWTH + 1)
    assert pool.used == 2 * GROWTH


def test_ended_sequences_make_room_the_one_longest_unused_first() -> None:
    pool = CachePool(3 * GROWTH)
    old, new = [1] * 64, [2] * 64
    kept(pool, old)
    kept(pool, new)
    running = KeyValues(LAYERS)
    pool.running = {1: (running, [])}
    assert pool.make_room(running, 2 * GROWTH)
    assert pool.reuse([*old, 9]) is None
    assert pool.reuse([*new, 9]) is not None


def test_a_conversation_that_goes_on_takes_the_cache_of_its_last_turn() -> None:
    pool = CachePool(8 * GROWTH)
    turn = list(range(100))
    cache = kept(pool, turn)
    assert pool.reuse([*turn, 500, 501]) is cache
    assert cache.length == 96  # whole blocks
    assert pool.reuse([*turn, 500, 501]) is None


def test_a_cache_never_knows_the_whole_prompt() -> None:
    """The last token's logits are wanted, and no cache holds logits."""
    pool = CachePool(8 * GROWTH)
    turn = list(range(96))
    kept(pool, turn)
    again = pool.reuse(turn)
    assert again is not None
    assert again.length == 64


def test_a_common_beginning_is_copied_where_its_owner_has_more_to_remember() -> None:
    pool = CachePool(8 * GROWTH)
    long = list(range(400))
    cache = kept(pool, long)
    copy = pool.reuse([*long[:50], 999, 998])
    assert copy is not None
    assert copy is not cache
    assert copy.length == 32
    assert pool.reuse([*long, 7]) is cache


def test_a_running_sequence_shares_what_it_has_read() -> None:
    pool = CachePool(8 * GROWTH)
    tokens = list(range(200))
    cache = filled(KeyValues(LAYERS), 120)  # 80 of its tokens are not read yet
    pool.running = {1: (cache, tokens)}
    copy = pool.reuse(tokens)
    assert copy is not None
    assert (copy is cache, copy.length) == (False, 96)


def test_a_short_common_beginning_is_worth_nothing() -> None:
    pool = CachePool(8 * GROWTH)
    kept(pool, list(range(100)))
    assert pool.reuse([*range(31), 900, 901]) is None


def test_nothing_is_copied_beyond_the_budget() -> None:
    pool = CachePool(2 * GROWTH)
    kept(pool, list(range(400)))
    assert pool.reuse([*range(50), 999]) is None


@pytest.mark.parametrize("seed", range(5))
def test_the_shared_prefix_is_what_both_begin_with(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(200):
        one = [chance.randrange(3) for _ in range(chance.randrange(12))]
        other = [chance.randrange(3) for _ in range(chance.randrange(12))]
        slow = next(
            (at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
        )
        assert shared_prefix(one, other) == slow


def test_capacities_are_whole_steps() -> None:
    assert [rounded(length) for length in (0, 1, GROWTH, GROWTH + 1)] == [0, GROWTH, GROWTH, 2 * GROWTH]
