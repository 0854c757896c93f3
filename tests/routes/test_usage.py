"""GET /admin/usage: the handler, on an application with nothing else."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from manager.auth import KeyStore
from manager.errors import HerdError
from manager.inflight import Tokens
from manager.service import SERVICE, Service
from manager.usage import Usage
from routes.errors import error_response
from routes.usage import usage as handler
from tests.routes.conftest import outside

Client = TestClient[web.Request, web.Application]
COUNTS = ("requests", "errors", "prompt_tokens", "cached_tokens", "completion_tokens")


@pytest.fixture
def usage(tmp_path: Path) -> Usage:
    return Usage(tmp_path / "usage.sqlite", 400, write_every=1000)  # at the end


@pytest.fixture
def keys(tmp_path: Path) -> KeyStore:
    return KeyStore(tmp_path / "keys.json")


@pytest.fixture
async def client(usage: Usage, keys: KeyStore) -> AsyncIterator[Client]:
    @web.middleware
    async def errors(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        try:
            return await handler(request)
        except HerdError as error:
            return error_response(error)

    app = web.Application(middlewares=[errors])
    app[SERVICE] = cast(Service, SimpleNamespace(usage=usage, keys=keys))  # all that it looks at
    app.router.add_get("/admin/usage", handler)
    async with usage.kept(), TestClient(TestServer(app)) as client:
        yield client


async def ask(client: Client, **query: str) -> tuple[int, Any]:
    async with client.get("/admin/usage", params=query) as response:
        return response.status, await response.json()


async def test_answer_has_what_is_not_in_the_file_yet(client: Client, usage: Usage, keys: KeyStore) -> None:
    _, key = outside(lambda: keys.create("web", "", {"inference"}))
    usage.add(key.id, "alpha", Tokens(10, 4, 3), ok=True)
    usage.add("99999999", "alpha", None, ok=False)
    status, told = await ask(client)
    assert status == 200
    assert sorted(told["rows"], key=lambda row: bool(row["name"])) == [
        {"key": "99999999", "name": None, "model": "alpha", **dict(zip(COUNTS, (1, 1, 0, 0, 0), strict=True))},
        {"key": key.id, "name": "web", "model": "alpha", **dict(zip(COUNTS, (1, 0, 10, 4, 3), strict=True))},
    ]
    assert told["total"] == dict(zip(COUNTS, (2, 1, 10, 4, 3), strict=True))
    assert list(told) == ["since", "until", "rows", "total"]


async def test_answer_is_about_the_last_thirty_days_where_nothing_is_said(client: Client) -> None:
    _, told = await ask(client)
    assert told["until"] >= time.strftime("%Y-%m-%dT%H:%M", time.gmtime(time.time() - 5))
    assert told["since"][:10] == time.strftime("%Y-%m-%d", time.gmtime(time.time() - 30 * 86_400))


async def test_query_chooses_and_groups(client: Client, usage: Usage) -> None:
    for key in ("11111111", "22222222", None):
        for model in ("alpha", "beta"):
            usage.add(key, model, None, ok=True)
    _, told = await ask(client, by="model", key="11111111", since="24h")
    assert [(row["model"], row["requests"]) for row in told["rows"]] == [("alpha", 1), ("beta", 1)]
    assert "key" not in told["rows"][0]
    _, told = await ask(client, by="key,day", model="beta")
    assert [row["key"] for row in told["rows"]] == ["-", "11111111", "22222222"]
    _, told = await ask(client, until="2020-01-01", since="2019-12-31")
    assert told["rows"] == []


@pytest.mark.parametrize(
    ("name", "value"), [("since", "soon"), ("until", ""), ("by", "week"), ("key", "no such name"), ("modle", "alpha")]
)
async def test_wrong_value_or_field_is_a_400_that_names_the_field(client: Client, name: str, value: str) -> None:
    status, told = await ask(client, **{name: value})
    assert (status, told["error"]["param"], told["error"]["code"]) == (400, name, "invalid_request")
    assert f"'{name}'" in told["error"]["message"] or value in told["error"]["message"]
