"""Answers that are handed on as they come: how their ends are told."""

from __future__ import annotations

import os
import signal
from typing import Any

import aiohttp
import pytest

from tests.routes.conftest import StartHerd
from tests.routes.herd import Herd, said, until
from tests.routes.stage import CHAT, Fake
from tests.routes.test_activity import CAPTURING, captured, history

UPSTREAM = f"/upstream/alpha{CHAT}"


async def ended(herd: Herd) -> Any:
    """The request that ended last, which was the only one in flight."""
    await until(lambda: not herd.service.gate.in_flight and bool(herd.service.history.last))
    return (await history(herd))[0]


@pytest.mark.parametrize("knob", ["die_mid_stream", "cut_stream_after"])
async def test_an_engine_that_breaks_off_is_told_as_on_other_routes(
    fake: Fake, start_herd: StartHerd, knob: str, caplog: pytest.LogCaptureFixture
) -> None:
    fake.knobs(**{knob: 1})
    herd = await start_herd(activity=CAPTURING)
    async with herd.open("POST", CHAT, said("one two three", stream=True)) as response:
        await response.read()
    wanted = (await ended(herd))["outcome"]
    assert wanted == "upstream_closed"
    async with herd.open("POST", UPSTREAM, said("one two three", stream=True)) as response:
        with pytest.raises(aiohttp.ClientError):
            await response.read()
    told = await ended(herd)
    assert (told["n"], told["outcome"], told["stream"]) == (2, wanted, True)
    await until(lambda: len(herd.service.pool.errors) == 2)
    assert [error["code"] for error in (await herd.get("/chat/errors")).json["errors"]] == [wanted, wanted]
    (row,) = (await herd.get("/admin/usage")).json["rows"]
    assert (row["requests"], row["errors"]) == (2, 2)
    assert (await captured(herd))["answer"]["cut_off"]
    assert not [record for record in caplog.records if record.exc_info]


async def test_an_engine_that_is_lost_before_its_answer_is_started_again(herd: Herd, fake: Fake) -> None:
    assert (await herd.get("/upstream/alpha/props")).status == 200
    os.kill(fake.starts()[0], signal.SIGKILL)
    assert (await herd.get("/upstream/alpha/props")).status == 200
    assert [one["outcome"] for one in await history(herd)] == ["ok", "ok"]


async def test_a_stream_that_is_cancelled_after_its_head_is_told_so(fake: Fake, start_herd: StartHerd) -> None:
    fake.hold_streams()
    herd = await start_herd(activity=CAPTURING)
    mine = {"X-Request-ID": "mine"}
    async with herd.open("POST", UPSTREAM, said("a b", stream=True), headers=mine) as response:
        begun = await response.content.readline()
        await herd.ask("DELETE", "/admin/requests/mine")
        with pytest.raises(aiohttp.ClientError):
            await response.read()
    assert (await ended(herd))["outcome"] == "cancelled"
    answer = (await captured(herd))["answer"]
    assert (answer["status"], answer["cut_off"]) == (200, True)
    assert answer["body"].startswith(begun.decode())
    assert "request_cancelled" not in answer["body"]  # nobody got that


async def test_a_client_that_leaves_has_left(herd: Herd, fake: Fake) -> None:
    fake.hold_streams()
    async with herd.open("POST", UPSTREAM, said("a b", stream=True)) as response:
        await response.content.readline()
    told = await ended(herd)
    assert (told["outcome"], told["stream"]) == ("left", True)
    assert told["waited"] <= told["first_token"]


async def test_whether_it_is_a_stream_its_content_type_tells(herd: Herd) -> None:
    for stream in (True, False):
        await herd.post(UPSTREAM, said("a b", stream=stream))
        told = await ended(herd)
        assert (told["outcome"], told["stream"], told["first_token"] is not None) == ("ok", stream, stream)


async def test_an_error_of_the_engine_that_is_handed_on_is_no_success(herd: Herd) -> None:
    assert (await herd.get("/upstream/alpha/nonsense")).status == 404
    assert (await ended(herd))["outcome"] == "upstream_status"
    (row,) = (await herd.get("/admin/usage")).json["rows"]
    assert (row["requests"], row["errors"]) == (1, 1)


async def test_a_fault_before_a_request_begins_does_not_hold_up_the_end(
    fake: Fake, start_herd: StartHerd, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError

    herd = await start_herd()
    for module in ("relay", "passing"):
        monkeypatch.setattr(f"routes.{module}.hold", broken)
    assert (await herd.chat("one")).status == 500
    assert (await herd.get("/upstream/alpha/props")).status == 500
    assert (herd.service.gate.in_flight, len(herd.service.inflight)) == (0, 0)
