"""What admins see of models and requests, and what they can do to them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.gguf_files import write_tiny_gguf
from tests.routes.conftest import StartHerd
from tests.routes.herd import Herd, said, until
from tests.routes.stage import CHAT, EMPTY_GGUF, Fake, Stage


async def shown(herd: Herd, name: str = "alpha") -> Any:
    """The model as the list of all models tells it."""
    answer = await herd.get("/admin/models")
    assert answer.status == 200, answer.body
    return next(model for model in answer.json["models"] if model["name"] == name)


def escaped(herd: Herd, path: str) -> Any:
    return herd.server.make_url("/").with_path(path, encoded=True)


# who may


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/admin/models"),
        ("GET", "/admin/models/alpha"),
        ("GET", "/admin/models/alpha/logs"),
        ("POST", "/admin/models/alpha/load"),
        ("POST", "/admin/models/alpha/unload"),
        ("GET", "/admin/requests"),
        ("DELETE", "/admin/requests/x"),
        ("GET", "/admin/requests/history"),
        ("GET", "/admin/requests/history/1"),
        ("DELETE", "/admin/requests/history"),
        ("GET", "/admin/capture"),
        ("PUT", "/admin/capture"),
        ("GET", "/admin/samples"),
        ("POST", "/admin/requests/x/cancel"),
        ("GET", "/admin/events"),
        ("POST", "/admin/reload"),
    ],
)
async def test_everything_needs_the_scope_admin(
    fake: Fake, start_herd: StartHerd, make_key: Callable[..., str], method: str, path: str
) -> None:
    user = make_key("user", "inference")
    herd = await start_herd()
    nobody = await herd.ask(method, path)
    assert (nobody.status, nobody.error["code"]) == (401, "invalid_api_key")
    refused = await herd.ask(method, path, key=user)
    assert (refused.status, refused.error["code"]) == (403, "insufficient_scope")
    assert fake.starts() == []


# models


async def test_every_model_is_listed_with_all_its_fields_before_it_ever_ran(
    stage: Stage, fake: Fake, start_herd: StartHerd
) -> None:
    stage.model("beta", aliases=["b"], description="Small.", pinned=True, preload=False, ttl=60)
    herd = await start_herd()
    alpha, beta = (await herd.get("/admin/models")).json["models"]
    assert isinstance(alpha.pop("since"), float)
    assert alpha == {
        "name": "alpha",
        "state": "stopped",
        "personality": None,
        "in_flight": 0,
        "waiting": 0,
        "yielding": False,
        "progress": None,
        "idle_since": None,
        "device": None,
        "unloads_at": None,
        "memory": {"expected": {}, "measured": {}},
        "load_seconds": None,
        "loads": 0,
        "evictions": 0,
        "evicted": None,
        "failures": 0,
        "last_error": None,
        "pid": None,
        "aliases": [],
        "personalities": ["pirate"],
        "profiles": {},
        "request": {"set": {}, "default": {}, "strip": []},
        "description": None,
        "unavailable": None,
        "active": False,
        "default": True,
        "pinned": False,
        "preload": False,
        "ttl": None,
        "engine": "llama",
    }
    assert (beta["aliases"], beta["description"], beta["pinned"], beta["ttl"]) == (["b"], "Small.", True, 60)


async def test_model_that_runs_tells_of_its_life(herd: Herd, fake: Fake) -> None:
    fake.hold_streams()
    async with herd.stream("one two") as events:
        assert await events.token()
        busy = await shown(herd)
        assert (busy["state"], busy["in_flight"], busy["idle_since"]) == ("ready", 1, None)
        assert (busy["pid"], busy["loads"], busy["active"]) == (fake.starts()[0], 1, False)
        assert busy["load_seconds"] > 0
        fake.release_streams()
        await events.rest()
    await until(lambda: herd.in_flight == 0)
    idle = await shown(herd)
    assert idle["idle_since"] >= idle["since"]
    assert idle["unloads_at"] is None


async def test_idle_model_tells_when_it_will_be_unloaded(stage: Stage, start_herd: StartHerd) -> None:
    stage.model("alpha", ttl=500)
    stage.model("beta")
    stage.model("kept", pinned=True)
    herd = await start_herd(limits={"idle_ttl": 900.0})
    for name in ("alpha", "beta", "kept"):
        await herd.post(f"/admin/models/{name}/load")
    alpha, beta, kept = (await herd.get("/admin/models")).json["models"]
    assert alpha["unloads_at"] == pytest.approx(alpha["idle_since"] + 500)
    assert beta["unloads_at"] == pytest.approx(beta["idle_since"] + 900)
    assert kept["unloads_at"] is None


async def test_failed_model_tells_why_and_when_it_will_be_tried_again(herd: Herd, fake: Fake) -> None:
    fake.knobs(exit_on_start={"code": 3, "lines": ["load_model: the tensor is bent"]})
    await herd.chat("hello")
    await until(lambda: herd.state("alpha") == "failed")
    model = await shown(herd)
    assert (model["state"], model["failures"]) == ("failed", 1)
    error = model["last_error"]
    assert "the tensor is bent" in error["message"]
    assert (error["code"], error["exit_code"]) == ("model_load_failed", 3)
    assert error["at"] == model["since"]
    assert error["retry_at"] > error["at"]


async def test_removed_model_is_listed_as_long_as_it_runs(stage: Stage, fake: Fake, start_herd: StartHerd) -> None:
    beta = stage.model("beta")
    beta.hold_streams()
    herd = await start_herd(storage={"watch": False})
    async with herd.stream("one two", model="beta") as events:
        assert await events.token()
        stage.forget("beta")
        assert (await herd.post("/admin/reload")).json == {"models": 1}
        await until(lambda: herd.state("beta") == "draining")
        removed = await shown(herd, "beta")
        assert (removed["state"], removed["in_flight"], removed["engine"]) == ("draining", 1, None)
        assert removed["unavailable"]
        assert (await herd.get("/admin/models/beta")).json["state"] == "draining"
        beta.release_streams()
        await events.rest()
    await until(lambda: herd.state("beta") == "stopped")
    assert [model["name"] for model in (await herd.get("/admin/models")).json["models"]] == ["alpha"]
    assert (await herd.get("/admin/models/beta")).error["code"] == "model_not_found"


async def test_one_model_is_told_with_what_it_runs_with(stage: Stage, start_herd: StartHerd) -> None:
    stage.model("alpha", ctx_size=2048, concurrency=3, queue=5, template="chatml", aliases=["a"])
    herd = await start_herd()
    listed = await shown(herd)
    model = (await herd.get("/admin/models/a")).json
    assert {name: model[name] for name in listed} == listed
    assert model["path"] == str(stage.data / "models" / "alpha.gguf")
    assert (model["params"]["ctx_size"], model["params"]["parallel"]) == (2048, 1)
    assert (model["concurrency"], model["queue"], model["template"], model["mmproj"]) == (3, 5, "chatml", None)
    assert model["source"] == "models.json"


async def test_one_model_is_told_with_the_room_and_an_estimate_where_there_is_one(herd: Herd) -> None:
    model = (await herd.get("/admin/models/alpha")).json
    # The header of these files is empty: nothing can be told of them but their size.
    assert (model["estimate"], model["learnt"], model["needed"]) == (None, {}, {"host": len(EMPTY_GGUF)})
    assert model["would_evict"] == []
    assert 0 < model["room"]["host"] <= model["total"]["host"]


async def test_one_model_is_told_with_the_parts_of_its_estimate(stage: Stage, start_herd: StartHerd) -> None:
    stage.model("alpha", ctx_size=512)
    write_tiny_gguf(stage.data / "models" / "alpha.gguf")
    herd = await start_herd(memory={"host_budget": 64 << 30})
    model = (await herd.get("/admin/models/alpha")).json
    estimate = model["estimate"]
    assert {"weights", "cache", "process"} <= {part["name"] for part in estimate["parts"]}
    assert estimate["total"] == sum(part["size"] for part in estimate["parts"]) == sum(estimate["devices"].values())
    assert model["needed"]["host"] > 0
    assert model["room"] == {"host": 64 << 30}
    assert {part["name"] for part in estimate["later"]} == {"prompt cache"}


async def test_one_model_tells_who_would_go_for_it(stage: Stage, fake: Fake, start_herd: StartHerd) -> None:
    stage.model("beta")
    herd = await start_herd(scheduling={"most_loaded": 1, "linger": 0.001, "batch_window": 0.001})
    await herd.post("/admin/models/beta/load")
    assert (await herd.get("/admin/models/alpha")).json["would_evict"] == ["beta"]
    assert (await herd.get("/admin/models/beta")).json["would_evict"] == []


async def test_one_model_that_nothing_can_make_room_for_tells_so(
    stage: Stage, fake: Fake, start_herd: StartHerd
) -> None:
    stage.model("beta", pinned=True)
    herd = await start_herd(scheduling={"most_loaded": 1})
    await herd.post("/admin/models/beta/load")
    assert (await herd.get("/admin/models/alpha")).json["would_evict"] is None


# loading


async def test_load_answers_when_the_model_is_ready_and_makes_it_active(herd: Herd) -> None:
    answer = await herd.post("/admin/models/alpha/load")
    assert answer.status == 200
    assert (answer.json["name"], answer.json["state"], answer.json["active"]) == ("alpha", "ready", True)


@pytest.mark.parametrize(
    ("path", "body"), [("alpha", {"personality": "pirate"}), ("alpha:pirate", None), ("alpha:pirate", {})]
)
async def test_load_takes_a_personality(herd: Herd, path: str, body: Any) -> None:
    answer = await herd.post(f"/admin/models/{path}/load", body)
    assert answer.json["personality"] == "pirate"
    assert (await herd.chat("hello")).echo[0]["role"] == "system"


async def test_load_without_waiting_answers_at_once(herd: Herd, fake: Fake) -> None:
    fake.close_gate()
    answer = await herd.post("/admin/models/alpha/load?wait=false")
    assert (answer.status, answer.json["name"]) == (202, "alpha")
    await until(lambda: herd.state("alpha") == "starting")
    fake.open_gate()
    await until(lambda: herd.state("alpha") == "ready")
    await until(lambda: herd.service.pool.active == "alpha")


@pytest.mark.parametrize("query", ["", "?wait=false"])
async def test_load_of_an_unknown_model_or_personality_is_a_404(herd: Herd, query: str) -> None:
    unknown = await herd.post(f"/admin/models/alpa/load{query}")
    assert (unknown.status, unknown.error["code"]) == (404, "model_not_found")
    stranger = await herd.post(f"/admin/models/alpha/load{query}", {"personality": "parrot"})
    assert (stranger.status, stranger.error["param"]) == (404, "personality")


async def test_load_that_fails_has_the_status_and_code_of_its_reason(herd: Herd, fake: Fake) -> None:
    fake.knobs(exit_on_start={"code": 1, "lines": ["load_model: the tensor is bent"]})
    answer = await herd.post("/admin/models/alpha/load")
    assert (answer.status, answer.error["code"]) == (503, "model_load_failed")
    assert "the tensor is bent" in answer.error["message"]


@pytest.mark.parametrize(
    ("query", "raw", "param"),
    [
        ("", b"{", None),
        ("", b"[]", None),
        ("", b'{"personality": 5}', "personality"),
        ("?wait=perhaps", None, "wait"),
    ],
)
async def test_load_with_a_wrong_body_or_query_is_a_400(
    herd: Herd, fake: Fake, query: str, raw: bytes | None, param: str | None
) -> None:
    answer = await herd.post(f"/admin/models/alpha/load{query}", raw=raw)
    assert (answer.status, answer.error["code"], answer.error["param"]) == (400, "invalid_request", param)
    assert fake.starts() == []


async def test_load_while_the_service_drains_is_refused(herd: Herd) -> None:
    herd.service.gate.close()
    answer = await herd.post("/admin/models/alpha/load?wait=false")
    assert (answer.status, answer.error["code"]) == (503, "shutting_down")


async def test_unload_answers_when_the_model_is_gone(herd: Herd) -> None:
    await herd.post("/admin/models/alpha/load")
    answer = await herd.post("/admin/models/alpha/unload")
    assert answer.status == 200
    assert (answer.json["name"], answer.json["state"], answer.json["active"]) == ("alpha", "stopped", False)
    assert (await herd.post("/admin/models/alpha/unload")).status == 200


async def test_unload_without_waiting_answers_while_the_model_drains(herd: Herd, fake: Fake) -> None:
    fake.hold_streams()
    async with herd.stream("one two") as events:
        assert await events.token()
        answer = await herd.post("/admin/models/alpha/unload?wait=no")
        assert (answer.status, answer.json["name"]) == (202, "alpha")
        await until(lambda: herd.state("alpha") == "draining")
        fake.release_streams()
        await events.rest()
    await until(lambda: herd.state("alpha") == "stopped")


@pytest.mark.parametrize("name", ["org/model-7b", "qwen:0.5b", "a b", "ümlaut", "org/sub/model:tag", "50%", "x/load"])
async def test_names_of_any_form_can_be_shown_loaded_and_unloaded(
    stage: Stage, start_herd: StartHerd, name: str
) -> None:
    stage.model(name, file="file")
    herd = await start_herd()
    path = f"/admin/models/{name.replace('%', '%25').replace(' ', '%20')}"
    assert (await herd.get(path)).json["name"] == name
    assert (await herd.post(f"{path}/load")).json["state"] == "ready"
    assert (await herd.get(f"{path}/logs")).status == 200
    assert (await herd.post(f"{path}/unload")).json["state"] == "stopped"


async def test_slash_of_a_name_may_be_escaped(stage: Stage, start_herd: StartHerd) -> None:
    stage.model("org/logs", file="file")
    herd = await start_herd()
    async with herd.session.post(escaped(herd, "/admin/models/org%2Flogs/load")) as response:
        assert (response.status, (await response.json())["name"]) == (200, "org/logs")
    # Unescaped it would be the log of the model "org".
    async with herd.session.get(escaped(herd, "/admin/models/org%2Flogs")) as response:
        assert (response.status, (await response.json())["name"]) == (200, "org/logs")


async def test_unknown_model_is_a_404_with_the_nearest_name(herd: Herd) -> None:
    for method, path in (("GET", "alpa"), ("GET", "alpa/logs"), ("POST", "alpa/unload")):
        answer = await herd.ask(method, f"/admin/models/{path}")
        assert (answer.status, answer.error["code"]) == (404, "model_not_found")
        assert answer.error["message"].endswith("did you mean alpha?")


# requests


async def test_requests_tell_who_waits_and_who_runs(
    fake: Fake, start_herd: StartHerd, make_key: Callable[..., str]
) -> None:
    key = make_key("admin")
    fake.close_gate(stream_gate=fake.stream_gate)
    herd = await start_herd()
    herd.key = key
    assert (await herd.get("/admin/requests")).json == {"requests": []}
    asking = asyncio.create_task(herd.post(CHAT, said("one two", stream=True), headers={"X-Request-ID": "mine"}))
    await until(lambda: len(herd.service.inflight) == 1)
    (waiting,) = (await herd.get("/admin/requests")).json["requests"]
    assert isinstance(waiting.pop("started"), float)
    assert isinstance(waiting.pop("key"), str)
    assert waiting == {
        "id": "mine",
        "model": "alpha",
        "route": CHAT,
        "stream": True,
        "state": "waiting",
        "leased_at": None,
        "first_byte_at": None,
        "bytes": 0,
        "tokens": 0,
    }
    fake.open_gate()
    await until(lambda: any(running.sent for running in herd.service.inflight))
    (running,) = (await herd.get("/admin/requests")).json["requests"]
    assert (running["state"], running["id"]) == ("running", "mine")
    assert running["first_byte_at"] >= running["started"]
    assert running["bytes"] > 0
    assert key not in json.dumps(running)
    fake.release_streams()
    await asking
    assert (await herd.get("/admin/requests")).json == {"requests": []}


@pytest.mark.parametrize(("method", "path"), [("DELETE", "mine"), ("POST", "mine/cancel")])
async def test_request_can_be_cancelled_while_it_waits(herd: Herd, fake: Fake, method: str, path: str) -> None:
    fake.close_gate()
    asking = asyncio.create_task(herd.post(CHAT, said("one"), headers={"X-Request-ID": "mine"}))
    await until(lambda: len(herd.service.inflight) == 1)
    answer = await herd.ask(method, f"/admin/requests/{path}")
    assert (answer.status, answer.json) == (200, {"cancelled": 1})
    cancelled = await asking
    assert (cancelled.status, cancelled.error["code"]) == (409, "request_cancelled")
    fake.open_gate()


async def test_requests_that_share_an_id_are_cancelled_together(herd: Herd, fake: Fake) -> None:
    fake.close_gate()
    asking = [herd.post(CHAT, said("one"), headers={"X-Request-ID": "twin"}) for _ in range(2)]
    both = asyncio.gather(*asking)
    await until(lambda: len(herd.service.inflight) == 2)
    assert (await herd.ask("DELETE", "/admin/requests/twin")).json == {"cancelled": 2}
    assert [answer.status for answer in await both] == [409, 409]
    fake.open_gate()


async def test_cancelling_what_is_not_there_is_a_404(herd: Herd) -> None:
    answer = await herd.ask("DELETE", "/admin/requests/none")
    assert (answer.status, answer.error["code"]) == (404, "request_not_found")


# files


async def test_reload_reads_the_models_again(stage: Stage, fake: Fake, start_herd: StartHerd) -> None:
    herd = await start_herd(storage={"watch": False})
    stage.model("beta")
    assert "beta" not in herd.service.pool.catalog
    answer = await herd.post("/admin/reload")
    assert (answer.status, answer.json) == (200, {"models": 2})
    assert (await shown(herd, "beta"))["state"] == "stopped"


async def test_reload_of_a_broken_file_is_a_400_that_names_the_place_and_changes_nothing(
    stage: Stage, fake: Fake, start_herd: StartHerd
) -> None:
    herd = await start_herd(storage={"watch": False})
    stage.models_file.write_text('{"alpha": {"params": {"model": "alpha.gguf", "ctxSize": "wide"}}}')
    answer = await herd.post("/admin/reload")
    assert (answer.status, answer.error["code"]) == (400, "invalid_request")
    assert "models.json" in answer.error["message"]
    assert "ctxSize" in answer.error["message"]
    assert (await shown(herd))["state"] == "stopped"


async def test_reload_reads_the_keys_again(fake: Fake, start_herd: StartHerd, make_key: Callable[..., str]) -> None:
    herd = await start_herd()
    key = make_key("first")
    assert (await herd.post("/admin/reload")).status == 200
    assert (await herd.get("/admin/models")).status == 401
    assert (await herd.get("/admin/models", key=key)).status == 200


@pytest.mark.parametrize(("method", "path"), [("POST", "/admin/models"), ("GET", "/admin/reload")])
async def test_wrong_method_is_a_405(herd: Herd, method: str, path: str) -> None:
    assert (await herd.ask(method, path)).status == 405
