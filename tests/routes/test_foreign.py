"""A service without keys is for this machine's programs and pages, not for pages from elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from routes import ROUTES
from routes.pattern import plain_path
from tests.routes.conftest import StartHerd
from tests.routes.herd import Answer, Herd, said
from tests.routes.stage import CHAT, Fake, Stage

PAGE = "https://app.example.org"
LOCAL_HOSTS = [
    "localhost",
    "localhost:8000",
    "LOCALHOST:1",
    "127.0.0.1",
    "127.0.0.1:8000",
    "127.9.8.7:80",
    "[::1]",
    "[::1]:8000",
]
FOREIGN_HOSTS = [
    "evil.example.org",
    "evil.example.org:8000",
    "localhost.evil.example.org",
    "127.0.0.1.evil.example.org",
    "192.168.1.5:8000",
    "0.0.0.0:8000",
    "[::1].evil.example.org",
    "[2001:db8::1]",
    "localhost:80:80",
    "localhost:",
    "user@localhost",
    "::1",
]


async def ask(herd: Herd, headers: Mapping[str, str]) -> Answer:
    return await herd.get("/v1/models", headers=headers)


@pytest.mark.parametrize("host", LOCAL_HOSTS)
async def test_names_of_this_machine_are_answered(herd: Herd, host: str) -> None:
    assert (await ask(herd, {"Host": host})).status == 200
    assert (await ask(herd, {"Origin": f"http://{host}"})).status == 200


@pytest.mark.parametrize("host", FOREIGN_HOSTS)
async def test_other_names_are_refused(herd: Herd, host: str) -> None:
    answer = await ask(herd, {"Host": host})
    assert (answer.status, answer.error["type"]) == (403, "permission_error")
    assert "localhost" in answer.error["message"]
    assert (await ask(herd, {"Origin": f"http://{host}"})).status == 403


@pytest.mark.parametrize("origin", [PAGE, "null", "", "localhost", "file://", "chrome-extension://abc"])
async def test_pages_from_elsewhere_are_refused(herd: Herd, fake: Fake, origin: str) -> None:
    answer = await herd.post(CHAT, said("hi"), headers={"Origin": origin})
    assert answer.status == 403
    assert "cors.allowed_origins" in answer.error["message"]
    assert fake.starts() == []


@pytest.mark.parametrize(
    ("site", "status"), [("cross-site", 403), ("same-site", 200), ("same-origin", 200), ("none", 200)]
)
async def test_what_browsers_fetch_for_another_site_is_refused(herd: Herd, site: str, status: int) -> None:
    assert (await ask(herd, {"Sec-Fetch-Site": site})).status == status


FIRST = {"name": "planted", "scopes": ["admin"]}
ACTIONS = [(method, path) for method, path, _, access, *_ in ROUTES if access.audited]


@pytest.mark.parametrize(("method", "path"), ACTIONS)
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://localhost:3000"},
        {"Origin": "http://127.0.0.1", "Content-Type": "text/plain"},
        {"Origin": "http://localhost:3000", "Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
async def test_pages_of_other_ports_of_this_machine_can_not_administer(
    herd: Herd, stage: Stage, method: str, path: str, headers: dict[str, str]
) -> None:
    path = plain_path(path).replace("{id}", "alpha")
    answer = await herd.ask(method, path, None if method == "GET" else FIRST, headers=headers)
    assert answer.status == 403
    assert "cors.allowed_origins" in str(answer.error)
    assert not stage.keys_file.exists()
    await herd.server.close()
    assert (stage.data / "audit.log").read_bytes() == b""  # or they could fill it


async def test_an_origin_with_the_name_of_this_service_but_another_scheme_is_another_page(herd: Herd) -> None:
    own = herd.server.make_url("/").authority
    headers = {"Origin": f"https://{own}", "Sec-Fetch-Site": "same-site"}
    assert (await herd.post("/admin/keys", FIRST, headers=headers)).status == 403


@pytest.mark.parametrize("browser", [{}, {"Sec-Fetch-Site": "same-origin"}])
async def test_its_own_page_makes_the_first_key(herd: Herd, browser: dict[str, str]) -> None:
    own = herd.server.make_url("/").authority
    headers = {"Origin": f"http://{own}", **browser}
    assert (await herd.post("/unloadModel", headers=headers)).status == 200
    assert (await herd.post("/admin/keys", FIRST, headers=headers)).status == 201


async def test_a_page_of_the_settings_makes_the_first_key(fake: Fake, start_herd: StartHerd) -> None:
    herd = await start_herd(cors={"allowed_origins": ["http://localhost:3000"]})
    headers = {"Origin": "http://localhost:3000", "Sec-Fetch-Site": "same-site"}
    assert (await herd.post("/admin/keys", FIRST, headers=headers)).status == 201


async def test_every_route_refuses_them(herd: Herd, fake: Fake) -> None:
    for method, path, *_ in ROUTES:
        for headers in ({"Origin": PAGE}, {"Host": "evil.example.org"}):
            assert (await herd.ask(method, path.replace("{id:.+}", "alpha"), headers=headers)).status == 403, path
    assert (await herd.ask("OPTIONS", CHAT, headers={"Origin": PAGE})).status == 403
    assert fake.starts() == []


async def test_pages_of_the_settings_are_answered(fake: Fake, start_herd: StartHerd) -> None:
    herd = await start_herd(cors={"allowed_origins": [PAGE]})
    assert (await ask(herd, {"Origin": PAGE, "Sec-Fetch-Site": "cross-site"})).status == 200
    assert (await ask(herd, {"Origin": "https://evil.example.org"})).status == 403
    assert (await ask(herd, {"Origin": PAGE, "Host": "evil.example.org"})).status == 403


async def test_a_star_admits_every_page_but_no_other_name(fake: Fake, start_herd: StartHerd) -> None:
    herd = await start_herd(cors={"allowed_origins": ["*"]})
    assert (await ask(herd, {"Origin": PAGE})).status == 200
    assert (await ask(herd, {"Sec-Fetch-Site": "cross-site"})).status == 200
    assert (await ask(herd, {"Host": "evil.example.org"})).status == 403


async def test_with_keys_the_key_decides(fake: Fake, make_key: Callable[..., str], start_herd: StartHerd) -> None:
    key = make_key("k")
    herd = await start_herd()
    for headers in ({"Origin": PAGE}, {"Host": "herd.example.org"}, {"Sec-Fetch-Site": "cross-site"}):
        assert (await ask(herd, headers)).status == 401
        assert (await herd.get("/v1/models", key=key, headers=headers)).status == 200


@pytest.mark.parametrize("path", ["/", "/docs", "/redoc"])
async def test_pages_from_elsewhere_may_have_links_to_the_pages_of_this_service(herd: Herd, path: str) -> None:
    followed = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Accept": "text/html"}
    assert (await herd.get(path, headers=followed)).status == 200
    assert (await herd.get(path, headers={**followed, "Sec-Fetch-Mode": "no-cors"})).status == 403


async def test_a_link_from_elsewhere_does_nothing_to_the_service(herd: Herd, fake: Fake) -> None:
    followed = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    for path in ("/unloadModel", "/chat/ask?question=hi", "/v1/models", "/health"):
        assert (await herd.get(path, headers=followed)).status == 403, path
    assert not fake.starts()
