"""Keys over HTTP: what the caller's own is for, and what administrators do with all of them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any, Final

import pytest
from filelock import FileLock

from manager.auth import PREFIX, KeyStore
from routes.schema.keys import Caller, Keys, MadeKey
from tests.routes.conftest import StartHerd, outside
from tests.routes.herd import Answer, Herd, said, until
from tests.routes.stage import CHAT, Fake, Stage
from tests.routes.test_admin_events import reading

MakeKey = Callable[..., str]
DAY: Final = 86_400.0
LIMITS: Final[dict[str, Any]] = {
    "models": ["alpha", "not here yet"],
    "requests_per_minute": 60,
    "tokens_per_day": 1_000,
    "at_once": 4,
}


async def listed(herd: Herd, **more: Any) -> dict[str, Any]:
    """All keys by name."""
    answer = await herd.get("/admin/keys", **more)
    assert answer.status == 200, answer.body
    Keys.model_validate(answer.json)
    return {key["name"]: key for key in answer.json["keys"]}


async def made(herd: Herd, name: str, **fields: Any) -> dict[str, Any]:
    answer = await herd.post("/admin/keys", {"name": name, **fields})
    assert answer.status == 201, answer.body
    key: dict[str, Any] = answer.json
    return key


async def id_of(herd: Herd, name: str) -> str:
    return str((await listed(herd))[name]["id"])


def refused(answer: Answer) -> tuple[int, str, str | None]:
    return answer.status, answer.error["code"], answer.error["param"]


# GET /v1/key


async def test_without_keys_the_caller_may_do_everything(herd: Herd) -> None:
    answer = await herd.get("/v1/key")
    Caller.model_validate(answer.json)
    assert answer.status == 200
    assert answer.json["version"]
    told = {name: value for name, value in answer.json.items() if name != "version"}
    assert told == {"keys_required": False, "scopes": ["inference", "admin"], "key": None}


@pytest.mark.parametrize("scopes", [["inference"], ["admin"], ["inference", "admin"]])
async def test_every_key_is_told_what_it_is_for(
    fake: Fake, make_key: MakeKey, start_herd: StartHerd, scopes: list[str]
) -> None:
    expires = float(int(time.time() + DAY))
    key = make_key("web", *scopes, expires=expires, **LIMITS)
    answer = await (await start_herd()).get("/v1/key", key=key)
    assert answer.status == 200
    assert (answer.json["keys_required"], answer.json["scopes"]) == (True, scopes)
    shown = answer.json["key"]
    assert shown.pop("id")
    assert shown == {"name": "web", "expires": expires, **LIMITS}


async def test_nobody_without_a_valid_key_is_told(fake: Fake, make_key: MakeKey, start_herd: StartHerd) -> None:
    make_key("boss")
    herd = await start_herd()
    for key in (None, "sk-lh-wrong"):
        assert (await herd.get("/v1/key", key=key)).status == 401


# making


async def test_a_key_is_shown_when_it_is_made_and_never_again(stage: Stage, ruled: Herd) -> None:
    expires = float(int(time.time() + DAY))
    asked = {"name": "web", "description": "the web app", "priority": 3, "expires": expires, **LIMITS}
    answer = await ruled.post("/admin/keys", asked)
    assert answer.status == 201
    MadeKey.model_validate(answer.json)
    token, shown = answer.json["key"], {name: value for name, value in answer.json.items() if name != "key"}
    assert token.startswith(PREFIX)
    assert answer.headers["Location"] == f"/admin/keys/{shown['id']}"
    assert asked.items() <= shown.items()
    assert (shown["scopes"], shown["current"], shown["tokens_today"]) == (["inference"], False, 0)
    assert (shown["last_used"], shown["former_until"]) == (None, None)
    assert (await ruled.get(answer.headers["Location"])).json == shown == (await listed(ruled))["web"]
    assert (await ruled.get("/v1/models", key=token)).status == 200
    assert token not in (await ruled.get("/admin/keys")).body.decode()
    assert token not in outside(stage.keys_file.read_text)


async def test_the_key_that_asks_and_what_was_used_are_told(ruled: Herd) -> None:
    assert (await ruled.chat("hi")).status == 200
    boss = (await listed(ruled))["boss"]
    assert boss["current"]
    assert boss["tokens_today"] > 0
    assert boss["last_used"] == pytest.approx(time.time(), abs=60)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "name"),
        ({"name": ""}, "name"),
        ({"name": "x\ny"}, "name"),
        ({"name": "boss"}, "name"),
        ({"name": "x", "description": "y" * 501}, "description"),
        ({"name": "x", "scopes": []}, "scopes"),
        ({"name": "x", "scopes": ["inference", "root"]}, "scopes[1]"),
        ({"name": "x", "expires": 1.0}, "expires"),
        ({"name": "x", "expires": 1e300}, "expires"),
        ({"name": "x", "expires": "tomorrow"}, "expires"),
        ({"name": "x", "priority": 101}, "priority"),
        ({"name": "x", "models": []}, "models"),
        ({"name": "x", "models": "alpha"}, "models"),
        ({"name": "x", "models": [f"m{n}" for n in range(1_001)]}, "models"),
        ({"name": "x", "models": ["a", "b" * 201]}, "models[1]"),
        ({"name": "x", "requests_per_minute": 0}, "requests_per_minute"),
        ({"name": "x", "tokens_per_day": 1.5}, "tokens_per_day"),
        ({"name": "x", "at_once": True}, "at_once"),
        ({"name": "x", "request_per_minute": 5}, "request_per_minute"),  # or it would have no limit
    ],
)
async def test_what_a_key_can_not_be_is_refused_with_the_field(ruled: Herd, fields: Any, param: str) -> None:
    answer = await ruled.post("/admin/keys", fields)
    assert refused(answer) == (400, "invalid_request", param)
    assert list(await listed(ruled)) == ["boss"]


async def test_a_name_is_free_again_when_its_key_has_expired(ruled: Herd, monkeypatch: pytest.MonkeyPatch) -> None:
    await made(ruled, "web", expires=time.time() + DAY)
    monkeypatch.setattr(ruled.service.keys, "_clock", lambda: time.time() + 2 * DAY)
    await made(ruled, "web")


# the first one


async def test_the_first_key_is_asked_for_at_once(herd: Herd) -> None:
    for fields, param in (({}, "scopes"), ({"scopes": ["admin"], "expires": time.time() + DAY}, "expires")):
        answer = await herd.post("/admin/keys", {"name": "first", **fields})
        assert refused(answer) == (400, "invalid_request", param)
    assert (await herd.get("/admin/keys")).json == {"keys": []}
    first = await made(herd, "first", scopes=["inference", "admin"])
    assert (await herd.get("/admin/keys")).status == 401
    assert (await herd.chat("hi")).status == 401
    herd.key = first["key"]
    assert (await herd.get("/v1/key")).json["key"]["id"] == first["id"]
    assert (await listed(herd))["first"]["current"]


async def test_it_is_asked_for_also_where_its_client_has_left(herd: Herd, monkeypatch: pytest.MonkeyPatch) -> None:
    writing, go_on = asyncio.Event(), asyncio.Event()
    loop, store = asyncio.get_running_loop(), herd.service.keys
    create = store.create

    def slow(*arguments: Any, **more: Any) -> Any:
        loop.call_soon_threadsafe(writing.set)
        asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result()
        return create(*arguments, **more)

    monkeypatch.setattr(store, "create", slow)
    asking = asyncio.create_task(herd.post("/admin/keys", {"name": "first", "scopes": ["admin"]}))
    await writing.wait()
    asking.cancel()
    await asyncio.wait({asking})
    assert (await herd.get("/v1/models")).status == 200
    go_on.set()
    await until(lambda: herd.service.keys_required)
    assert (await herd.get("/v1/models")).status == 401


async def test_feeds_opened_without_a_key_end_with_the_first_one(herd: Herd) -> None:
    async with reading(herd) as reader:
        await reader.next()
        await made(herd, "first", scopes=["admin"])
        async with asyncio.timeout(5):
            while await reader.next():
                pass


async def test_a_first_key_of_the_command_line_is_asked_for_whoever_has_read_it(stage: Stage, herd: Herd) -> None:
    outside(lambda: KeyStore(stage.keys_file).create("by hand", "", ["admin"]))
    assert (await herd.ask("DELETE", "/admin/keys/0")).status in {401, 404}  # reads the file
    await until(lambda: herd.service.keys_required)


# changing


async def test_a_change_counts_from_the_next_request_on(ruled: Herd) -> None:
    web = await made(ruled, "web", **LIMITS)
    path = f"/admin/keys/{web['id']}"
    answer = await ruled.ask("PATCH", path, {"models": ["beta"], "scopes": ["inference", "admin"]})
    assert answer.status == 200
    assert (answer.json["models"], answer.json["scopes"]) == (["beta"], ["inference", "admin"])
    assert (answer.json["at_once"], answer.json["name"]) == (4, "web")
    assert refused(await ruled.post(CHAT, said("hi"), key=web["key"])) == (403, "model_not_allowed", "model")
    assert (await ruled.get("/admin/models", key=web["key"])).status == 200


async def test_null_takes_limits_away_and_leaves_the_rest(ruled: Herd) -> None:
    limits = {**LIMITS, "expires": time.time() + DAY}
    web = await made(ruled, "web", description="mine", priority=2, **limits)
    nothing = dict.fromkeys((*limits, "description", "scopes", "priority"))
    answer = await ruled.ask("PATCH", f"/admin/keys/{web['id']}", nothing)
    assert {name: answer.json[name] for name in limits} == dict.fromkeys(limits)
    assert (answer.json["description"], answer.json["scopes"], answer.json["priority"]) == ("mine", ["inference"], 2)


async def test_a_change_of_nothing_writes_nothing(stage: Stage, ruled: Herd) -> None:
    before = outside(stage.keys_file.read_bytes)
    boss = (await listed(ruled))["boss"]
    assert (await ruled.ask("PATCH", f"/admin/keys/{boss['id']}", {})).json == boss
    assert outside(stage.keys_file.read_bytes) == before


@pytest.mark.parametrize(
    ("fields", "param"),
    [({"name": "x"}, "name"), ({"at_onze": 1}, "at_onze"), ({"at_once": 0}, "at_once"), ({"scopes": []}, "scopes")],
)
async def test_what_can_not_be_changed_is_refused_with_the_field(ruled: Herd, fields: Any, param: str) -> None:
    answer = await ruled.ask("PATCH", f"/admin/keys/{await id_of(ruled, 'boss')}", fields)
    assert refused(answer) == (400, "invalid_request", param)


async def test_an_expired_key_lives_again_unless_its_name_is_taken(
    ruled: Herd, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = await made(ruled, "web", expires=time.time() + DAY)
    monkeypatch.setattr(ruled.service.keys, "_clock", lambda: time.time() + 2 * DAY)
    path = f"/admin/keys/{old['id']}"
    assert refused(await ruled.post(f"{path}/rotate")) == (400, "invalid_request", "id")
    assert (await ruled.get("/v1/models", key=old["key"])).status == 401
    new = await made(ruled, "web")
    taken = await ruled.ask("PATCH", path, {"expires": None})
    assert refused(taken) == (400, "invalid_request", "expires")
    assert new["id"] in taken.error["message"]
    assert (await ruled.ask("DELETE", f"/admin/keys/{new['id']}")).status == 200
    assert (await ruled.ask("PATCH", path, {"expires": None})).status == 200
    assert (await ruled.get("/v1/models", key=old["key"])).status == 200


# replacing


async def test_a_replaced_key_is_valid_for_as_long_as_was_asked(ruled: Herd) -> None:
    web = await made(ruled, "web", **LIMITS)
    path = f"/admin/keys/{web['id']}/rotate"
    second = (await ruled.post(path)).json
    MadeKey.model_validate(second)
    assert second["former_until"] == pytest.approx(time.time() + DAY, abs=60)
    for field in ("id", "name", *LIMITS):
        assert second[field] == web[field], field
    third = (await ruled.post(path, {"overlap": 0})).json
    assert third["former_until"] is None
    outcomes = [(await ruled.get("/v1/models", key=key["key"])).status for key in (web, second, third)]
    assert outcomes == [401, 401, 200]


async def test_a_key_replaces_itself(ruled: Herd) -> None:
    answer = await ruled.post(f"/admin/keys/{await id_of(ruled, 'boss')}/rotate", {"overlap": 60})
    assert answer.json["current"]
    assert (await ruled.get("/admin/keys")).status == 200
    assert (await listed(ruled, key=answer.json["key"]))["boss"]["current"]


async def test_a_key_that_was_replaced_does_all_but_change_keys(ruled: Herd) -> None:
    boss = (await listed(ruled))["boss"]
    path = f"/admin/keys/{boss['id']}"
    new = (await ruled.post(f"{path}/rotate", {"overlap": 60})).json["key"]
    for method, where, body in (
        ("POST", "/admin/keys", {"name": "x"}),
        ("PATCH", path, {"at_once": 1}),
        ("POST", f"{path}/rotate", {"overlap": 0}),
        ("DELETE", path, None),
    ):
        answer = await ruled.ask(method, where, body)
        assert refused(answer) == (403, "insufficient_scope", None)
        assert "replaced" in answer.error["message"]
    assert (await ruled.post("/unloadModel")).status == (await ruled.chat("hi")).status == 200
    assert list(await listed(ruled, key=new)) == ["boss"]
    last = (await ruled.post(f"{path}/rotate", {"overlap": 0}, key=new)).json["key"]  # ends the overlap
    assert [(await ruled.get("/v1/models", key=key)).status for key in (ruled.key, new, last)] == [401, 401, 200]


@pytest.mark.parametrize("overlap", [-1, 1e12, "1d", True])
async def test_an_overlap_is_a_number_of_seconds(ruled: Herd, overlap: Any) -> None:
    answer = await ruled.post(f"/admin/keys/{await id_of(ruled, 'boss')}/rotate", {"overlap": overlap})
    assert refused(answer) == (400, "invalid_request", "overlap")


# revoking


async def test_a_revoked_key_is_refused_at_once(ruled: Herd) -> None:
    web = await made(ruled, "web")
    answer = await ruled.ask("DELETE", f"/admin/keys/{web['id']}")
    assert (answer.status, answer.json["name"]) == (200, "web")
    assert (await ruled.get("/v1/models", key=web["key"])).status == 401
    assert list(await listed(ruled)) == ["boss"]
    assert refused(await ruled.ask("DELETE", f"/admin/keys/{web['id']}")) == (404, "key_not_found", "id")


async def test_the_last_key_that_administers_stays(ruled: Herd) -> None:
    path = f"/admin/keys/{await id_of(ruled, 'boss')}"
    tries = [
        await ruled.ask("DELETE", path),
        await ruled.ask("PATCH", path, {"scopes": ["inference"]}),
        await ruled.ask("PATCH", path, {"expires": time.time() + DAY}),
    ]
    assert [refused(answer) for answer in tries] == [(409, "last_admin_key", None)] * 3
    await made(ruled, "short", scopes=["admin"], expires=time.time() + DAY)
    assert refused(await ruled.ask("DELETE", path)) == (409, "last_admin_key", None)
    other = await made(ruled, "other", scopes=["admin"])
    answer = await ruled.ask("DELETE", path)
    assert (answer.status, answer.json["current"]) == (200, True)
    assert (await ruled.get("/admin/keys")).status == 401
    assert sorted(await listed(ruled, key=other["key"])) == ["other", "short"]


async def test_two_administrators_who_revoke_each_other_at_once_leave_one(ruled: Herd) -> None:
    other = await made(ruled, "other", scopes=["admin"])
    boss, path = await id_of(ruled, "boss"), "/admin/keys/"
    answers = await asyncio.gather(
        ruled.ask("DELETE", f"{path}{other['id']}"), ruled.ask("DELETE", f"{path}{boss}", key=other["key"])
    )
    statuses = sorted(answer.status for answer in answers)
    assert statuses in ([200, 401], [200, 409])
    assert len(ruled.service.keys) == 1


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE", "POST"])
async def test_names_are_no_ids(ruled: Herd, method: str) -> None:
    await made(ruled, "deadbeef")
    for name in ("boss", "deadbeef", "0000000000"):
        path = f"/admin/keys/{name}" + ("/rotate" if method == "POST" else "")
        answer = await ruled.ask(method, path, {"at_once": 1} if method == "PATCH" else None)
        assert refused(answer) == (404, "key_not_found", "id")
    assert len(await listed(ruled)) == 2


# around it


async def test_a_key_without_the_scope_admin_gets_none_of_it(ruled: Herd) -> None:
    web = await made(ruled, "web")
    path = f"/admin/keys/{web['id']}"
    for method, where in (
        ("GET", "/admin/keys"),
        ("POST", "/admin/keys"),
        ("GET", path),
        ("PATCH", path),
        ("DELETE", path),
        ("POST", f"{path}/rotate"),
    ):
        answer = await ruled.ask(method, where, {"name": "x"}, key=web["key"])
        assert refused(answer) == (403, "insufficient_scope", None)
    assert sorted(await listed(ruled)) == ["boss", "web"]


async def test_what_the_command_line_did_is_not_lost(stage: Stage, ruled: Herd) -> None:
    outside(lambda: KeyStore(stage.keys_file).create("by hand", "", ["inference"]))
    await made(ruled, "web")
    assert sorted(await listed(ruled)) == ["boss", "by hand", "web"]
    (by_hand,) = (key for key in ruled.service.keys.list() if key.name == "by hand")
    token, _ = outside(lambda: KeyStore(stage.keys_file).rotate("by hand", 0))
    answer = await ruled.ask("PATCH", f"/admin/keys/{by_hand.id}", {"at_once": 1})
    assert answer.status == 200
    assert (await ruled.get("/v1/models", key=token)).status == 200


@pytest.mark.parametrize("mishap", ["broken", "gone"])
async def test_a_file_that_can_not_be_used_loses_nothing(stage: Stage, ruled: Herd, mishap: str) -> None:
    web = await made(ruled, "web")
    outside(lambda: stage.keys_file.write_text("{") if mishap == "broken" else stage.keys_file.unlink())
    for method, path, body in (
        ("POST", "/admin/keys", {"name": "x"}),
        ("PATCH", f"/admin/keys/{web['id']}", {"at_once": 1}),
        ("POST", f"/admin/keys/{web['id']}/rotate", None),
        ("DELETE", f"/admin/keys/{web['id']}", None),
    ):
        answer = await ruled.ask(method, path, body)
        assert (answer.status, answer.error["code"]) == (503, "keys_unavailable")
        assert ("Retry-After" in answer.headers, answer.headers["x-should-retry"]) == (False, "false")
        assert str(stage.keys_file) in answer.error["message"]
    assert outside(stage.keys_file.exists) is (mishap == "broken")
    assert sorted(await listed(ruled)) == ["boss", "web"]
    assert (await ruled.get("/v1/models", key=web["key"])).status == 200


async def test_a_file_that_can_not_be_written_is_said(ruled: Herd, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("manager.key_file.write", full)
    answer = await ruled.post("/admin/keys", {"name": "web"})
    assert (answer.status, answer.error["code"]) == (503, "keys_unavailable")
    assert "No space left on device" in answer.error["message"]
    assert list(await listed(ruled)) == ["boss"]


async def test_a_file_that_is_locked_for_long_is_worth_another_try(
    stage: Stage, ruled: Herd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ruled.service.keys, "_lock_timeout", 0.01)
    lock = FileLock(f"{stage.keys_file}.lock", thread_local=False)
    outside(lock.acquire)
    try:
        answer = await ruled.post("/admin/keys", {"name": "web"})
    finally:
        outside(lock.release)
    assert (answer.status, answer.error["code"]) == (503, "keys_unavailable")
    assert (answer.headers["Retry-After"], "x-should-retry" in answer.headers) == ("1", False)
    assert list(await listed(ruled)) == ["boss"]


async def test_each_change_is_in_the_feed(ruled: Herd) -> None:
    async with reading(ruled) as reader:
        await reader.next()
        path = f"/admin/keys/{(await made(ruled, 'web'))['id']}"
        await ruled.ask("PATCH", path, {"at_once": 1})
        await ruled.post(f"{path}/rotate")
        await ruled.ask("DELETE", path)
        seen = [one.data for one in await reader.until("key", event="revoked") if one.kind == "key"]
    id_ = path.rpartition("/")[2]
    assert seen == [{"event": event, "id": id_} for event in ("created", "changed", "rotated", "revoked")]


async def test_the_first_key_is_in_the_audit_log(stage: Stage, herd: Herd) -> None:
    first = await made(herd, "first", scopes=["admin"])
    await herd.post("/admin/keys", {"name": "stranger"})
    await herd.server.close()
    lines = [json.loads(line) for line in outside((stage.data / "audit.log").read_text).splitlines()]
    assert [(line["actor"], line["action"], line["target"], line["status"]) for line in lines] == [
        ("-", "POST /admin/keys", first["id"], 201)
    ]


async def test_each_change_is_in_the_audit_log_and_no_key_is(stage: Stage, ruled: Herd) -> None:
    web = await made(ruled, "web")
    path = f"/admin/keys/{web['id']}"
    await ruled.ask("PATCH", path, {"at_once": 1})
    again = (await ruled.post(f"{path}/rotate")).json["key"]
    await ruled.ask("DELETE", path)
    await ruled.post("/admin/keys", {"name": ""})
    boss = await id_of(ruled, "boss")
    await ruled.ask("DELETE", f"/admin/keys/{boss}")
    await ruled.server.close()
    text = outside((stage.data / "audit.log").read_text)
    lines = [json.loads(line) for line in text.splitlines()]
    assert {line["actor"] for line in lines} == {boss}
    assert [(line["action"], line["target"], line["status"]) for line in lines] == [
        ("POST /admin/keys", web["id"], 201),
        ("PATCH /admin/keys/{id}", web["id"], 200),
        ("POST /admin/keys/{id}/rotate", web["id"], 200),
        ("DELETE /admin/keys/{id}", web["id"], 200),
        ("POST /admin/keys", None, 400),
        ("DELETE /admin/keys/{id}", boss, 409),
    ]
    assert not any(secret in text for secret in (web["key"], again, ruled.key or ""))
