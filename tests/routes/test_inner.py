"""What engines say of themselves, and their own routes for administrators."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest

from routes.inner import split_path
from tests.routes.conftest import StartHerd
from tests.routes.herd import Herd, said, until
from tests.routes.stage import CHAT, Fake, Stage


def escaped(herd: Herd, path: str) -> Any:
    return herd.server.make_url("/").with_path(path, encoded=True)


# /props


async def test_props_are_the_engines_and_load_the_model(herd: Herd, fake: Fake) -> None:
    answer = await herd.get("/props?model=alpha")
    assert (answer.status, answer.json["model_alias"]) == (200, "alpha")
    assert (await herd.get("/props")).json == answer.json  # of the default model
    assert len(fake.starts()) == 1
    assert (await herd.get("/props?model=beta")).status == 404


async def test_props_load_nothing_where_that_is_not_wanted(herd: Herd, fake: Fake) -> None:
    refused = await herd.get("/props?autoload=false")
    assert (refused.status, refused.error["param"]) == (400, "model")
    assert fake.starts() == []
    await herd.chat("hi")
    assert (await herd.get("/props?autoload=false")).status == 200
    assert (await herd.get("/props?autoload=maybe")).error["param"] == "autoload"


async def test_folders_of_props_are_for_admins(fake: Fake, start_herd: StartHerd, make_key: Callable[..., str]) -> None:
    user, admin, other = make_key("user", "inference"), make_key("all"), make_key("other", "inference", models=["b"])
    herd = await start_herd()
    assert (await herd.get("/props", key=user)).json["model_path"] == "alpha.gguf"
    assert (await herd.get("/props", key=admin)).json["model_path"].startswith("/")
    refused = await herd.get("/props?model=alpha", key=other)
    assert (refused.status, refused.error["code"]) == (403, "model_not_allowed")


# /upstream


async def test_any_route_of_the_engine_is_answered_as_it_answers(herd: Herd, fake: Fake) -> None:
    slots = await herd.get("/upstream/alpha/slots")
    assert (slots.status, len(slots.json)) == (200, 1)
    metrics = await herd.get("/upstream/alpha/metrics")
    assert metrics.headers["Content-Type"] == "text/plain; version=0.0.4"
    assert metrics.body.startswith(b"# TYPE llamacpp:")
    missing = await herd.get("/upstream/alpha/nothing/here")
    assert (missing.status, missing.json["error"]["message"]) == (404, "File Not Found")
    assert "X-Request-ID" in missing.headers
    assert len(fake.starts()) == 1
    assert herd.in_flight == 0


async def test_bodies_and_queries_arrive_as_they_are(herd: Herd, fake: Fake) -> None:
    headers = {"Cookie": "a=b", "X-Api-Key": "sk", "Accept": "text/html"}
    await herd.post("/upstream/alpha/slots/0?action=erase&x=%20y", raw=b'{"a":  1}', headers=headers)
    (request,) = fake.requests("/slots/0")
    assert (request["method"], request["query"]) == ("POST", {"action": ["erase"], "x": [" y"]})
    assert request["body"] == {"a": 1}
    assert request["headers"]["accept"] == "text/html"
    assert not {"cookie", "x-api-key", "x-request-id"} & request["headers"].keys()


async def test_keys_go_neither_way(fake: Fake, start_herd: StartHerd, make_key: Callable[..., str]) -> None:
    key = make_key("all")
    herd = await start_herd()
    answer = await herd.get("/upstream/alpha/slots", key=key)
    (request,) = fake.requests("/slots")
    child = request["headers"]["authorization"]
    assert key not in json.dumps(request)
    assert child.startswith("Bearer ")
    assert child.removeprefix("Bearer ") not in str(answer.headers) + answer.body.decode()


async def test_streams_come_as_they_are_made_and_hold_the_model(fake: Fake, start_herd: StartHerd) -> None:
    fake.hold_streams()
    herd = await start_herd()
    async with herd.open("POST", f"/upstream/alpha{CHAT}", said("a b", stream=True)) as response:
        assert response.content_type == "text/event-stream"
        assert b"data: " in await response.content.readline()
        assert herd.in_flight == 1
        (running,) = (await herd.get("/admin/requests")).json["requests"]
        assert (running["model"], running["state"]) == ("alpha", "running")
        fake.release_streams()
        assert (await response.read()).endswith(b"data: [DONE]\n\n")
    assert herd.in_flight == 0


async def test_a_request_can_be_cancelled_while_it_waits(fake: Fake, start_herd: StartHerd) -> None:
    fake.close_gate()
    herd = await start_herd()
    async with asyncio.TaskGroup() as group:
        asked = group.create_task(herd.get("/upstream/alpha/slots", headers={"X-Request-ID": "mine"}))
        await until(lambda: len(herd.service.inflight) == 1)
        assert (await herd.ask("DELETE", "/admin/requests/mine")).status == 200
        answer = await asked
    assert (answer.status, answer.error["code"]) == (409, "request_cancelled")
    fake.open_gate()


async def test_a_stream_that_is_cancelled_breaks_off(
    fake: Fake, start_herd: StartHerd, caplog: pytest.LogCaptureFixture
) -> None:
    fake.hold_streams()
    herd = await start_herd()
    mine = {"X-Request-ID": "mine"}
    async with herd.open("POST", f"/upstream/alpha{CHAT}", said("a b", stream=True), headers=mine) as response:
        await response.content.readline()
        assert (await herd.ask("DELETE", "/admin/requests/mine")).status == 200
        with pytest.raises(aiohttp.ClientError):
            await response.read()
    assert herd.in_flight == 0
    await until(lambda: len(fake.disconnects()) == 1)
    assert not [record for record in caplog.records if record.exc_info]


async def test_posts_are_audited_with_their_model_and_need_the_scope_admin(
    fake: Fake, start_herd: StartHerd, make_key: Callable[..., str]
) -> None:
    user, admin = make_key("user", "inference"), make_key("all")
    herd = await start_herd()
    for method in ("GET", "POST"):
        assert (await herd.ask(method, "/upstream/alpha/slots", key=user)).status == 403
    assert fake.starts() == []
    assert (await herd.post("/upstream/alpha/tokenize", {"content": "a b"}, key=admin)).json == {"tokens": [0, 1]}
    file = herd.service.settings.storage.audit_file
    await until(lambda: len(file.read_text().splitlines()) == 2)
    records = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(record["target"], record["status"]) for record in records] == [("alpha", 403), ("alpha", 200)]


async def test_ids_with_slashes_are_found(stage: Stage, start_herd: StartHerd) -> None:
    fake = stage.model("org/model:7b", file="own")
    herd = await start_herd()
    for id_ in ("org/model:7b", "org%2Fmodel:7b", "org%2fmodel%3A7b"):
        async with herd.session.get(escaped(herd, f"/upstream/{id_}/slots")) as response:
            assert response.status == 200, id_
    assert len(fake.requests("/slots")) == 3
    assert (await herd.get("/upstream/org/slots")).error["code"] == "model_not_found"


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("a/slots", ("a", "/slots")),
        ("a/b/slots", ("a/b", "/slots")),
        ("a%2Fb/slots/0", ("a/b", "/slots/0")),
        ("a/", ("a", "/")),
        ("a/b", ("a/b", "/")),
        ("a/c%2Fd", ("a", "/c%2Fd")),
        ("c/slots", ("c", "/slots")),
        ("c%20d/a", ("c d", "/a")),
        ("/a", ("", "/a")),
        ("a" + "/b" * 1000, ("a/b", "/" + "b/" * 998 + "b")),
    ],
)
def test_the_longest_id_that_fits_counts(path: str, found: tuple[str, str]) -> None:
    pool: Any = SimpleNamespace(catalog={"a", "a/b"})
    assert split_path(pool, path) == found


async def test_what_cannot_stand_in_a_request_line_is_refused(herd: Herd, fake: Fake) -> None:
    reader, writer = await asyncio.open_connection(herd.server.host, herd.server.port)
    writer.write(b"GET /upstream/alpha/sl\xc3\xb6ts HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert b" 400 " in (await reader.readline())
    writer.close()
    await writer.wait_closed()
    assert fake.starts() == []
