"""Requests for embeddings are served one after another, and none waits for a thread that is gone."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from manager.engines.hf.embedding import Embedder
from manager.engines.hf.embedding_queue import EmbeddingQueue, Vectors
from manager.engines.hf.loading.load import LoadedModel
from manager.errors import (
    ContextLengthExceeded,
    GenerationFailed,
    HerdError,
    InsufficientMemory,
    InvalidRequest,
    UpstreamClosed,
)
from tests.manager.engines.hf.generating import load_folder

PATIENCE = 30.0


@pytest.fixture(scope="module")
def loaded(tiny_encoder_folder: Path) -> LoadedModel:
    return load_folder(tiny_encoder_folder)


class Held(torch.nn.Module):
    """A model whose forwards wait to be let go. `fails`: what the next one raises."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.widths: list[int] = []
        self.threads = 0
        self.fails: BaseException | None = None
        self.come = threading.Semaphore(0)
        self.go = threading.Semaphore(0)

    def forward(self, **inputs: torch.Tensor) -> Any:
        self.widths.append(inputs["input_ids"].shape[1])
        self.threads = torch.get_num_threads()
        self.come.release()
        assert self.go.acquire(timeout=PATIENCE)
        if self.fails is not None:
            error, self.fails = self.fails, None
            raise error
        return self.model(**inputs)


class Table:
    """A queue with its thread, and what that said at its end."""

    def __init__(self, loaded: LoadedModel, threads: int = 2) -> None:
        self._loop = asyncio.get_running_loop()
        self.model = Held(loaded.model)
        held = dataclasses.replace(loaded, model=self.model)
        self.ends: list[BaseException | None] = []
        # Every input of 33 tokens or more goes alone.
        self.queue = EmbeddingQueue(held, threads, self._deliver, self.ends.append, batch_tokens=64)

    def _deliver(self, callback: Callable[[], None]) -> None:
        self._loop.call_soon_threadsafe(callback)

    def ask(self, *lengths: int) -> asyncio.Task[Vectors]:
        return asyncio.create_task(self.queue.embed([[5] * length for length in lengths]))

    async def come(self) -> None:
        """A forward has begun."""
        assert await asyncio.to_thread(self.model.come.acquire, timeout=PATIENCE)

    def let_go(self, forwards: int = 1000) -> None:
        self.model.go.release(forwards)

    async def joined(self) -> bool:
        return await asyncio.to_thread(self.queue.join, PATIENCE)


@contextlib.asynccontextmanager
async def serving(loaded: LoadedModel, threads: int = 2) -> AsyncIterator[Table]:
    table = Table(loaded, threads)
    threading.Thread(target=table.queue.run, daemon=True).start()
    try:
        yield table
    finally:
        table.queue.close()
        table.let_go()
        assert await table.joined()


async def test_vectors_are_those_of_the_embedder(loaded: LoadedModel) -> None:
    texts: list[str | Sequence[int]] = ["Hello", "a longer text", [5, 6, 7]]
    async with serving(loaded) as table:
        table.let_go()
        made = await table.queue.embed(texts)
    for (vector, count), (expected, expected_count) in zip(made, Embedder(loaded, 64).embed(texts), strict=True):
        assert count == expected_count
        np.testing.assert_allclose(vector, expected, atol=1e-6)


async def test_requests_are_served_one_after_another_in_their_order(loaded: LoadedModel) -> None:
    async with serving(loaded) as table:
        asked = [table.ask(40, 41), table.ask(60), table.ask(50)]
        await table.come()
        assert (table.queue.counters.running, table.queue.counters.waiting) == (1, 2)
        table.let_go()
        answers = await asyncio.gather(*asked)
        assert [[count for _, count in one] for one in answers] == [[40, 41], [60], [50]]
        assert table.model.widths == [41, 40, 60, 50]


async def test_a_cancelled_request_ends_between_two_batches(loaded: LoadedModel) -> None:
    async with serving(loaded) as table:
        first, second = table.ask(40, 41, 42), table.ask(50)
        await table.come()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        table.let_go()
        await second
        assert table.model.widths == [42, 50]


async def test_what_waits_may_be_cancelled_too(loaded: LoadedModel) -> None:
    async with serving(loaded) as table:
        first, second, third = table.ask(40), table.ask(50), table.ask(60)
        await table.come()
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        assert table.queue.counters.waiting == 1
        table.let_go()
        await asyncio.gather(first, third)
        assert table.model.widths == [40, 60]


async def test_closing_waits_for_no_more_than_the_batch_under_way(loaded: LoadedModel) -> None:
    async with serving(loaded) as table:
        asked = [table.ask(40, 41, 42), table.ask(50)]
        await table.come()
        table.queue.close()
        for one in asked:  # at once, though the model is still busy
            with pytest.raises(UpstreamClosed, match="unloaded"):
                await one
        assert table.queue.alive
        with pytest.raises(UpstreamClosed, match="unloaded"):
            await table.ask(60)
        table.let_go()
        assert await table.joined()
        assert (table.model.widths, table.ends, table.queue.alive) == ([42], [None], False)
        with pytest.raises(UpstreamClosed, match="unloaded"):
            await table.ask(60)


