"""Bodies that are still coming when their sender's key ends: the key is judged again when they are there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from aiohttp import web

from routes import body
from tests.routes.conftest import outside
from tests.routes.herd import Answer, Herd
from tests.routes.stage import CHAT, Fake, Stage

MakeKey = Callable[..., str]
KEYS = "/admin/keys"
WAYS = {
    "a key": ("POST", KEYS, b'{"name": "back door", "scopes": ["admin"]}'),
    "models.json": ("PUT", "/admin/models-file", b'{"text": "{}", "version": "none"}'),
    "a load": ("POST", "/loadModel", b'{"model": "alpha"}'),
    "a route of the engine": ("POST", "/upstream/alpha/tokenize", b'{"content": "hi"}'),
    "a chat": ("POST", CHAT, b'{"messages": [{"role": "user", "content": "hi"}]}'),
}
every_way = pytest.mark.parametrize(("method", "path", "raw"), WAYS.values(), ids=WAYS)


@dataclass
class Held:
    """A body of which only the first byte comes before `go_on`."""

    waited_for: asyncio.Event
    go_on: asyncio.Event

    async def ask(
        self, herd: Herd, method: str, path: str, raw: bytes, then: Callable[[], Awaitable[Any]], **more: Any
    ) -> Answer:
        """The answer to a request that was let in before `then`, and whose body is whole after that only."""

        async def sent() -> AsyncIterator[bytes]:
            yield raw[:1]
            await self.go_on.wait()
            yield raw[1:]

        asking = asyncio.create_task(herd.ask(method, path, raw=sent(), **more))
        await self.waited_for.wait()
        await then()
        self.go_on.set()
        return await asking


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Held:
    held = Held(asyncio.Event(), asyncio.Event())
    read_on = body._read_on

    async def noted(request: web.Request, seconds: float) -> bytes:
        held.waited_for.set()
        return await read_on(request, seconds)

    monkeypatch.setattr(body, "_read_on", noted)
    return held


async def other_key(herd: Herd) -> dict[str, Any]:
    made: dict[str, Any] = (await herd.post(KEYS, {"name": "goes", "scopes": ["admin", "inference"]})).json
    return made


@every_way
async def test_a_key_that_is_revoked_meanwhile_does_nothing(
    ruled: Herd, fake: Fake, held: Held, method: str, path: str, raw: bytes
) -> None:
    key = await other_key(ruled)
    answer = await held.ask(
        *(ruled, method, path, raw), lambda: ruled.ask("DELETE", f"{KEYS}/{key['id']}"), key=key["key"]
    )
    assert answer.status == 401
    assert "Incorrect API key provided." in answer.body.decode()
    assert [one["name"] for one in (await ruled.get(KEYS)).json["keys"]] == ["boss"]
    assert fake.starts() == []


@every_way
async def test_a_key_that_loses_a_scope_meanwhile_does_nothing(
    ruled: Herd, fake: Fake, held: Held, method: str, path: str, raw: bytes
) -> None:
    key = await other_key(ruled)
    scopes = ["admin"] if path == CHAT else ["inference"]
    answer = await held.ask(
        *(ruled, method, path, raw),
        lambda: ruled.ask("PATCH", f"{KEYS}/{key['id']}", {"scopes": scopes}),
        key=key["key"],
    )
    assert answer.status == 403
    assert fake.starts() == []


@every_way
async def test_nobody_without_a_key_does_anything_once_there_is_one(
    herd: Herd, stage: Stage, fake: Fake, held: Held, method: str, path: str, raw: bytes
) -> None:
    answer = await held.ask(*(herd, method, path, raw), lambda: herd.post(KEYS, {"name": "first", "scopes": ["admin"]}))
    assert answer.status == 401
    assert "needs an API key" in answer.body.decode()
    assert "back door" not in outside(stage.keys_file.read_text)
    assert fake.starts() == []


async def test_a_body_that_comes_late_is_answered_as_any(ruled: Herd, held: Held) -> None:
    async def nothing() -> None: ...

    method, path, raw = WAYS["a chat"]
    assert (await held.ask(ruled, method, path, raw, nothing)).text == "hi"
