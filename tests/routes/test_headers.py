"""Headers that every answer has, and the hosts that the service may be called by."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from manager.short_answers import SECURITY
from tests.routes.conftest import StartHerd
from tests.routes.herd import Herd, said
from tests.routes.stage import CHAT, Fake

MakeKey = Callable[..., str]


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/ping"), ("GET", "/v1/models"), ("GET", "/nowhere"), ("POST", CHAT), ("PUT", "/v1/models")],
)
async def test_answers_and_errors_tell_browsers_to_run_and_keep_nothing(herd: Herd, method: str, path: str) -> None:
    answer = await herd.ask(method, path)
    assert {name: answer.headers[name] for name in SECURITY} == SECURITY
    assert "X-Request-ID" in answer.headers
    assert "Strict-Transport-Security" not in answer.headers


async def test_streams_have_them_too_with_what_proxies_are_told(herd: Herd) -> None:
    async with herd.open("POST", CHAT, said("hi", stream=True)) as response:
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Cache-Control"] == "no-cache"
        assert "X-Request-ID" in response.headers
    async with herd.open("GET", "/status") as response:
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert "X-Request-ID" in response.headers


async def test_a_service_with_names_answers_to_them_and_to_this_machine_only(
    fake: Fake, make_key: MakeKey, start_herd: StartHerd
) -> None:
    key = make_key("k")
    herd = await start_herd(server={"allowed_hosts": ["llm.example.org", "*.home.arpa"]})
    for host in ("llm.example.org", "LLM.example.org:8000", "box.home.arpa", "localhost", "127.0.0.1:1", "[::1]"):
        assert (await herd.get("/v1/models", key=key, headers={"Host": host})).status == 200, host
    for host in ("evil.example.org", "llm.example.org.evil.example.org", "home.arpa", "192.168.1.5", "a b", "::1"):
        answer = await herd.get("/v1/models", key=key, headers={"Host": host})
        assert (answer.status, answer.error["code"]) == (421, "unknown_host"), host
    assert (await herd.get("/ping", headers={"Host": "evil.example.org"})).status == 421


async def test_without_names_a_key_is_enough(fake: Fake, make_key: MakeKey, start_herd: StartHerd) -> None:
    key = make_key("k")
    herd = await start_herd()
    assert (await herd.get("/v1/models", key=key, headers={"Host": "any.example.org"})).status == 200


OPEN = {"host": "0.0.0.0", "dangerously_serve_without_keys": True}  # noqa: S104  nothing is bound


async def test_an_open_service_answers_to_its_addresses_but_to_no_name_that_could_have_been_made_to_point_here(
    fake: Fake, start_herd: StartHerd
) -> None:
    herd = await start_herd(server=OPEN)
    for host in ("192.168.1.5:8000", "[2001:db8::1]", "localhost"):
        assert (await herd.get("/v1/models", headers={"Host": host, "Origin": f"http://{host}"})).status == 200
    for host in ("evil.example.org", "1.2.3.4.example.org", "a b"):
        assert (await herd.get("/v1/models", headers={"Host": host, "Origin": f"http://{host}"})).status == 403


async def test_an_open_service_with_names_answers_to_them_but_not_to_pages_from_elsewhere(
    fake: Fake, start_herd: StartHerd
) -> None:
    herd = await start_herd(server={**OPEN, "allowed_hosts": ["box.example.org"]})
    own = {"Host": "box.example.org", "Origin": "http://box.example.org"}
    assert (await herd.get("/v1/models", headers=own)).status == 200
    assert (await herd.get("/v1/models", headers={**own, "X-Forwarded-For": "203.0.113.5"})).status == 200
    assert (await herd.get("/v1/models", headers={**own, "Origin": "http://evil.example.org"})).status == 403
    assert (await herd.get("/v1/models", headers={"Host": "evil.example.org"})).status == 421


@pytest.mark.parametrize("name", ["X-Forwarded-For", "Forwarded", "x-real-ip"])
async def test_without_keys_nobody_gets_in_whom_a_proxy_on_this_machine_brings(herd: Herd, name: str) -> None:
    assert (await herd.get("/v1/models")).status == 200
    answer = await herd.get("/v1/models", headers={name: "203.0.113.5"})
    assert (answer.status, answer.error["type"]) == (403, "permission_error")
