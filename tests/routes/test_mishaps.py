"""Bugs that servers of this kind are known for, each provoked here and seen as their users see them.

More of them are provoked elsewhere: a manager that is killed leaves orphans (`tests/test_server.py`), parallel first
requests start a model twice (`test_loading.py`), a client that left keeps a slot of the engine busy (`test_relay.py`).
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest

from manager import backoff
from manager.errors import ConfigError
from manager.settings import Settings, load_settings
from tests.conftest import MakeSettings
from tests.manager.bench import is_running
from tests.routes.conftest import StartHerd
from tests.routes.herd import Answer, Herd, data_of, token_of, until
from tests.routes.stage import Fake, Stage

BENT = {"code": 1, "lines": ["llama_model_load: error: the tensor is bent"]}
# One place for all models, and who has it gives it up as soon as it is idle.
ONE_PLACE = {"most_loaded": 1, "batch_window": 0.01, "linger": 0.001}
WORDS = "one two three four"
SLACK = 3.0  # seconds that a busy machine may add


def gone(pid: int) -> bool:
    """Whether it has ended and is reaped: a zombie runs no more, and still is there."""
    return not psutil.pid_exists(pid)


def alive(*fakes: Fake) -> int:
    """How many processes run now, of all that were started."""
    return sum(is_running(pid) for fake in fakes for pid in fake.starts())


def statuses(answers: list[Answer]) -> set[int]:
    return {answer.status for answer in answers}


async def loaded(herd: Herd) -> list[str]:
    names: list[str] = (await herd.get("/models")).json
    return names


async def state_told(herd: Herd, name: str = "alpha") -> str:
    """As /admin/models/{id} tells it."""
    return str((await herd.get(f"/admin/models/{name}")).json["state"])


async def spaced(herd: Herd, count: int, within: float, *models: str) -> list[Answer]:
    """So many requests, evenly over so many seconds, whether or not those before them were answered."""
    began = time.monotonic()
    asked = []
    for number in range(count):
        fields = {"model": models[number % len(models)]} if models else {}
        asked.append(asyncio.create_task(herd.chat("hi", **fields)))
        await asyncio.sleep(max(0.0, began + within * number / count - time.monotonic()))
    async with asyncio.timeout(20):
        return list(await asyncio.gather(*asked))


@asynccontextmanager
async def end_of(pid: int, look: Callable[[], int]) -> AsyncIterator[list[int]]:
    """What a look showed in the moment of that process's end; until then the list is empty."""
    seen: list[int] = []
    loop = asyncio.get_running_loop()
    descriptor = os.pidfd_open(pid)

    def ended() -> None:
        loop.remove_reader(descriptor)
        seen.append(look())

    loop.add_reader(descriptor, ended)
    try:
        yield seen
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


# An idle unload that races a new request wedges the model, while its health is fine.


async def test_requests_that_race_idle_unloads_are_all_answered(stage: Stage, start_herd: StartHerd) -> None:
    ttl = 0.03
    fake = stage.model("alpha", ttl=ttl)
    herd = await start_herd()
    chance = random.Random(1)
    answers: list[Answer] = []
    end = time.monotonic() + 2.0
    while time.monotonic() < end:
        answers += await asyncio.gather(*(herd.chat("hi") for _ in range(3)))
        await asyncio.sleep(ttl + chance.uniform(-0.003, 0.006))  # when it is about to go
    assert statuses(answers) == {200}
    assert len(fake.starts()) > 2, "nothing was unloaded, so nothing raced"
    await until(lambda: herd.state("alpha") == "stopped")
    assert (await herd.chat("again")).text == "again"
    assert alive(fake) <= 1


# Two that wait for one place: a deadlock, or what was just loaded is evicted before its first request.


async def test_models_that_wait_for_one_place_all_get_it_and_serve_who_waits_before_they_go(
    stage: Stage, start_herd: StartHerd
) -> None:
    names = ["alpha", "beta", "gamma"]
    fakes = [stage.model(name) for name in names]
    herd = await start_herd(scheduling=ONE_PLACE)
    async with asyncio.timeout(20):
        answers = await asyncio.gather(*(herd.chat(name, model=name) for name in names * 4))
    assert [answer.text for answer in answers] == names * 4
    assert [len(fake.starts()) for fake in fakes] == [1, 1, 1]
    assert alive(*fakes) == 1


# A busy model is evicted, or two models swap for every request.


