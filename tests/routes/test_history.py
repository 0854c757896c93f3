"""Which requests the history has: of every API, and those too that came to no model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from routes.audio import TRANSCRIPTIONS
from tests.routes.conftest import StartHerd
from tests.routes.herd import Herd, said, until
from tests.routes.stage import CHAT, EMPTY_GGUF, Fake, Stage
from tests.routes.test_activity import CAPTURING, HISTORY, captured, history, listening
from tests.routes.test_audio import HEADERS, WAV, form


async def ended(herd: Herd) -> Any:
    """The only request that has ended."""
    (one,) = await history(herd)
    return one


# of every API


async def test_embeddings_are_there_with_the_tokens_that_were_read(stage: Stage, start_herd: StartHerd) -> None:
    stage.model("emb", params={"embedding": True})
    herd = await start_herd()
    assert (await herd.post("/v1/embeddings", {"input": ["one two", "three"]})).status == 200
    told = await ended(herd)
    assert (told["route"], told["outcome"], told["stream"]) == ("/v1/embeddings", "ok", False)
    assert (told["prompt_tokens"], told["completion_tokens"], told["tokens_per_second"]) == (3, 0, None)
    assert told["prompt_seconds"] is None


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/responses", {"input": "one two"}),
        ("/v1/messages", said("one two", max_tokens=9, model="alpha")),
        ("/api/chat", said("one two", model="alpha")),
        ("/v1/completions", {"prompt": "one two"}),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
async def test_other_apis_are_told_as_chats_are(herd: Herd, path: str, body: dict[str, Any], stream: bool) -> None:
    assert (await herd.post(path, {**body, "stream": stream})).status == 200
    told = await ended(herd)
    assert (told["model"], told["route"], told["outcome"], told["stream"]) == ("alpha", path, "ok", stream)
    assert told["prompt_tokens"] > 0
    assert told["completion_tokens"] > 0
    assert (told["first_token"] is not None) is stream


@pytest.mark.parametrize(("path", "body"), [(CHAT, said("one two")), ("/v1/messages", said("one two", max_tokens=9))])
@pytest.mark.parametrize("stream", [True, False])
async def test_how_long_the_prompt_was_read_is_told_where_the_engine_says_it(
    herd: Herd, fake: Fake, path: str, body: dict[str, Any], stream: bool
) -> None:
    fake.knobs(timings=True)
    assert (await herd.post(path, {**body, "model": "alpha", "stream": stream})).status == 200
    told = await ended(herd)
    assert told["prompt_seconds"] == told["prompt_tokens"] * 2 / 1000 > 0, "2 ms a token, as the fake says"


@pytest.mark.parametrize("stream", [True, False])
async def test_how_long_several_prompts_were_read_is_not_told(herd: Herd, fake: Fake, stream: bool) -> None:
    fake.knobs(timings=True)
    assert (await herd.post("/v1/completions", {"prompt": ["one two", "three"], "stream": stream})).status == 200
    told = await ended(herd)
    assert told["prompt_tokens"] >= 3
    assert told["prompt_seconds"] is None


async def test_a_transcription_is_told_as_the_chat_that_it_is(stage: Stage, start_herd: StartHerd) -> None:
    (stage.data / "models" / "projector.gguf").write_bytes(EMPTY_GGUF)
    stage.model("ear", params={"mmproj": "projector.gguf"})
    herd = await start_herd(activity=CAPTURING)
    raw = form({"file": WAV, "model": "ear"})
    assert (await herd.post(TRANSCRIPTIONS, raw=raw, headers=HEADERS)).status == 200
    told = await ended(herd)
    assert (told["model"], told["route"], told["outcome"]) == ("ear", TRANSCRIPTIONS, "ok")
    assert told["completion_tokens"] > 0
    assert (await captured(herd))["request"]["size"] == len(raw)


# what came to no model


REFUSED: list[tuple[str, bytes, str | None, str]] = [
    (CHAT, b'{"messages": [], "model": "nope"}', None, "model_not_found"),
    (CHAT, b'{"messages": [], "model": ["alpha"]}', None, "invalid_request"),
    (CHAT, b'{"model": "alpha", "temperature": "hot"}', "alpha", "invalid_request"),
    (CHAT, b'{"model": "alpha:nope"}', "alpha", "model_not_found"),
    (CHAT, b"{", None, "invalid_request"),
    (CHAT, b"", None, "invalid_request"),
    ("/api/chat", b'{"model": "alpha", "messages": 5}', "alpha", "invalid_request"),
    ("/v1/messages", b'{"model": "alpha"}', "alpha", "invalid_request"),
    ("/v1/embeddings", b'{"model": "alpha", "input": {}}', "alpha", "invalid_request"),
]


@pytest.mark.parametrize(("path", "raw", "model", "outcome"), REFUSED)
async def test_what_was_refused_is_there_with_the_reason(
    fake: Fake, start_herd: StartHerd, path: str, raw: bytes, model: str | None, outcome: str
) -> None:
    herd = await start_herd(activity=CAPTURING)
    async with listening(herd) as next_of:
        answer = await herd.post(path, raw=raw, headers={"X-Request-ID": "mine"})
        told = await next_of("request")
    listed = await ended(herd)
    assert told == {"state": "ended", "status": outcome, **listed}
    assert (listed["id"], listed["model"], listed["route"], listed["outcome"]) == ("mine", model, path, outcome)
    assert (listed["waited"], listed["first_token"], listed["prompt_tokens"]) == (None, None, None)
    assert listed["seconds"] > 0
    capture = await captured(herd)
    assert capture["request"]["body"].encode() == raw
    assert (capture["answer"]["status"], capture["answer"]["body"].encode()) == (answer.status, answer.body)


async def test_what_was_refused_counts_for_no_model(herd: Herd) -> None:
    for model in ("nope", "alpha"):
        assert (await herd.chat("one", model=model, temperature="hot")).status in {400, 404}
    assert len(await history(herd)) == 2
    assert b"llamaherd_requests_total{" not in (await herd.get("/metrics")).body
    assert (await herd.get("/admin/usage")).json["total"]["requests"] == 0


async def test_a_key_over_its_limit_is_told(fake: Fake, start_herd: StartHerd, make_key: Callable[..., str]) -> None:
    key, admin = make_key("few", requests_per_minute=1), make_key("admin")
    herd = await start_herd()
    herd.key = admin
    assert (await herd.post(CHAT, said("one"), key=key)).status == 200
    assert (await herd.post(CHAT, said("one"), key=key)).status == 429
    newest, _ = await history(herd)
    few = next(one.id for one in herd.service.keys.list() if one.name == "few")
    assert (newest["outcome"], newest["model"], newest["key"]) == ("rate_limit_exceeded", None, few)


async def test_strangers_and_those_without_the_right_are_not(
    fake: Fake, start_herd: StartHerd, make_key: Callable[..., str]
) -> None:
    admin = make_key("admin", "admin")
    herd = await start_herd()
    assert (await herd.post(CHAT, said("one"))).status == 401
    assert (await herd.post(CHAT, said("one"), key=admin)).status == 403
    herd.key = admin
    assert await history(herd) == []


async def test_a_service_that_drains_tells_whom_it_refused(herd: Herd) -> None:
    await herd.chat("one")
    herd.service.gate.close()
    assert (await herd.chat("one", model="alpha")).status == 503
    newest, _ = await history(herd)
    assert (newest["outcome"], newest["model"]) == ("shutting_down", "alpha")


async def test_a_failure_on_the_way_is_told_once(herd: Herd, fake: Fake) -> None:
    fake.knobs(error_status=500)
    assert (await herd.chat("one")).status == 500
    assert (await ended(herd))["outcome"] == "generation_failed"


async def test_other_routes_are_not_there(herd: Herd) -> None:
    assert (await herd.get("/v1/models/nope")).status == 404
    assert (await herd.post("/admin/models/nope/load")).status == 404
    assert await history(herd) == []


async def test_a_client_that_left_before_its_body_had_come_is_not(herd: Herd) -> None:
    begun = asyncio.Event()

    async def parts() -> AsyncIterator[bytes]:
        yield b'{"messages": '
        begun.set()
        await asyncio.Event().wait()

    asking = asyncio.create_task(herd.post(CHAT, raw=parts()))
    await begun.wait()
    asking.cancel()
    await asyncio.wait({asking})
    await until(lambda: b'status="499"' in herd.service.metrics.render())
    assert await history(herd) == []


# the history and the ids of requests


async def test_no_client_can_name_its_request_as_the_history(herd: Herd, fake: Fake) -> None:
    fake.hold_streams()
    await herd.post("/tokenize", {"content": "x"})
    headers = {"X-Request-ID": "history"}
    async with herd.open("POST", CHAT, said("hi", stream=True), headers=headers) as response:
        own = response.headers["X-Request-ID"]
        assert own != "history"
        assert (await herd.ask("DELETE", f"/admin/requests/{own}")).json == {"cancelled": 1}
    answer = await herd.post("/tokenize", {"content": "x"}, headers={"X-Request-ID": "history-1"})
    assert answer.headers["X-Request-ID"] == "history-1"


async def test_that_it_was_forgotten_is_told_and_every_snapshot_tells_where_it_is(
    fake: Fake, start_herd: StartHerd
) -> None:
    herd = await start_herd(activity=CAPTURING)
    async with herd.open("GET", "/admin/events") as response:
        assert await snapshot(response.content.readline) == ({"enabled": True}, {"newest": 0})
    await herd.chat("one")
    async with listening(herd) as next_of:
        await herd.ask("DELETE", HISTORY)
        assert await next_of("history") == {"forgotten": 1}
    await herd.ask("PUT", "/admin/capture", {"enabled": False})
    async with herd.open("GET", "/admin/events") as response:
        assert await snapshot(response.content.readline) == ({"enabled": False}, {"newest": 1})


async def snapshot(readline: Any) -> tuple[Any, Any]:
    """What the snapshot at the beginning of a feed tells of captures and the history."""
    lines = [await readline() for _ in range(3)]
    assert lines[1] == b"event: snapshot\n"
    state = json.loads(lines[2].removeprefix(b"data: "))
    return state["capture"], state["history"]