async def test_closed_before_it_runs_it_ends_at_once(loaded: LoadedModel) -> None:
    table = Table(loaded)
    asked = table.ask(40)
    await asyncio.sleep(0)  # it is in the queue
    table.queue.close()
    with pytest.raises(UpstreamClosed):
        await asked
    await asyncio.to_thread(table.queue.run)
    assert (table.model.widths, table.ends) == ([], [None])


async def test_idle_it_ends_when_it_is_closed(loaded: LoadedModel) -> None:
    async with serving(loaded) as table:
        table.let_go()
        await table.ask(40)
        table.queue.close()
        assert await table.joined()
        assert table.ends == [None]


class Broken(BaseException):
    pass


async def test_who_waits_hears_that_the_thread_broke(loaded: LoadedModel) -> None:
    async with serving(loaded) as table:
        asked = [table.ask(40), table.ask(50)]
        await table.come()
        broken = table.model.fails = Broken()
        table.let_go()
        for one in asked:
            with pytest.raises(UpstreamClosed, match="Broken"):
                await one
        assert await table.joined()
        with pytest.raises(UpstreamClosed, match="Broken"):
            await table.ask(60)
        assert (table.ends, table.queue.alive) == ([broken], False)
        assert (table.queue.counters.running, table.queue.counters.waiting) == (0, 0)


async def test_a_device_that_met_a_fault_ends_the_thread(loaded: LoadedModel) -> None:
    async with serving(loaded) as table:
        first, second = table.ask(40), table.ask(50)
        await table.come()
        fault = table.model.fails = RuntimeError("CUDA error: an illegal memory access")
        table.let_go()
        with pytest.raises(GenerationFailed, match="RuntimeError"):
            await first
        with pytest.raises(UpstreamClosed, match="broke"):
            await second
        assert await table.joined()
        assert table.ends == [fault]


@pytest.mark.parametrize(
    ("error", "told", "words"),
    [
        (ValueError("the secret text"), GenerationFailed, r"^The model failed \(ValueError\)\.$"),
        (MemoryError(), InsufficientMemory, "not enough memory"),
        (torch.OutOfMemoryError("CUDA out of memory"), InsufficientMemory, "not enough memory"),
    ],
)
async def test_a_failure_is_its_requests_alone(
    loaded: LoadedModel, error: Exception, told: type[HerdError], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(loaded) as table:
        first, second = table.ask(40), table.ask(50)
        await table.come()
        table.model.fails = error
        table.let_go()
        with pytest.raises(told, match=words):
            await first
        assert [count for _, count in await second] == [50]
    assert "secret" not in caplog.text


async def test_a_request_that_can_not_be_served_leaves_the_next_alone(loaded: LoadedModel) -> None:
    async with serving(loaded) as table:
        table.let_go()
        long, unknown, good = table.ask(40, 300), asyncio.create_task(table.queue.embed([[100_000]])), table.ask(50)
        with pytest.raises(ContextLengthExceeded, match=r"'input\[1\]' has 300 tokens"):
            await long
        with pytest.raises(InvalidRequest, match="token id"):
            await unknown
        assert [count for _, count in await good] == [50]
        assert table.model.widths == [50]


async def test_torch_has_the_threads_of_the_entry(loaded: LoadedModel) -> None:
    usual = torch.get_num_threads()
    try:
        async with serving(loaded, threads=usual + 1) as table:
            table.let_go()
            await table.ask(40)
            assert table.model.threads == usual + 1
    finally:
        torch.set_num_threads(usual)


async def test_it_is_heard_at_the_end_of_each_batch(loaded: LoadedModel) -> None:
    async with serving(loaded) as table:
        before = time.monotonic()
        asked = table.ask(40, 41)
        await table.come()
        begun = table.queue.heard_at
        assert before <= begun <= time.monotonic()  # it rested before, which is no silence
        assert table.queue.heard_at == begun
        table.let_go(1)
        await table.come()
        assert table.queue.heard_at > begun
        assert table.queue.counters.prompt_tokens == 41
        table.let_go(1)
        await asked
        assert (table.queue.counters.prompt_tokens, table.queue.counters.steps) == (81, 2)


async def test_idle_it_is_heard_now(loaded: LoadedModel) -> None:
    async with serving(loaded) as table:
        before = time.monotonic()
        assert table.queue.heard_at >= before


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="the system does not tell")
async def test_its_cpu_time_is_that_of_its_thread(loaded: LoadedModel) -> None:
    async with serving(loaded) as table:
        table.let_go()
        used = 0.0
        while not used:  # it is told in ticks of 10 ms
            await table.ask(*[200] * 20)
            used = await asyncio.to_thread(lambda: table.queue.cpu)
