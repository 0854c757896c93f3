"""Models that are fetched over HTTP: /admin/models/pull, /admin/pulls and Ollama's /api/pull."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import pytest

from manager.auth import KeyStore
from routes import pulls as route
from tests.fakes.hub import Fault, Hub, running_hub
from tests.routes.conftest import StartHerd, outside
from tests.routes.herd import Events, Herd, said, until
from tests.routes.stage import CHAT, EMPTY_GGUF, Fake, Stage

PULL: Final = "/admin/models/pull"
REPO: Final = "org/beta-GGUF"
FILE: Final = "beta-Q4_K_M.gguf"
BIG: Final = EMPTY_GGUF + bytes(300_000)


@pytest.fixture
async def hub() -> AsyncIterator[Hub]:
    async with running_hub() as hub:
        hub.add_repository(REPO, {FILE: EMPTY_GGUF})
        yield hub


@pytest.fixture
async def herd(hub: Hub, fake: Fake, start_herd: StartHerd) -> Herd:
    """A service with the model "alpha", whose hub is `hub`, and which does not watch its files."""
    return await start_herd(hub={"endpoint": hub.address}, storage={"watch": False})


def stall(hub: Hub) -> None:
    """The next download of the file comes to no end."""
    hub.add_repository(REPO, {FILE: BIG})
    (path,) = [path for path in hub.files if path.endswith(FILE)]
    hub.fail(path, Fault(stall_after=200_000))


def states(frames: list[bytes]) -> list[str]:
    told = []
    for frame in frames:
        event, data = frame.splitlines()
        assert event == b"event: pull"
        told.append(json.loads(data.removeprefix(b"data: "))["state"])
    return list(dict.fromkeys(told))


async def test_pulled_model_is_served_when_its_pull_has_ended(herd: Herd, stage: Stage) -> None:
    answer = await herd.post(f"{PULL}?wait=true", {"source": REPO, "name": "beta"})
    assert (answer.status, answer.json["state"], answer.json["model"]) == (200, "done", "beta")
    assert "beta" in [model["id"] for model in (await herd.get("/v1/models")).json["data"]]
    assert "alpha" in json.loads(stage.models_file.read_text())


async def test_pull_has_a_place_of_its_own_from_the_beginning(herd: Herd, hub: Hub) -> None:
    stall(hub)
    begun = await herd.post(PULL, {"source": REPO, "name": "beta"})
    assert (begun.status, begun.json["state"]) == (202, "waiting")
    place = begun.headers["Location"]
    assert place == f"/admin/pulls/{begun.json['id']}"
    again = await herd.post(PULL, {"source": REPO, "name": "beta"})
    assert (again.status, again.json["id"]) == (202, begun.json["id"])
    await asyncio.wait_for(hub.stalled.wait(), 5)
    assert (await herd.get(place)).json["state"] == "fetching"
    assert [pull["id"] for pull in (await herd.get("/admin/pulls")).json["pulls"]] == [begun.json["id"]]
    gone = await herd.ask("DELETE", place)
    assert (gone.status, gone.json["state"]) == (200, "cancelled")
    assert (await herd.get(place)).json["state"] == "cancelled"
    assert (await herd.post(f"{PULL}?wait=true", {"source": REPO, "name": "beta"})).json["model"] == "beta"


async def test_pull_tells_what_was_asked_for(herd: Herd) -> None:
    asked = {"source": REPO, "quant": "Q4_K_M", "revision": "main", "name": "beta", "mmproj": False}
    begun = (await herd.post(PULL, asked)).json
    assert {field: begun[field] for field in asked} == asked
    plain = (await herd.post(PULL, {"source": REPO})).json
    assert (plain["quant"], plain["revision"], plain["name"], plain["mmproj"]) == (None, None, None, True)


async def test_pull_that_is_cancelled_is_a_409_for_who_waits(herd: Herd, hub: Hub) -> None:
    stall(hub)
    waiting = asyncio.create_task(herd.post(f"{PULL}?wait=true", {"source": REPO}))
    await asyncio.wait_for(hub.stalled.wait(), 5)
    (pull,) = (await herd.get("/admin/pulls")).json["pulls"]
    await herd.ask("DELETE", f"/admin/pulls/{pull['id']}")
    answer = await waiting
    assert (answer.status, answer.error["code"]) == (409, "request_cancelled")


@pytest.mark.parametrize("accepting", [False, True])
async def test_progress_is_a_stream_that_ends_with_the_pull(herd: Herd, accepting: bool) -> None:
    headers = {"Accept": "text/event-stream"} if accepting else {}
    path = PULL if accepting else f"{PULL}?stream=true"
    async with herd.open("POST", path, {"source": REPO}, headers=headers) as response:
        assert response.headers["Content-Type"].startswith("text/event-stream")
        frames = await Events(response).rest()
    assert states(frames) == ["waiting", "resolving", "fetching", "done"]
    last = json.loads(frames[-1].splitlines()[1].removeprefix(b"data: "))
    async with herd.open("GET", f"/admin/pulls/{last['id']}?stream=true") as response:
        assert states(await Events(response).rest()) == ["done"]


async def test_who_leaves_the_stream_does_not_end_the_pull(herd: Herd, hub: Hub) -> None:
    async with herd.open("POST", f"{PULL}?stream=true", {"source": REPO, "name": "beta"}) as response:
        await Events(response).next()
    await until(lambda: herd.service.pulls.list()[0].state == "done")
    assert "beta" in herd.service.pool.catalog


async def test_quiet_stream_is_kept_alive(herd: Herd, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(route, "HEARTBEAT", 0.01)
    stall(hub)
    async with herd.open("POST", f"{PULL}?stream=true", {"source": REPO}) as response:
        events = Events(response)
        while (frame := await events.next()) != b": still here\n":
            assert frame is not None


async def test_slow_reader_of_a_stream_gets_the_state_of_now(herd: Herd, hub: Hub) -> None:
    stall(hub)
    async with herd.open("POST", f"{PULL}?stream=true", {"source": REPO}) as response:
        await asyncio.wait_for(hub.stalled.wait(), 5)
        for number in range(1500):
            herd.service.pool.feed.publish("noise", {"n": number})
        await herd.service.pulls.close()
        assert states(await Events(response).rest())[-1] == "cancelled"


async def test_pulls_are_told_to_the_readers_of_all_events(herd: Herd) -> None:
    async with herd.open("GET", "/admin/events") as response:
        events = Events(response)
        await events.next()
        await herd.post(PULL, {"source": REPO})
        told: list[Any] = []
        while not told or told[-1]["state"] != "done":
            frame = await events.next()
            assert frame is not None
            if b"event: pull\n" in frame:
                told.append(json.loads(frame.partition(b"data: ")[2]))
    assert {pull["source"] for pull in told} == {REPO}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "source"),
        ({"source": ""}, "source"),
        ({"source": 5}, "source"),
        ({"source": "/etc/passwd"}, "source"),
        ({"source": "file:///etc/passwd"}, "source"),
        ({"source": "beta"}, "source"),
        ({"source": "http://host/a.gguf"}, "source"),
        ({"source": "https://host/a.bin"}, "source"),
        ({"source": REPO, "name": "a,b"}, "name"),
        ({"source": REPO, "quant": 4}, "quant"),
        ({"source": REPO, "mmproj": "no"}, "mmproj"),
    ],
)
async def test_wrong_request_is_a_400_that_names_the_field(herd: Herd, body: dict[str, Any], field: str) -> None:
    answer = await herd.post(PULL, body)
    assert (answer.status, answer.error["param"]) == (400, field)
    assert (await herd.get("/admin/pulls")).json == {"pulls": []}


async def test_what_can_not_be_had_is_an_error_for_who_waits(herd: Herd, hub: Hub) -> None:
    hub.add_repository("org/two-GGUF", {"one-Q4_K_M.gguf": EMPTY_GGUF, "two-Q4_K_M.gguf": EMPTY_GGUF})
    answer = await herd.post(f"{PULL}?wait=true", {"source": "org/two-GGUF"})
    assert (answer.status, answer.error["param"]) == (400, "quant")
    assert "two-Q4_K_M" in answer.error["message"]
    assert (await herd.post(f"{PULL}?wait=true", {"source": "org/none"})).status in {400, 404, 502}
    assert (await herd.get("/admin/pulls")).json["pulls"][-1]["error"]["message"]


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_pull_that_is_not_known_is_a_404(herd: Herd, method: str) -> None:
    answer = await herd.ask(method, "/admin/pulls/nobody")
    assert (answer.status, answer.error["code"]) == (404, "pull_not_found")


async def test_model_that_is_called_pull_can_still_be_seen_and_loaded(stage: Stage, start_herd: StartHerd) -> None:
    stage.model("pull").knobs()
    herd = await start_herd()
    assert (await herd.get("/admin/models/pull")).json["name"] == "pull"
    assert (await herd.post("/admin/models/pull/load")).status == 200


async def test_pulling_is_for_administrators_and_is_audited(
    fake: Fake, stage: Stage, hub: Hub, make_key: Callable[..., str], start_herd: StartHerd
) -> None:
    user, admin = make_key("user", "inference"), make_key("admin", "admin")
    herd = await start_herd(hub={"endpoint": hub.address})
    for path, body in ((PULL, {"source": REPO}), ("/api/pull", {"model": REPO})):
        assert (await herd.post(path, body, key=user)).status == 403
    assert (await herd.get("/admin/pulls", key=user)).status == 403
    assert (await herd.post(f"{PULL}?wait=true", {"source": REPO}, key=admin)).status == 200
    file = herd.service.settings.storage.audit_file
    await until(lambda: file.exists() and '"status":200' in file.read_text().replace(" ", ""))
    last = json.loads(file.read_text().splitlines()[-1])
    assert (last["action"], last["target"]) == (f"POST {PULL}", REPO)


async def test_service_that_stops_ends_its_pulls(herd: Herd, hub: Hub) -> None:
    stall(hub)
    async with herd.open("POST", f"{PULL}?stream=true", {"source": REPO}) as response:
        await asyncio.wait_for(hub.stalled.wait(), 5)
        await herd.server.close()
        assert states(await Events(response).rest())[-1] == "cancelled"


async def test_ollama_pulls_in_lines(herd: Herd) -> None:
    async with herd.open("POST", "/api/pull", {"model": f"hf.co/{REPO}:latest"}) as response:
        assert response.headers["Content-Type"] == "application/x-ndjson"
        lines = [json.loads(line) for line in (await response.read()).splitlines()]
    assert lines[0] == {"status": "pulling manifest"}
    assert lines[-1] == {"status": "success"}
    (line,) = {json.dumps(line) for line in lines if line.get("completed") == len(EMPTY_GGUF)}
    told = json.loads(line)
    assert told["total"] == len(EMPTY_GGUF)
    assert told["digest"].startswith("sha256:")


async def test_ollama_pulls_in_one_answer_what_is_to_be_one(herd: Herd) -> None:
    answer = await herd.post("/api/pull", {"model": f"hf.co/{REPO}", "stream": False})
    assert (answer.status, answer.json) == (200, {"status": "success"})
    (pull,) = herd.service.pulls.list()
    assert (await herd.post(CHAT, said("hi", model="alpha"))).status == 200
    for name in (pull.model, "alpha", "alpha:latest"):
        assert (await herd.post("/api/pull", {"name": name, "stream": False})).json == {"status": "success"}
    assert len(herd.service.pulls.list()) == 1


@pytest.mark.parametrize("stream", [True, False])
async def test_ollama_hears_what_fails(herd: Herd, stream: bool) -> None:
    for body in ({}, {"model": "llama3.2"}, {"model": "/etc/passwd"}, {"model": "http://host/a.gguf"}):
        answer = await herd.post("/api/pull", {**body, "stream": stream})
        assert (answer.status, list(answer.json)) == (400, ["error"])
        assert "'model'" in answer.json["error"]
    assert herd.service.pulls.list() == ()
    answer = await herd.post("/api/pull", {"model": "org/none", "stream": stream})
    assert "error" in json.loads(answer.body.splitlines()[-1])
    assert (answer.status == 200) is stream


@pytest.mark.parametrize("stream", [True, False])
async def test_ollama_hears_no_more_of_a_pull_once_the_key_is_revoked(
    hub: Hub,
    fake: Fake,
    stage: Stage,
    make_key: Callable[..., str],
    start_herd: StartHerd,
    monkeypatch: pytest.MonkeyPatch,
    stream: bool,
) -> None:
    monkeypatch.setattr(route, "HEARTBEAT", 0.01)
    key = make_key("goes")
    herd = await start_herd(hub={"endpoint": hub.address}, storage={"watch": False})
    stall(hub)
    asked = asyncio.create_task(herd.post("/api/pull", {"model": REPO, "stream": stream}, key=key))
    await asyncio.wait_for(hub.stalled.wait(), 5)
    outside(lambda: KeyStore(stage.keys_file).revoke("goes"))
    await asyncio.to_thread(herd.service.keys.load)
    answer = await asyncio.wait_for(asked, 5)
    assert answer.status == (200 if stream else 401)
    assert "is not valid any more" in json.loads(answer.body.splitlines()[-1])["error"]
    assert herd.service.pulls.list()[0].state == "fetching"
