"""Ping, health and metrics, and what every answer has."""

from __future__ import annotations

import re

import pytest

from tests.routes.herd import Herd
from tests.routes.stage import CHAT

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


async def test_metrics_tell_how_many_requests_are_in_flight(herd: Herd, fake: object) -> None:
    await herd.chat("hi")
    assert b"llamaherd_requests_in_flight 0.0" in (await herd.get("/metrics")).body


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
