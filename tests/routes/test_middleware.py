"""Who may call which route: keys, scopes, and keys that change while the service runs."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import pytest

from manager.auth import KeyStore
from routes import ROUTES
from routes.callers import ANY
from routes.errors import ErrorForm, anthropic_error, plain_error
from routes.middleware import Access
from tests.routes.conftest import StartHerd, outside
from tests.routes.herd import Answer, Herd, until
from tests.routes.stage import Fake, Stage

MakeKey = Callable[..., str]
# A URL for each pattern, without a body: what is refused is refused before anything is read or loaded.
QUERIES = {"/props": "?autoload=false"}
ALL = [
    (method, re.sub(r"{\w+[^}]*}", "nobody", path) + QUERIES.get(path, ""), access)
    for method, path, _, access, *_ in ROUTES
]
CLOSED = [row for row in ALL if row[2].scope is not None]
OPEN = [row for row in ALL if row[2].scope is None]
every_closed_route = pytest.mark.parametrize(
    ("method", "path", "access"), CLOSED, ids=[f"{method} {path}" for method, path, _ in CLOSED]
)


def test_only_pages_ping_health_and_the_documentation_are_open() -> None:
    web_app = ["/", "/assets/nobody", "/icon.svg", "/manifest.webmanifest", "/licenses.md"]
    assert [path for _, path, _ in OPEN] == [
        *web_app,
        "/ping",
        "/health",
        "/openapi.json",
        "/docs",
        "/docs/nobody",
        "/redoc",
    ]


def test_what_changes_state_or_tells_of_others_needs_admin() -> None:
    admin = {(method, path) for method, path, access in ALL if access.scope == "admin"}
    others = {(method, path) for method, path in admin if not path.startswith(("/admin/", "/upstream/"))}
    loading = {("POST", "/loadModel"), ("GET", "/unloadModel"), ("POST", "/unloadModel")}
    assert others == {("GET", "/metrics"), ("POST", "/api/pull"), *loading}
    assert {path for _, path, access in ALL if access.scope != "admin" and path.startswith("/admin")} == set()


@pytest.fixture
async def guarded(fake: Fake, make_key: MakeKey, start_herd: StartHerd) -> Herd:
    """A service with one key stored, which the requests don't send."""
    make_key("admin")
    return await start_herd()


def text_of_error(answer: Answer, form: ErrorForm) -> str:
    """The message, after a look at the error's shape."""
    if form is anthropic_error:
        assert answer.json == {"type": "error", "error": answer.error}
    else:
        assert list(answer.json) == ["error"]
    if form is plain_error:
        assert isinstance(answer.error, str)
        return answer.error
    assert set(answer.error) == {"message", "type", "param", "code"}
    return str(answer.error["message"])


@every_closed_route
async def test_without_a_key_is_401(guarded: Herd, method: str, path: str, access: Access) -> None:
    answer = await guarded.ask(method, path)
    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="llamaherd"'
    assert "X-Request-ID" in answer.headers
    assert "API key" in text_of_error(answer, access.errors)


@every_closed_route
async def test_with_a_wrong_key_is_401_and_does_not_say_the_key(
    guarded: Herd, method: str, path: str, access: Access
) -> None:
    answer = await guarded.ask(method, path, key="sk-lh-wrong")
    assert answer.status == 401
    assert "WWW-Authenticate" in answer.headers
    assert text_of_error(answer, access.errors) == "Incorrect API key provided."


@every_closed_route
async def test_the_scope_decides(
    fake: Fake, make_key: MakeKey, start_herd: StartHerd, method: str, path: str, access: Access
) -> None:
    keys = {name: make_key(name, name) for name in ("inference", "admin")}
    herd = await start_herd()
    for name, key in keys.items():
        async with herd.open(method, path, key=key) as response:  # /status has no end
            if access.scope in (name, ANY):
                assert response.status not in {401, 403}
            else:
                assert response.status == 403
                answer = Answer(403, response.headers, await response.read())
                assert text_of_error(answer, access.errors) == (f"This API key lacks the scope '{access.scope}'.")
    assert fake.starts() == []


async def test_wrong_keys_have_the_openai_object_with_its_code(guarded: Herd, make_key: MakeKey) -> None:
    answer = await guarded.get("/v1/models", key="sk-lh-wrong")
    assert answer.error == {
        "message": "Incorrect API key provided.",
        "type": "authentication_error",
        "param": None,
        "code": "invalid_api_key",
    }


async def test_missing_scope_has_the_openai_object_with_its_code(
    fake: Fake, make_key: MakeKey, start_herd: StartHerd
) -> None:
    key = make_key("admin only", "admin")
    answer = await (await start_herd()).get("/v1/models", key=key)
    assert (answer.error["type"], answer.error["code"]) == ("permission_error", "insufficient_scope")