async def test_a_busy_model_is_not_evicted_and_its_stream_ends_whole(stage: Stage, start_herd: StartHerd) -> None:
    alpha, beta = stage.model("alpha"), stage.model("beta")
    alpha.hold_streams()
    herd = await start_herd(scheduling=ONE_PLACE)
    async with herd.stream(WORDS, model="alpha") as events:
        await events.token()
        waits = asyncio.create_task(herd.chat("hi", model="beta"))
        await until(lambda: herd.service.pool.status("alpha").yielding)  # it is to go, and nobody new gets in
        assert is_running(alpha.starts()[0])
        assert beta.starts() == []
        alpha.release_streams()
        frames = await events.rest()
    assert "".join(map(token_of, frames)) == " two three four"
    assert frames[-1] == b"data: [DONE]\n"
    assert (await waits).text == "hi"
    assert gone(alpha.starts()[0])
    assert (len(alpha.starts()), len(beta.starts())) == (1, 1)


async def test_models_asked_for_in_alternation_do_not_swap_for_every_request(
    stage: Stage, start_herd: StartHerd
) -> None:
    alpha, beta = stage.model("alpha"), stage.model("beta")
    turn = 0.6
    herd = await start_herd(scheduling={**ONE_PLACE, "batch_window": turn, "linger": turn / 2})
    began = time.monotonic()
    answers = await spaced(herd, 150, 1.5, "alpha", "beta")
    assert statuses(answers) == {200}
    assert (len(alpha.requests()), len(beta.requests())) == (75, 75)
    turns = (time.monotonic() - began) / turn
    assert len(alpha.starts()) + len(beta.starts()) <= 2 + turns


async def test_a_model_that_went_for_another_is_not_started_again_before_that_one(
    stage: Stage, start_herd: StartHerd
) -> None:
    alpha, beta = stage.model("alpha", concurrency=1), stage.model("beta")
    alpha.knobs(chunk_delay=0.05)
    herd = await start_herd(scheduling={**ONE_PLACE, "batch_window": 0.1})
    came_first = [asyncio.create_task(herd.chat("hi", model="alpha")) for _ in range(20)]  # more than a turn takes
    await until(lambda: len(alpha.requests()) > 0)
    answers = [await herd.chat("hi", model="beta"), *await asyncio.gather(*came_first)]
    assert statuses(answers) == {200}
    assert (len(alpha.starts()), len(beta.starts())) == (2, 1)


# The next load begins before the memory of what goes is given back.


async def test_a_process_is_gone_before_the_one_that_gets_its_place_is_started(
    stage: Stage, start_herd: StartHerd
) -> None:
    alpha, beta = stage.model("alpha"), stage.model("beta")
    alpha.knobs(ignore_sigterm=True)
    herd = await start_herd(scheduling=ONE_PLACE, limits={"stop_grace": 0.5})
    await herd.chat("hi", model="alpha")
    async with end_of(alpha.starts()[0], lambda: len(beta.starts())) as at_its_end:
        assert (await herd.chat("hi", model="beta")).status == 200
    assert at_its_end == [0]


# A child that never gets ready loads for ever.


@pytest.mark.parametrize("stream", [False, True])
async def test_a_child_that_never_gets_ready_is_ended_and_the_next_one_serves(
    fake: Fake, start_herd: StartHerd, stream: bool
) -> None:
    fake.knobs(never_ready=True, ignore_sigterm=True, faulty_starts=1)
    herd = await start_herd(limits={"load_timeout": 0.4, "stop_grace": 0.3})
    began = time.monotonic()
    answer = await herd.chat("hi", stream=stream)
    assert 0.4 <= time.monotonic() - began < 0.4 + SLACK
    assert (answer.status, answer.error["code"]) == (503, "model_loading")
    (pid,) = fake.starts()
    await until(lambda: herd.state("alpha") == "failed")
    assert gone(pid)
    fake.knobs()
    await herd.post("/loadModel", {"model": "alpha"})
    assert (await herd.chat("again")).text == "again"


# A zombie still counts as loaded, because it can be sent a signal.


@pytest.mark.parametrize("grandchild", [False, True])
async def test_a_process_that_was_killed_does_not_count_as_loaded(
    herd: Herd, fake: Fake, tmp_path: Path, grandchild: bool
) -> None:
    holder = tmp_path / "holder"  # of its pipes, so that their end tells of nothing
    fake.knobs(fork_grandchild=holder if grandchild else False, faulty_starts=1)
    await herd.chat("hi")
    (pid,) = fake.starts()
    child = psutil.Process(pid)
    child.kill()
    while child.status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.001)  # noqa: ASYNC251  the loop stands still, so that the service can't have reaped it yet
    killed = time.monotonic()
    while await loaded(herd):
        assert time.monotonic() - killed < 1.0
    await until(lambda: herd.state("alpha") == "failed")
    assert gone(pid)
    assert await state_told(herd) == "failed"
    if grandchild:
        await until(lambda: not is_running(int(holder.read_text())))
    assert (await herd.chat("again")).text == "again"
    assert len(fake.starts()) == 2


