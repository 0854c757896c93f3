"""Samples as administrators get them, and as the service takes them."""

from __future__ import annotations

import asyncio
import os
import stat
import threading
from pathlib import Path

import pytest

from manager import memory_free, memory_ledger
from manager.memory_free import Gpus
from manager.memory_ledger import Ledger
from manager.samples import Sample
from tests.routes.conftest import StartHerd
from tests.routes.herd import Herd, until
from tests.routes.stage import Fake
from tests.routes.test_activity import listening

OFTEN = {"sample_every": 0.1, "samples": 10_000}


def samples(herd: Herd) -> list[Sample]:
    return herd.service.samples.newest()


async def sampled(herd: Herd, more: int = 1) -> None:
    """Until there are so many more samples."""
    wanted = len(samples(herd)) + more
    await until(lambda: len(samples(herd)) >= wanted, 10)


async def test_samples_tell_requests_tokens_and_memory(fake: Fake, start_herd: StartHerd) -> None:
    herd = await start_herd(activity=OFTEN)
    await until(lambda: bool(samples(herd)) and bool(samples(herd)[-1]["memory"]))
    assert (await herd.chat("one two three")).status == 200
    await until(lambda: any(sample["requests"] for sample in samples(herd)))
    told = (await herd.get("/admin/samples")).json
    assert told["every"] == 0.1
    times = [sample["at"] for sample in told["samples"]]
    assert times == sorted(times)
    (busy,) = (sample for sample in told["samples"] if sample["requests"])
    assert busy["requests"] == 1
    assert busy["completion_tokens_per_second"] > 0
    assert busy["prompt_tokens_per_second"] > 0
    host = busy["memory"]["host"]
    assert host.keys() == {"models", "used", "total", "room"}
    assert 0 < host["used"] < host["total"]
    assert host["room"] > 0


async def test_only_the_newest_are_told_where_that_is_wanted(fake: Fake, start_herd: StartHerd) -> None:
    herd = await start_herd(activity={"sample_every": 86_400.0})
    taken = [herd.service.samples.take((), {}) for _ in range(3)]
    for query, wanted in (("", taken), ("?limit=2", taken[1:]), ("?limit=999", taken)):
        assert (await herd.get(f"/admin/samples{query}")).json["samples"] == wanted


@pytest.mark.parametrize("limit", ["0", "-1", "x", "", "1.5", "%C2%B2", "9" * 5000])
async def test_no_number_of_samples_is_a_400(herd: Herd, limit: str) -> None:
    answer = await herd.get(f"/admin/samples?limit={limit}")
    assert (answer.status, answer.error["param"]) == (400, "limit")


async def test_samples_count_what_running_streams_have_sent(fake: Fake, start_herd: StartHerd) -> None:
    fake.hold_streams()
    herd = await start_herd(activity=OFTEN)
    async with herd.stream("one two three") as events:
        await events.token()
        (running,) = herd.service.inflight
        await until(lambda: running.counted == 2)  # the first event tells of the role
        assert samples(herd)[-1]["running"] == 1
    assert any(sample["completion_tokens_per_second"] for sample in samples(herd))


async def test_where_nobody_looks_at_memory_there_is_no_room(fake: Fake, start_herd: StartHerd) -> None:
    herd = await start_herd(activity=OFTEN, memory={"admission": False})
    await until(lambda: bool(samples(herd)) and bool(samples(herd)[-1]["memory"]))
    host = samples(herd)[-1]["memory"]["host"]
    assert host["room"] is None
    assert host["total"] > 0


async def test_a_failing_look_at_memory_is_logged_once_and_samples_go_on(
    fake: Fake, start_herd: StartHerd, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise OSError("no such driver")

    monkeypatch.setattr(Ledger, "room", broken)
    herd = await start_herd(activity=OFTEN)
    await sampled(herd, 3)
    assert all(sample["memory"] == {} for sample in samples(herd))
    assert [record.message for record in caplog.records].count("samples are without memory") == 1


async def test_samples_are_told_on_the_feed(fake: Fake, start_herd: StartHerd) -> None:
    herd = await start_herd(activity=OFTEN)
    async with listening(herd) as next_of:
        sample = await next_of("sample")
    assert sample in samples(herd)


# where nvidia-smi tells of GPUs


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an nvidia-smi, which notes in `asked` that it was started, and never ends while `hang` is there."""
    folder = tmp_path / "smi"
    folder.mkdir()
    program = folder / "nvidia-smi"
    script = (
        f"echo >> {folder}/asked; while test -e {folder}/hang; do sleep 0.05; done; echo 0, GPU-1, 24576, 20000, A10"
    )
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    nvidia = Gpus(_no_nvml)
    monkeypatch.setattr(memory_ledger, "gpus", lambda: nvidia)
    return folder


def _no_nvml() -> None:
    raise ImportError


def starts(smi: Path) -> int:
    file = smi / "asked"
    return len(file.read_text().splitlines()) if file.exists() else 0


async def test_samples_start_no_process_each(fake: Fake, start_herd: StartHerd, smi: Path) -> None:
    herd = await start_herd(activity=OFTEN)
    await until(lambda: bool(samples(herd)) and "gpu0" in samples(herd)[-1]["memory"])
    asked = starts(smi)
    await sampled(herd, 3)
    assert starts(smi) == asked
    assert samples(herd)[-1]["memory"]["gpu0"]["total"] == 24576 << 20


async def test_samples_wait_for_no_driver_and_neither_does_the_end(
    fake: Fake, start_herd: StartHerd, smi: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    herd = await start_herd(activity=OFTEN)
    await until(lambda: bool(samples(herd)) and "gpu0" in samples(herd)[-1]["memory"])
    monkeypatch.setattr(memory_free, "RECENT", 0.0)
    (smi / "hang").touch()
    asked = starts(smi)
    await until(lambda: starts(smi) > asked)
    hanging = starts(smi)
    await sampled(herd, 3)
    assert "gpu0" in samples(herd)[-1]["memory"]  # as it was seen last
    assert starts(smi) == hanging  # no second look beside the first one
    async with asyncio.timeout(5):
        await herd.server.close()
        await asyncio.get_running_loop().shutdown_default_executor()
    assert starts(smi) == hanging
    (smi / "hang").unlink()
    await until(lambda: "look at memory" not in {thread.name for thread in threading.enumerate()})
