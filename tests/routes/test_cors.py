"""Pages from elsewhere: off by default, and open to the origins of the settings only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.routes.conftest import StartHerd
from tests.routes.herd import Herd, said
from tests.routes.stage import CHAT, Fake

ORIGIN = "https://app.example.org"
PREFLIGHT = {
    "Origin": ORIGIN,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type",
}


def allowed(headers: Any) -> str | None:
    value: str | None = headers.get("Access-Control-Allow-Origin")
    return value


@pytest.fixture
async def open_to_page(fake: Fake, make_key: Callable[..., str], start_herd: StartHerd) -> Herd:
    """A service with a key stored and one origin allowed."""
    key = make_key("page", "inference")
    herd = await start_herd(cors={"allowed_origins": [ORIGIN]})
    herd.key = key
    return herd


async def test_by_default_no_answer_names_an_origin(
    fake: Fake, make_key: Callable[..., str], start_herd: StartHerd
) -> None:
    key = make_key("page", "inference")
    herd = await start_herd()
    herd.key = key
    answer = await herd.get("/v1/models", headers={"Origin": ORIGIN})
    assert answer.status == 200
    assert not [name for name in answer.headers if name.lower().startswith("access-control")]
    preflight = await herd.ask("OPTIONS", CHAT, headers=PREFLIGHT)
    assert preflight.status == 405
    assert allowed(preflight.headers) is None


async def test_preflight_of_an_allowed_origin_needs_no_key(open_to_page: Herd) -> None:
    open_to_page.key = None
    answer = await open_to_page.ask("OPTIONS", CHAT, headers=PREFLIGHT)
    assert (answer.status, answer.body) == (204, b"")
    assert allowed(answer.headers) == ORIGIN
    assert answer.headers["Access-Control-Allow-Methods"] == "POST"
    assert answer.headers["Access-Control-Allow-Headers"] == PREFLIGHT["Access-Control-Request-Headers"]
    assert "Origin" in answer.headers["Vary"]
    assert "Access-Control-Allow-Credentials" not in answer.headers


async def test_preflight_allows_the_headers_of_whatever_client_the_page_uses(open_to_page: Herd) -> None:
    asked = "authorization,content-type,x-stainless-lang,x-stainless-retry-count"
    answer = await open_to_page.ask("OPTIONS", CHAT, headers=PREFLIGHT | {"Access-Control-Request-Headers": asked})
    assert answer.headers["Access-Control-Allow-Headers"] == asked


async def test_preflight_that_names_no_headers_hears_of_the_usual_ones(open_to_page: Herd) -> None:
    sent = {name: value for name, value in PREFLIGHT.items() if name != "Access-Control-Request-Headers"}
    answer = await open_to_page.ask("OPTIONS", CHAT, headers=sent)
    assert "Authorization" in answer.headers["Access-Control-Allow-Headers"]


async def test_preflight_of_another_origin_is_refused(open_to_page: Herd) -> None:
    open_to_page.key = None
    answer = await open_to_page.ask("OPTIONS", CHAT, headers=PREFLIGHT | {"Origin": "https://evil.example.org"})
    assert answer.status == 401
    assert allowed(answer.headers) is None


async def test_answers_errors_and_streams_are_marked_for_the_allowed_origin(open_to_page: Herd) -> None:
    headers = {"Origin": ORIGIN}
    answers = [
        await open_to_page.get("/v1/models", headers=headers),
        await open_to_page.get("/nowhere", headers=headers),
        await open_to_page.get("/v1/models", headers=headers, key="sk-lh-wrong"),
        await open_to_page.post(CHAT, said("hi", stream=True), headers=headers),
        await open_to_page.post(CHAT, raw=b"{", headers=headers),
    ]
    assert [answer.status for answer in answers] == [200, 404, 401, 200, 400]
    assert {allowed(answer.headers) for answer in answers} == {ORIGIN}
    assert all("Origin" in answer.headers["Vary"] for answer in answers)
    exposed = [answer.headers["Access-Control-Expose-Headers"].split(", ") for answer in answers]
    assert all("X-Request-ID" in names and "Date" in names for names in exposed)


@pytest.mark.parametrize("origin", ["https://evil.example.org", "null", "https://app.example.org.evil.org"])
async def test_other_origins_get_no_mark(open_to_page: Herd, origin: str) -> None:
    assert allowed((await open_to_page.get("/v1/models", headers={"Origin": origin})).headers) is None


async def test_answers_without_origin_still_say_that_they_vary(open_to_page: Herd) -> None:
    answer = await open_to_page.get("/v1/models")
    assert allowed(answer.headers) is None
    assert "Origin" in answer.headers["Vary"]


async def test_a_star_admits_every_origin(fake: Fake, start_herd: StartHerd) -> None:
    herd = await start_herd(cors={"allowed_origins": ["*"]})
    for origin in (ORIGIN, "http://localhost:5173"):
        assert allowed((await herd.get("/v1/models", headers={"Origin": origin})).headers) == origin