# Health is fine and inference is dead; only SIGKILL helps.


@pytest.mark.parametrize("stream", [False, True])
async def test_a_process_that_answers_health_and_nothing_else_is_killed_and_replaced(
    fake: Fake, start_herd: StartHerd, stream: bool
) -> None:
    fake.knobs(stall_stream_after=1, ignore_sigterm=True, faulty_starts=1)
    herd = await start_herd(limits={"hang_timeout": 0.5, "stop_grace": 30.0})
    began = time.monotonic()
    answer = await herd.chat(WORDS, stream=stream)
    if stream:
        assert answer.status == 200
        error = data_of(answer.body.rstrip(b"\n").rpartition(b"\n\n")[2])["error"]
    else:
        assert answer.status == 504
        error = answer.error
    assert (error["type"], error["code"]) == ("server_error", "upstream_timeout")
    await until(lambda: gone(fake.starts()[0]))
    assert 0.5 <= time.monotonic() - began < 0.5 + SLACK
    assert (await herd.chat("again")).text == "again"
    assert len(fake.starts()) == 2


# "Stopping" for ever.


async def test_a_process_that_ignores_the_request_to_stop_is_gone_after_its_grace(
    fake: Fake, start_herd: StartHerd, tmp_path: Path
) -> None:
    holder = tmp_path / "holder"
    fake.knobs(ignore_sigterm=True, fork_grandchild=holder, faulty_starts=1)
    herd = await start_herd(limits={"stop_grace": 0.5})
    await herd.chat("hi")
    began = time.monotonic()
    unload = asyncio.create_task(herd.post("/unloadModel", {"model": "alpha"}))
    await until(lambda: herd.state("alpha") == "stopping")
    waits = asyncio.create_task(herd.chat("again"))
    assert (await unload).status == 200
    assert 0.5 <= time.monotonic() - began < 0.5 + SLACK
    assert gone(fake.starts()[0])
    await until(lambda: not is_running(int(holder.read_text())))
    assert (await waits).text == "again"
    assert len(fake.starts()) == 2


# A failed load and clients that try again make a storm.


async def test_clients_that_try_again_do_not_start_a_broken_model_each_time(herd: Herd, fake: Fake) -> None:
    fake.knobs(exit_on_start=BENT)
    answers = await spaced(herd, 200, 1.0)
    assert {(answer.status, answer.error["code"]) for answer in answers} == {(503, "model_load_failed")}
    assert all(int(answer.headers["Retry-After"]) >= 1 for answer in answers)
    failed = [record["time"] for record in (await herd.get("/chat/errors")).json["errors"]]
    assert 1 <= len(fake.starts()) == len(failed) <= 3, "at once, after a second, and after two more"
    assert all(later - sooner > 0.5 * 2**number for number, (sooner, later) in enumerate(pairwise(failed)))


async def test_a_model_that_failed_five_times_is_left_alone_until_somebody_loads_it(
    herd: Herd, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backoff, "FIRST", 0.01)
    fake.knobs(exit_on_start=BENT)

    async def insist() -> None:
        """Try again until it is said that this can't help."""
        while (await herd.chat("hi")).headers.get("x-should-retry") != "false":
            pass

    async with asyncio.timeout(20):
        await asyncio.gather(*(insist() for _ in range(10)))
    assert len(fake.starts()) == 5
    fake.knobs()  # and now nothing is wrong with it
    answers = await spaced(herd, 200, 0.5)
    assert {(answer.status, answer.error["code"]) for answer in answers} == {(503, "model_load_failed")}
    assert "5 times in a row" in answers[-1].error["message"]
    assert len(fake.starts()) == 5
    assert (await herd.post("/loadModel", {"model": "alpha"})).status == 200
    assert (await herd.chat("again")).text == "again"
    assert len(fake.starts()) == 6


# A client that left keeps its place.


async def test_a_client_that_left_frees_its_place_for_the_next(stage: Stage, start_herd: StartHerd) -> None:
    fake = stage.model("alpha", concurrency=1)
    fake.hold_streams()
    herd = await start_herd()
    async with herd.stream(WORDS) as events:
        await events.token()
        leaves, stays = (asyncio.create_task(herd.chat(text)) for text in ("leaves", "stays"))
        await until(lambda: herd.service.pool.status("alpha").waiting == 2)
        leaves.cancel()  # while it waits, as one in front of the other
        await until(lambda: herd.service.pool.status("alpha").waiting == 1)
        assert len(fake.requests()) == 1
    await until(lambda: len(fake.requests()) == 2)  # though the first would never have ended
    fake.release_streams()
    assert (await stays).text == "stays"
    assert [request["body"]["messages"][0]["content"] for request in fake.requests()] == [WORDS, "stays"]
    assert herd.in_flight == 0


