"""Ping, health and metrics, and what every answer has."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable

import pytest

from manager.catalog import Catalog
from tests.routes.conftest import StartHerd
from tests.routes.herd import Herd, until
from tests.routes.stage import CHAT, Fake, Stage

PLAIN_ROUTES = ["/models", "/chat/errors", "/chat/ask?question=hi"]


async def test_ping_says_pong(herd: Herd) -> None:
    answer = await herd.get("/ping")
    assert (answer.status, answer.body) == (200, b"pong")
    assert answer.headers["Content-Type"].startswith("text/plain")


async def test_health_names_the_default_model_and_all_models(herd: Herd) -> None:
    answer = await herd.get("/health")
    assert answer.status == 200
    assert answer.json == {"status": "ok", "default_model": "alpha", "models": ["alpha"]}


async def test_metrics_count_by_route_pattern_and_never_by_what_clients_made_up(herd: Herd) -> None:
    for path in ("/v1/models/alpha", "/v1/models/secret-made-up-name", "/also/made/up", "/ping?made=up"):
        await herd.get(path)
    answer = await herd.get("/metrics")
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    text = answer.body.decode()
    assert 'llamaherd_http_requests_total{method="GET",route="/ping",status="200"} 1.0' in text
    routes = set(re.findall(r'route="([^"]*)"', text))
    assert len(routes) == 3, "those of /ping, of /v1/models/{id}, and of all that is no route"
    assert "made" not in text


async def test_metrics_tell_how_many_requests_are_in_flight(herd: Herd, fake: Fake) -> None:
    fake.hold_streams()
    async with herd.stream("one two") as events:
        await events.token()
        text = (await herd.get("/metrics")).body
        assert b"\nllamaherd_requests_in_flight 1.0\n" in text
        assert b'llamaherd_model_requests_in_flight{model="alpha"} 1.0' in text
        fake.release_streams()
        await events.rest()
    await until(lambda: herd.service.gate.in_flight == 0)
    assert b"\nllamaherd_requests_in_flight 0.0\n" in (await herd.get("/metrics")).body


async def test_metrics_tell_of_each_model_that_was_begun_until_it_is_removed(herd: Herd, fake: Fake) -> None:
    assert b"alpha" not in (await herd.get("/metrics")).body
    await herd.chat("hi")
    text = (await herd.get("/metrics")).body
    assert b'llamaherd_model_state{model="alpha",state="ready"} 1.0' in text
    assert b'llamaherd_model_state{model="alpha",state="failed"} 0.0' in text
    herd.service.pool.replace_catalog(Catalog([], None))
    await until(lambda: herd.state("alpha") == "stopped")
    text = (await herd.get("/metrics")).body
    assert b"llamaherd_model_state{" not in text
    assert b'llamaherd_requests_total{model="alpha",outcome="ok"} 1.0' in text, "a counter stays"


async def test_metrics_tell_what_models_may_hold_by_device_and_not_how_many_there_may_be(
    fake: Fake, start_herd: StartHerd
) -> None:
    herd = await start_herd(memory={"host_budget": 10**9}, scheduling={"most_loaded": 3})
    text = (await herd.get("/metrics")).body.decode()
    room = dict(re.findall(r'^llamaherd_memory_room_bytes{device="(.*)"} (.*)$', text, re.MULTILINE))
    assert float(room["host"]) == 1e9
    total = dict(re.findall(r'^llamaherd_memory_total_bytes{device="(.*)"} (.*)$', text, re.MULTILINE))
    assert float(total["host"]) > 1e8
    assert room.keys() <= total.keys()


async def test_metrics_of_the_engines_are_told_under_their_models(herd: Herd) -> None:
    await herd.chat("hi")
    text = (await herd.get("/metrics")).body.decode()
    assert "# TYPE llamacpp:requests_processing gauge" in text
    assert 'llamacpp:requests_processing{model="alpha"} ' in text


async def test_an_engine_that_does_not_answer_holds_metrics_up_for_a_second_at_most(herd: Herd, fake: Fake) -> None:
    fake.knobs(faults_on=("/metrics",), slow_head=30.0)
    await herd.chat("hi")
    began = time.monotonic()
    text = (await herd.get("/metrics")).body
    assert time.monotonic() - began < 1.5
    assert b"llamaherd_requests_total" in text
    assert b"llamacpp:" not in text


@pytest.mark.parametrize("given", ["abc", "A-1_b.2", "x" * 64])
async def test_acceptable_request_id_comes_back(herd: Herd, given: str) -> None:
    assert (await herd.get("/ping", headers={"X-Request-ID": given})).headers["X-Request-ID"] == given


@pytest.mark.parametrize("given", ["", "x" * 65, "a b", "ä", 'a"b', "a/b", "abc,"])
async def test_other_request_ids_are_replaced(herd: Herd, given: str) -> None:
    made = (await herd.get("/ping", headers={"X-Request-ID": given})).headers["X-Request-ID"]
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,64}", made)
    assert made != given


async def test_every_answer_has_a_request_id_of_its_own(herd: Herd) -> None:
    answers = [await herd.get(path) for path in ("/ping", "/health", "/models", "/nowhere", "/v1/models/nobody")]
    answers.append(await herd.chat("hi"))
    answers.append(await herd.post(CHAT, raw=b"{"))
    ids = [answer.headers["X-Request-ID"] for answer in answers]
    assert len(set(ids)) == len(ids)


async def test_streams_carry_the_request_id_too(herd: Herd) -> None:
    for method, path, body in (
        ("GET", "/status", None),
        ("POST", CHAT, {"messages": [{"role": "user", "content": "hi"}], "stream": True}),
    ):
        async with herd.open(method, path, body, headers={"X-Request-ID": "mine"}) as response:
            assert response.headers["X-Request-ID"] == "mine"
            assert response.headers["Content-Type"].startswith("text/event-stream")
            assert response.headers["Cache-Control"] == "no-cache"
            assert response.headers["X-Accel-Buffering"] == "no"


async def test_unknown_route_is_a_404_that_names_it(herd: Herd) -> None:
    answer = await herd.get("/v1/nothing")
    assert answer.status == 404
    assert answer.error == {
        "message": "There is no route GET /v1/nothing.",
        "type": "invalid_request_error",
        "param": None,
        "code": "invalid_request",
    }


async def test_wrong_method_is_a_405_that_names_the_right_ones(herd: Herd) -> None:
    answer = await herd.get(CHAT)
    assert answer.status == 405
    assert answer.error["message"] == "/v1/chat/completions takes POST, not GET."
    assert answer.headers["Allow"] == "POST"


async def test_health_of_the_loaded_models_is_told_to_holders_of_keys(
    stage: Stage, make_key: Callable[..., str], start_herd: StartHerd
) -> None:
    stage.model("alpha")
    stage.model("beta")
    key = make_key("all")
    limited = make_key("one", models=frozenset({"beta"}))
    herd = await start_herd()
    assert (await herd.get("/v1/health")).status == 401
    assert (await herd.get("/v1/health", key=key)).json == {"status": "ok", "models": []}
    herd.key = key
    assert (await herd.chat("hi", model="alpha")).status == 200
    told = {"id": "alpha", "state": "ready", "healthy": True}
    assert (await herd.get("/v1/health", key=key)).json == {"status": "ok", "models": [told]}
    assert (await herd.get("/v1/health", key=limited)).json == {"status": "ok", "models": []}


async def test_a_model_that_does_not_answer_is_not_healthy(stage: Stage, start_herd: StartHerd) -> None:
    fake = stage.model("alpha")
    herd = await start_herd(limits={"hang_timeout": 60.0})
    await herd.chat("hi")
    os.kill(fake.starts()[-1], signal.SIGSTOP)
    try:
        answer = await herd.get("/v1/health")
    finally:
        os.kill(fake.starts()[-1], signal.SIGCONT)
    assert answer.json["status"] == "degraded"
    assert answer.json["models"][0]["healthy"] is False


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_programs_that_look_whether_anybody_is_there_find_somebody(herd: Herd, method: str) -> None:
    answer = await herd.ask(method, "/")
    assert answer.status == 200
    assert answer.body == (b"llamaherd is running" if method == "GET" else b"")


async def test_what_ollama_has_and_we_have_not_is_told_in_its_words(herd: Herd) -> None:
    answer = await herd.post("/api/create", {"model": "x"})
    assert answer.status == 404
    assert answer.error == "There is no route POST /api/create."
