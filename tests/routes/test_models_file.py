"""models.json over HTTP: read, checked and replaced; and pins."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final

import pytest

from manager import models_edit, models_text
from manager.settings import Settings
from routes import models_file as routes_models_file
from routes.schema.models_file import MOST_TEXT
from tests.routes.conftest import StartHerd
from tests.routes.herd import Herd, until
from tests.routes.stage import Fake, Stage

FILE: Final = "/admin/models-file"


async def read(herd: Herd) -> Any:
    answer = await herd.get(FILE)
    assert answer.status == 200, answer.body
    return answer.json


async def put(herd: Herd, text: str, version: str) -> Any:
    return await herd.ask("PUT", FILE, {"text": text, "version": version})


def changed(stage: Stage, **entry: Any) -> str:
    """The text of the file with more keys in the entry of alpha."""
    entries = json.loads(stage.models_file.read_text())
    entries["alpha"] |= entry
    return json.dumps(entries, indent=2) + "\n"


async def test_file_is_shown_and_replaced_and_read_again(herd: Herd, stage: Stage) -> None:
    seen = await read(herd)
    assert seen == {
        "path": str(stage.models_file),
        "text": stage.models_file.read_text(),
        "version": seen["version"],
        "writable": True,
    }
    text = changed(stage, description="new")
    answer = await put(herd, text, seen["version"])
    assert (answer.status, answer.json) == (200, await read(herd))
    assert (answer.json["text"], stage.models_file.read_text()) == (text, text)
    assert answer.json["version"] != seen["version"]
    assert (await herd.get("/admin/models/alpha")).json["description"] == "new"


async def test_missing_file_is_made(start_herd: StartHerd, stage: Stage) -> None:
    stage.models_file.unlink()
    herd = await start_herd()
    seen = await read(herd)
    assert seen["text"] == "{}\n"
    stage.model("alpha")
    text = stage.models_file.read_text()
    stage.models_file.unlink()
    assert (await put(herd, text, seen["version"])).status == 200
    assert stage.models_file.read_text() == text
    assert [model["name"] for model in (await herd.get("/admin/models")).json["models"]] == ["alpha"]


async def test_text_with_mistakes_is_refused_with_each_of_them(herd: Herd, stage: Stage) -> None:
    before = stage.models_file.read_text()
    text = '{\n  "alpha": {"params": {"model": "a", "ctxSise": 1}, "pinned": 1}\n}'
    answer = await put(herd, text, (await read(herd))["version"])
    assert (answer.status, answer.error["code"], answer.error["param"]) == (400, "models_file_invalid", "text")
    check = await herd.post(f"{FILE}/check", {"text": text})
    assert (check.status, check.json["mistakes"]) == (200, answer.error["mistakes"])
    (mistake,) = check.json["mistakes"]
    assert mistake == {
        "message": "unknown key; did you mean ctxSize?",
        "line": 2,
        "column": 38,
        "path": "alpha.params.ctxSise",
    }
    assert answer.error["message"] == f"line 2, column 38: alpha.params.ctxSise: {mistake['message']}"
    assert stage.models_file.read_text() == before
    assert (await herd.post(f"{FILE}/check", {"text": before})).json == {"mistakes": []}


async def test_file_that_an_editor_saved_meanwhile_is_left_alone(herd: Herd, stage: Stage) -> None:
    version = (await read(herd))["version"]
    stage.models_file.write_text("{ }")
    answer = await put(herd, "{}", version)
    assert (answer.status, answer.error["code"], answer.error["param"]) == (409, "models_file_changed", "version")
    assert stage.models_file.read_text() == "{ }"


async def test_file_that_is_no_text_can_be_mended(herd: Herd, stage: Stage) -> None:
    text = changed(stage, description="M\u00fcll")
    stage.models_file.write_bytes(text.encode("latin-1"))
    seen = await read(herd)
    assert seen["text"] == text.replace("\u00fc", "\ufffd")
    assert (await herd.post(f"{FILE}/check", {"text": text})).json == {"mistakes": []}
    assert (await put(herd, text, seen["version"])).status == 200
    assert stage.models_file.read_text() == text


async def test_file_that_can_not_be_read_is_a_409_and_a_text_is_checked_all_the_same(
    start_herd: StartHerd, stage: Stage
) -> None:
    herd = await start_herd()
    stage.models_file.unlink()
    stage.models_file.mkdir()
    answer = await herd.get(FILE)
    assert (answer.status, answer.error["code"]) == (409, "models_file_unreadable")
    assert (await herd.post(f"{FILE}/check", {"text": "{}"})).json == {"mistakes": []}
    assert (await put(herd, "{}", "missing")).error["code"] == "models_file_not_written"


async def test_answer_is_what_was_written(herd: Herd, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    reload, text = herd.service.reloader.reload, changed(stage, description="mine")

    async def saved_by_another() -> None:
        await reload()
        await asyncio.to_thread(stage.models_file.write_text, "{ }")

    monkeypatch.setattr(herd.service.reloader, "reload", saved_by_another)
    answer = await put(herd, text, (await read(herd))["version"])
    assert (answer.status, answer.json["text"]) == (200, text)
    assert answer.json["version"] != (await read(herd))["version"]
    assert (await put(herd, text, answer.json["version"])).error["code"] == "models_file_changed"


def nested(levels: int) -> str:
    """A text whose innermost object is that many levels deep."""
    value = '{"a": ' * (levels - 4) + "1" + "}" * (levels - 4)
    return f'{{"alpha": {{"params": {{"model": "alpha.gguf"}}, "request": {{"set": {{"x": {value}}}}}}}}}'


async def test_what_is_written_and_then_not_taken_is_told(
    make_key: Callable[..., str], fake: Fake, start_herd: StartHerd, stage: Stage
) -> None:
    key = make_key("admin")
    herd = await start_herd()
    herd.key = key
    version = (await read(herd))["version"]
    stage.keys_file.write_text("{")
    text = changed(stage, description="new")
    answer = await put(herd, text, version)
    assert (answer.status, answer.error["code"]) == (409, "reload_refused")
    assert "keys.json" in answer.error["message"]
    assert stage.models_file.read_text() == text


async def test_depth_of_a_text_is_bounded(herd: Herd, stage: Stage) -> None:
    assert (await put(herd, nested(50), (await read(herd))["version"])).status == 200
    shown = await herd.get("/admin/models/alpha")
    assert shown.status == 200
    for levels in (51, 253, 254, 950, 970, 990, 1100, 100_000):
        check = await herd.post(f"{FILE}/check", {"text": nested(levels)})
        assert check.status == 200
        (mistake,) = check.json["mistakes"]
        assert mistake["message"] == "is nested too deeply: more than 50 levels"
        assert (mistake["line"], mistake["column"], mistake["path"]) == (1, nested(51).rindex("{") + 1, None)
        assert (await put(herd, nested(levels), (await read(herd))["version"])).status == 400
    assert stage.models_file.read_text() == nested(50)
    assert (await herd.post("/admin/reload")).status == 200


async def test_length_of_a_text_is_bounded(herd: Herd) -> None:
    async def ask(method: str, path: str, length: int) -> Any:
        async def body() -> AsyncIterator[bytes]:
            yield b'{"version": "missing", "text": "{}'
            for _ in range(length - 2 >> 10):
                yield b" " * 1024
            yield b" " * (length - 2 & 1023) + b'"}'

        return await herd.ask(method, path, raw=body())

    for method, path in (("PUT", FILE), ("POST", f"{FILE}/check")):
        answer = await ask(method, path, MOST_TEXT + 1)
        assert (answer.status, answer.error["param"]) == (400, "text")
        answer = await ask(method, path, 2 * MOST_TEXT)
        assert (answer.status, answer.error["code"]) == (413, "body_too_large")
    assert (await ask("POST", f"{FILE}/check", MOST_TEXT)).json == {"mistakes": []}


async def test_no_number_of_checks_keeps_more_than_one_thread(herd: Herd, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = asyncio.Queue[str](), threading.Event()
    loop = asyncio.get_running_loop()

    def slow(settings: Settings, text: str) -> list[Any]:
        loop.call_soon_threadsafe(begun.put_nowait, text)
        go_on.wait(10)
        return []

    monkeypatch.setattr(routes_models_file, "check_models_text", slow)
    checks = [asyncio.create_task(herd.post(f"{FILE}/check", {"text": str(number)})) for number in range(40)]
    await begun.get()
    assert (await herd.get("/v1/models")).status == 200
    assert begun.empty()
    go_on.set()
    assert {(await check).status for check in checks} == {200}


async def test_text_above_the_limit_is_a_413(fake: Fake, start_herd: StartHerd, stage: Stage) -> None:
    herd = await start_herd(server={"max_body": 4096})
    for method, path in (("PUT", FILE), ("POST", f"{FILE}/check")):
        answer = await herd.ask(method, path, {"text": " " * 5000, "version": "missing"})
        assert (answer.status, answer.error["code"]) == (413, "body_too_large")


@pytest.mark.parametrize(
    ("body", "param"), [({"version": "x"}, "text"), ({"text": "{}"}, "version"), ({"text": 1, "version": "x"}, "text")]
)
async def test_field_at_fault_is_named(herd: Herd, body: Any, param: str) -> None:
    answer = await herd.ask("PUT", FILE, body)
    assert (answer.status, answer.error["param"]) == (400, param)


async def test_client_that_leaves_ends_no_change(herd: Herd, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    version = (await read(herd))["version"]
    begun, go_on = asyncio.Event(), asyncio.Event()
    loop, write = asyncio.get_running_loop(), models_edit.replace_text

    def slow(*arguments: Any, **options: Any) -> None:
        loop.call_soon_threadsafe(begun.set)
        asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result(5)
        write(*arguments, **options)

    monkeypatch.setattr(models_text, "replace_text", slow)
    asking = asyncio.create_task(put(herd, changed(stage, description="new"), version))
    await begun.wait()
    asking.cancel()
    await asyncio.wait({asking})
    go_on.set()
    await until(lambda: herd.service.pool.find("alpha").entry.description == "new")


async def test_schema_is_that_of_the_file(herd: Herd) -> None:
    written = Path(__file__).parents[2] / "data" / "models.schema.json"
    assert (await herd.get(f"{FILE}/schema")).json == json.loads(written.read_text())


async def test_change_is_in_the_audit_log(
    make_key: Callable[..., str], fake: Fake, start_herd: StartHerd, stage: Stage
) -> None:
    key = make_key("admin")
    herd = await start_herd()
    herd.key = key
    await put(herd, "{}", (await read(herd))["version"])
    await herd.post("/admin/models/alpha/pin")
    await herd.server.close()
    lines = [json.loads(line) for line in (stage.data / "audit.log").read_text().splitlines()]
    assert [(line["action"], line["target"], line["status"]) for line in lines] == [
        ("PUT /admin/models-file", "models.json", 200),
        ("POST /admin/models/{id}/pin", "alpha", 404),
    ]


# pins


async def test_pin_is_kept_in_the_file_and_restarts_nothing(herd: Herd, stage: Stage, fake: Fake) -> None:
    await herd.post("/admin/models/alpha/load")
    before = stage.models_file.read_text()
    answer = await herd.post("/admin/models/alpha/pin")
    assert (answer.status, answer.json["name"], answer.json["pinned"]) == (200, "alpha", True)
    assert json.loads(stage.models_file.read_text())["alpha"]["pinned"] is True
    answer = await herd.post("/admin/models/alpha/unpin")
    assert (answer.status, answer.json["pinned"], answer.json["state"]) == (200, False, "ready")
    assert json.loads(stage.models_file.read_text())["alpha"] == {**json.loads(before)["alpha"], "pinned": False}
    assert (await herd.chat("hi")).status == 200
    assert len(fake.starts()) == 1


async def test_discovered_model_that_runs_is_pinned_and_not_restarted(start_herd: StartHerd, stage: Stage) -> None:
    fake = stage.model("beta")
    stage.forget("beta")
    herd = await start_herd(storage={"gguf_models_dir": stage.data / "models", "watch": False})
    await herd.post("/admin/models/beta/load")
    answer = await herd.post("/admin/models/beta/pin")
    assert (answer.status, answer.json["pinned"], answer.json["state"]) == (200, True, "ready")
    assert json.loads(stage.models_file.read_text()) == {"beta": {"params": {"model": "beta.gguf"}, "pinned": True}}
    assert (await herd.get("/admin/models/beta")).json["source"] == "models.json"
    assert (await herd.chat("hi", model="beta")).status == 200
    assert len(fake.starts()) == 1


async def test_model_of_the_settings_is_not_pinned(start_herd: StartHerd, stage: Stage) -> None:
    stage.model("own")
    stage.forget("own")
    herd = await start_herd(model={"path": stage.data / "models" / "own.gguf"})
    for action in ("pin", "unpin"):
        answer = await herd.post(f"/admin/models/own/{action}")
        assert (answer.status, answer.error["code"], answer.error["param"]) == (409, "model_not_in_file", "id")


async def test_removed_model_that_still_runs_is_not_pinned(start_herd: StartHerd, stage: Stage, fake: Fake) -> None:
    stage.model("beta")
    fake.hold_streams()
    herd = await start_herd()
    async with herd.stream("hi", model="alpha") as events:
        assert await events.next()
        stage.forget("alpha")
        await herd.post("/admin/reload")
        answer = await herd.post("/admin/models/alpha/pin")
        assert (answer.status, answer.error["code"]) == (409, "model_not_in_file")
        assert "was removed" in answer.error["message"]
        fake.release_streams()
    assert (await herd.post("/admin/models/nobody/pin")).status == 404


async def test_nothing_is_changed_while_the_service_ends(herd: Herd, stage: Stage) -> None:
    version = (await read(herd))["version"]
    before = stage.models_file.read_text()
    herd.service.gate.close()
    assert (await put(herd, "{}", version)).status == 503
    assert (await herd.post("/admin/models/alpha/pin")).status == 503
    assert stage.models_file.read_text() == before