async def test_expired_key_is_401(fake: Fake, stage: Stage, make_key: MakeKey, start_herd: StartHerd) -> None:
    key = make_key("short", expires=time.time() + 3600)
    text = stage.keys_file.read_text()
    expires = next(line for line in text.splitlines() if '"expires"' in line)
    stage.keys_file.write_text(text.replace(expires, '"expires": "2020-01-01T00:00:00Z",'))
    herd = await start_herd()
    answer = await herd.get("/v1/models", key=key)
    assert answer.status == 401
    assert answer.error["message"] == "This API key has expired."
    assert (await herd.get("/v1/models")).status == 401, "an expired key does not open the service"


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", "Basic dXNlcjpwYXNz", "sk-lh-raw", "Bearer sk-lh-ä", "Bearer a b"]
)
async def test_malformed_authorization_is_401(guarded: Herd, header: str) -> None:
    answer = await guarded.get("/v1/models", headers={"Authorization": header})
    assert answer.status == 401
    assert answer.error["code"] == "invalid_api_key"


async def test_the_word_bearer_is_read_in_any_case(fake: Fake, make_key: MakeKey, start_herd: StartHerd) -> None:
    key = make_key("k")
    herd = await start_herd()
    for word in ("Bearer", "bearer", "BEARER"):
        assert (await herd.get("/v1/models", headers={"Authorization": f"{word} {key}"})).status == 200


async def test_unknown_routes_need_a_key_too(guarded: Herd) -> None:
    assert (await guarded.get("/nowhere")).status == 401


async def test_ping_and_health_need_no_key_but_names_do(fake: Fake, make_key: MakeKey, start_herd: StartHerd) -> None:
    key = make_key("k", "inference")
    herd = await start_herd()
    assert (await herd.get("/ping")).status == 200
    hidden: dict[str, object] = {"status": "ok", "default_model": None, "models": []}
    assert (await herd.get("/health")).json == hidden
    wrong = await herd.get("/health", key="sk-lh-wrong")
    assert (wrong.status, wrong.json) == (200, hidden)
    assert (await herd.get("/health", key=key)).json == {
        "status": "ok",
        "default_model": "alpha",
        "models": ["alpha"],
    }


async def test_without_keys_everything_is_open_on_loopback(herd: Herd) -> None:
    assert (await herd.get("/v1/models")).status == 200
    assert (await herd.get("/metrics")).status == 200
    assert (await herd.get("/v1/models", key="sk-lh-any")).status == 200


async def test_key_made_while_running_counts_at_once_and_is_asked_for_from_then_on(
    herd: Herd, make_key: MakeKey
) -> None:
    assert (await herd.get("/models")).status == 200
    key = make_key("late")
    await until(lambda: herd.service.keys_required)
    assert (await herd.get("/models")).status == 401
    assert (await herd.get("/models", key=key)).status == 200


async def test_revoked_key_is_refused_at_once_and_the_last_one_does_not_open_the_service(
    fake: Fake, stage: Stage, make_key: MakeKey, start_herd: StartHerd
) -> None:
    key = make_key("only")
    herd = await start_herd()
    assert (await herd.get("/models", key=key)).status == 200
    outside(lambda: KeyStore(stage.keys_file).revoke("only"))
    await until(lambda: not len(herd.service.keys))
    assert (await herd.get("/models", key=key)).status == 401
    assert (await herd.get("/models")).status == 401


async def test_broken_or_missing_keys_file_leaves_the_old_keys_valid(
    fake: Fake, stage: Stage, make_key: MakeKey, start_herd: StartHerd, caplog: pytest.LogCaptureFixture
) -> None:
    key = make_key("old")
    herd = await start_herd()
    stage.keys_file.write_text("{ not json")
    await until(lambda: "not read again" in caplog.text)
    assert (await herd.get("/models", key=key)).status == 200
    caplog.clear()
    stage.keys_file.unlink()
    await until(lambda: "not read again" in caplog.text)
    assert (await herd.get("/models", key=key)).status == 200
    assert (await herd.get("/models")).status == 401


async def test_keys_file_in_a_folder_of_its_own_is_followed(fake: Fake, stage: Stage, start_herd: StartHerd) -> None:
    keys_file = stage.folder / "elsewhere" / "keys.json"
    herd = await start_herd(storage={"keys_file": keys_file})
    outside(lambda: KeyStore(keys_file).create("late", "", ["inference"]))
    await until(lambda: herd.service.keys_required)