# A rapid series of edits starts things twice.


async def test_rapid_edits_of_the_models_start_nothing_twice(stage: Stage, start_herd: StartHerd) -> None:
    edited, kept = stage.model("alpha"), stage.model("beta", pinned=True)
    herd = await start_herd(storage={"watch": True})
    await herd.chat("hi", model="beta")
    entries = json.loads(stage.models_file.read_text())
    answers: list[Answer] = []
    most = 0
    began = time.monotonic()
    for number in range(100):
        entries["alpha"]["params"]["ctxSize"] = 1000 + number
        stage.models_file.write_text(json.dumps(entries))
        if number % 5 == 0:
            answers.append(await herd.chat("hi", model="alpha"))
            most = max(most, alive(edited))
        await asyncio.sleep(max(0.0, began + number / 100 - time.monotonic()))
    await until(lambda: herd.service.pool.find("alpha")[0].params.ctx_size == 1099)
    await until(lambda: herd.state("alpha") == "stopped")
    answers.append(await herd.chat("hi", model="alpha"))
    assert statuses(answers) == {200}
    command = psutil.Process(edited.starts()[-1]).cmdline()
    assert command[command.index("--ctx-size") + 1] == "1099"
    assert len(edited.starts()) <= 4, "once at first, once at the end, and where a busy machine paused the edits"
    assert (most, alive(edited)) == (1, 1)
    assert len(kept.starts()) == 1
    assert herd.state("beta") == "ready"


# A time of zero, or none, means "at once".

TIMES = [
    (section, key)
    for section, keys in Settings.model_fields.items()
    for key, field in getattr(keys.annotation, "model_fields", {}).items()
    if (field.description or "").startswith("Seconds")
]


def test_there_are_limits_of_time() -> None:
    assert {("limits", "hang_timeout"), ("limits", "load_timeout"), ("scheduling", "batch_window")} <= set(TIMES)


@pytest.mark.parametrize(("section", "key"), TIMES)
@pytest.mark.parametrize("value", [0, 0.0, "0", -1, False])
def test_a_limit_of_no_time_is_refused_by_its_name(
    make_settings: MakeSettings, section: str, key: str, value: Any
) -> None:
    with pytest.raises(ConfigError, match=rf"{section}\.{key}: "):
        make_settings(**{section: {key: value}})


@pytest.mark.parametrize("value", [0, 0.0, -1, False, "0"])
async def test_a_time_to_live_of_nothing_is_refused_by_its_name(
    stage: Stage, herd: Herd, fake: Fake, value: Any
) -> None:
    await herd.chat("hi")
    stage.model("beta", ttl=value)
    answer = await herd.post("/admin/reload")
    assert answer.status == 400
    assert "beta.ttl: " in answer.error["message"]
    assert len(fake.starts()) == 1
    assert await loaded(herd) == ["alpha"]


async def test_a_limit_of_null_is_no_limit(
    stage: Stage, start_herd: StartHerd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = stage.model("alpha", ttl=None)
    fake.hold_streams()
    path = tmp_path / "config.yml"
    path.write_text("limits: {idle_ttl: null, hang_timeout: null}\n")
    monkeypatch.setenv("CONFIG_PATH", str(path))
    herd = await start_herd()
    limits = herd.service.settings.limits
    assert (limits.idle_ttl, limits.hang_timeout) == (None, None)
    async with herd.stream(WORDS) as events:
        await events.token()
        fake.release_streams()
        assert (await events.rest())[-1] == b"data: [DONE]\n"
    assert (await herd.chat("again")).text == "again"
    model = (await herd.get("/admin/models/alpha")).json
    assert (model["state"], model["ttl"], model["unloads_at"]) == ("ready", None, None)
    assert len(fake.starts()) == 1


@pytest.mark.parametrize(("section", "key"), TIMES)
def test_a_limit_that_is_left_empty_is_the_default(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch, section: str, key: str
) -> None:
    default = getattr(getattr(Settings(), section), key)
    assert default is None or default > 0
    monkeypatch.setenv(f"LLAMAHERD_{section}__{key}".upper(), "")
    assert getattr(getattr(load_settings({section: {key: None}}), section), key) == default
