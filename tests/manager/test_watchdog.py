"""What counts as hanging: over an engine of nothing and a clock that is set, and over real processes that hang."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from manager import watchdog
from manager.engines import Activity, Engine, UpstreamRequest
from manager.engines.llama import vitals
from manager.engines.llama.engine import LlamaEngine
from manager.errors import UpstreamError
from manager.watchdog import until_hung
from tests.manager.bench import lines_of, soon, until
from tests.manager.conftest import LlamaFakes

TIMEOUT = 120.0
COUNTED = b"# TYPE llamacpp:n_decode_total counter\nllamacpp:n_decode_total %d\nllamacpp:requests_processing %d\n"


class Watched:
    """An engine of nothing under the watchdog, and its clock. `script` runs at every look, with the time."""

    def __init__(
        self, script: Callable[[Watched, float], object] = lambda engine, now: None, *, flying: int = 1
    ) -> None:
        self.now = 1000.0
        self.began = self.now
        self.flying = flying
        self.healthy = True
        self.heard_at = self.now
        self.cpu = 5.0
        self.counters: bytes | None = None
        self.pid = 7
        self.faults: dict[str, Exception] = {}  # by the question that breaks
        self.held_up = 0.0  # how much longer than it should the next sleep takes
        self.looks = 0
        self.asked_metrics: list[float] = []
        self._script = script

    @property
    def age(self) -> float:
        return self.now - self.began

    async def answers(self) -> bool:
        self.looks += 1
        self._script(self, self.age)
        self._break("answers")
        return self.healthy

    async def activity(self) -> Activity:
        self._break("activity")
        return Activity(self.heard_at, self.cpu)

    async def metrics(self) -> bytes | None:
        self.asked_metrics.append(self.age)
        self._break("metrics")
        return self.counters

    async def sleep(self, seconds: float) -> None:
        assert 0 < seconds <= 15
        self.now += seconds + self.held_up
        self.held_up = 0.0
        if self.age > 3600:
            raise TimeoutError

    def _break(self, question: str) -> None:
        if question in self.faults:
            raise self.faults[question]

    async def hangs(self, timeout: float = TIMEOUT) -> str | None:
        """Why it is taken to hang; None where it is not within an hour."""
        engine: Any = self
        try:
            return await until_hung(engine, lambda: self.flying, timeout, clock=lambda: self.now, sleep=self.sleep)
        except TimeoutError:
            return None


# health


async def test_engine_that_never_answers_hangs() -> None:
    engine = Watched(lambda engine, now: setattr(engine, "healthy", False), flying=0)
    assert await engine.hangs() == "it did not answer for 120 s"
    assert TIMEOUT < engine.age <= TIMEOUT + 15


async def test_answers_that_fail_now_and_then_are_forgiven() -> None:
    def mostly_silent(engine: Watched, now: float) -> None:
        engine.healthy = engine.looks % 7 == 0

    assert await Watched(mostly_silent, flying=0).hangs() is None


async def test_one_missed_answer_decides_nothing_however_late_it_is() -> None:
    def late(engine: Watched, now: float) -> None:
        engine.healthy = engine.looks != 3
        if engine.looks == 3:
            engine.now += 10 * TIMEOUT

    assert await Watched(late, flying=0).hangs() is None


async def test_engine_is_looked_at_often_enough_for_a_short_limit() -> None:
    engine = Watched(lambda engine, now: setattr(engine, "healthy", False), flying=0)
    assert await engine.hangs(4.0) == "it did not answer for 4 s"
    assert engine.age <= 5.0


# work


async def test_silent_engine_without_requests_is_well() -> None:
    engine = Watched(flying=0)
    assert await engine.hangs() is None
    assert engine.asked_metrics == []


async def test_request_without_a_byte_and_a_process_without_cpu_is_a_hang() -> None:
    engine = Watched()
    assert await engine.hangs() == "a request got no byte for 120 s and its process used no CPU"
    assert TIMEOUT < engine.age <= TIMEOUT + 2 * 15


async def test_stillness_counts_from_the_last_byte() -> None:
    def stream(engine: Watched, now: float) -> None:
        if now <= 600:
            engine.heard_at = engine.now - 1

    engine = Watched(stream)
    assert await engine.hangs() is not None
    assert 600 + TIMEOUT - 1 < engine.age <= 600 + TIMEOUT + 15


async def test_long_prompt_that_is_computed_without_a_byte_is_no_hang() -> None:
    def compute(engine: Watched, now: float) -> None:
        engine.cpu = 5.0 + now * 1.9

    engine = Watched(compute)
    assert await engine.hangs() is None
    assert engine.asked_metrics == []


async def test_what_answering_the_watchdog_costs_is_no_work() -> None:
    def poll(engine: Watched, now: float) -> None:
        engine.cpu += 0.01

    assert await Watched(poll).hangs() is not None


async def test_stillness_counts_from_the_end_of_the_computing() -> None:
    def compute(engine: Watched, now: float) -> None:
        engine.cpu = 5.0 + min(now, 600) * 1.0

    engine = Watched(compute)
    assert await engine.hangs() is not None
    assert 600 + TIMEOUT - 15 < engine.age <= 600 + TIMEOUT + 2 * 15


async def test_gpu_that_works_while_its_process_waits_is_told_by_the_counters() -> None:
    def decode(engine: Watched, now: float) -> None:
        engine.counters = COUNTED % (now // 40, 1)

    engine = Watched(decode)
    assert await engine.hangs() is None
    assert engine.asked_metrics


async def test_counters_that_stand_still_save_nobody() -> None:
    def queue_up(engine: Watched, now: float) -> None:
        engine.counters = COUNTED % (7, now)  # more and more requests wait: a gauge, and no work

    engine = Watched(queue_up)
    assert await engine.hangs() is not None
    assert engine.age <= TIMEOUT + 2 * 15


async def test_engine_whose_metrics_fail_is_judged_without_them() -> None:
    def flicker(engine: Watched, now: float) -> None:
        engine.counters = COUNTED % (7, 1) if engine.looks % 2 else None

    engine = Watched(flicker)
    assert await engine.hangs() is not None
    assert engine.age <= TIMEOUT + 2 * 15


async def test_requests_that_are_given_up_and_tried_again_do_not_hide_a_hang() -> None:
    def give_up(engine: Watched, now: float) -> None:
        engine.flying = 0 if engine.looks % 4 == 0 else 1  # nobody waits for a whole limit

    engine = Watched(give_up)
    assert await engine.hangs() == "a request got no byte for 120 s and its process used no CPU"
    assert TIMEOUT < engine.age <= 4 / 3 * TIMEOUT + 3 * 15


async def test_time_in_which_nobody_asks_anything_does_not_count() -> None:
    def rarely(engine: Watched, now: float) -> None:
        engine.flying = 1 if engine.looks % 40 == 0 else 0

    assert await Watched(rarely).hangs() is None


async def test_request_that_has_waited_briefly_is_no_hang_though_one_was_there_at_every_look() -> None:
    def brief(engine: Watched, now: float) -> None:
        engine.heard_at = engine.now - 3

    assert await Watched(brief).hangs() is None


async def test_work_that_ends_what_was_given_up_begins_the_count_anew() -> None:
    def give_up(engine: Watched, now: float) -> None:
        engine.flying = engine.looks % 2
        if engine.looks % 14 == 0:  # nobody is there to see it
            engine.cpu += 10

    assert await Watched(give_up).hangs() is None


# the watch itself


@pytest.mark.parametrize("inside", [True, False])
async def test_time_in_which_service_and_engine_were_frozen_does_not_count(inside: bool) -> None:
    def compute(engine: Watched, now: float) -> None:
        engine.cpu += 15
        if engine.looks == 20 and inside:
            engine.now += 300
        if engine.looks == 20 and not inside:
            engine.held_up = 300
        if engine.looks == 21:
            engine.cpu -= 14.95  # a moment since it was thawed

    engine = Watched(compute)
    assert await engine.hangs() is None
    assert engine.asked_metrics == []


async def test_health_that_fails_after_a_frost_has_the_whole_limit_to_come_back() -> None:
    def frost(engine: Watched, now: float) -> None:
        engine.healthy = not 20 <= engine.looks < 20 + TIMEOUT // 15
        if engine.looks == 20:
            engine.held_up = 300

    assert await Watched(frost, flying=0).hangs() is None


@pytest.mark.parametrize("healthy", [True, False])
async def test_hang_is_found_though_every_look_is_late(healthy: bool) -> None:
    def late(engine: Watched, now: float) -> None:
        engine.healthy = healthy
        engine.held_up = 100

    engine = Watched(late)
    assert await engine.hangs() is not None
    assert engine.looks <= TIMEOUT // 15 + 2


@pytest.mark.parametrize("question", ["answers", "activity", "metrics"])
async def test_fault_of_the_watch_is_no_hang_and_is_told_once(question: str, caplog: pytest.LogCaptureFixture) -> None:
    engine = Watched(flying=0 if question == "answers" else 1)
    engine.faults = {question: OSError(errno.EMFILE, "Too many open files")}
    assert await engine.hangs() is None
    assert [record.getMessage() for record in caplog.records] == ["pid=7 can't be watched"]


async def test_faults_of_another_kind_are_told_too(caplog: pytest.LogCaptureFixture) -> None:
    engine = Watched()
    engine.faults = {"answers": OSError(), "activity": RuntimeError("can't start new thread")}
    assert await engine.hangs() is None
    assert len(caplog.records) == 2


async def test_hang_is_found_when_the_watch_works_again() -> None:
    def recover(engine: Watched, now: float) -> None:
        engine.faults = {"answers": OSError(), "activity": OSError()} if now < 600 else {}

    engine = Watched(recover)
    assert await engine.hangs() is not None
    assert 600 + TIMEOUT - 15 < engine.age <= 600 + TIMEOUT + 2 * 15


async def test_request_that_hangs_is_found_though_health_can_not_be_asked() -> None:
    engine = Watched()
    engine.faults = {"answers": OSError()}
    assert await engine.hangs() == "a request got no byte for 120 s and its process used no CPU"


async def test_it_can_be_cancelled_at_any_time() -> None:
    engine: Any = Watched()
    watching = asyncio.create_task(until_hung(engine, lambda: 1, 3600))
    await asyncio.sleep(0)
    watching.cancel()
    await asyncio.wait({watching})
    assert watching.cancelled()


# real processes


async def hang_of(engine: Engine, *, flying: int = 1, timeout: float = 0.5) -> str:
    return await soon(until_hung(engine, lambda: flying, timeout))


async def ask(engine: LlamaEngine, text: str = "a b c", *, stream: bool = True) -> None:
    messages = [{"role": "user", "content": text}]
    body = json.dumps({"messages": messages, "stream": stream}).encode()
    async with engine.open(UpstreamRequest("POST", "/v1/chat/completions", body)) as response:
        await response.read()


async def test_process_that_answers_no_health_hangs(llama: LlamaFakes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vitals, "HEALTH_TIMEOUT", 0.05)
    engine = llama.engine(health_hangs=True)
    await soon(engine.start())
    assert await hang_of(engine, flying=0) == "it did not answer for 0.5 s"


@pytest.mark.parametrize("stream", [True, False])
async def test_process_that_stops_in_the_middle_of_an_answer_hangs(
    llama: LlamaFakes, tmp_path: Path, stream: bool
) -> None:
    engine = llama.engine(stall_stream_after=1, ignore_sigterm=True, requests_log=tmp_path / "requests")
    await soon(engine.start())
    asking = asyncio.create_task(ask(engine, stream=stream))
    await until(lambda: any("completions" in line for line in lines_of(tmp_path / "requests")))
    reason = await hang_of(engine)
    assert reason == "a request got no byte for 0.5 s and its process used no CPU"
    await soon(engine.stop(force=True))
    with pytest.raises(UpstreamError):
        await soon(asking)


async def test_process_that_stops_hangs_though_each_client_gives_up_before(
    llama: LlamaFakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "WORKING_CPU", 0.9)  # taking ten requests a second is no work either
    engine = llama.engine(stall_stream_after=0, ignore_sigterm=True)
    await soon(engine.start())

    async def try_again() -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.1):
                    await ask(engine, stream=False)

    trying = asyncio.create_task(try_again())
    assert await hang_of(engine) == "a request got no byte for 0.5 s and its process used no CPU"
    trying.cancel()
    await asyncio.wait({trying})
    await soon(engine.stop(force=True))


async def test_answers_that_wait_for_a_slow_client_are_no_hang(llama: LlamaFakes) -> None:
    engine = llama.engine(chunks=30_000)
    await soon(engine.start())
    messages = [{"role": "user", "content": "word " * 20}]
    body = json.dumps({"messages": messages, "stream": True}).encode()
    async with engine.open(UpstreamRequest("POST", "/v1/chat/completions", body)):
        # Nobody reads: the connection is full soon, and the process waits.
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.5):
                await until_hung(engine, lambda: 1, 0.3)


async def test_answer_that_is_kept_open_after_its_end_is_no_hang(llama: LlamaFakes) -> None:
    engine = llama.engine()
    await soon(engine.start())
    body = json.dumps({"messages": [{"role": "user", "content": "a"}]}).encode()
    async with engine.open(UpstreamRequest("POST", "/v1/chat/completions", body)) as response:
        await response.read()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0):
                await until_hung(engine, lambda: 1, 0.3)
