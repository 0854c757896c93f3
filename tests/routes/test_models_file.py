"""models.json over HTTP: read, checked and replaced; and pins."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from manager import models_edit, models_text
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


async def test_file_that_is_no_text_is_a_409(herd: Herd, stage: Stage) -> None:
    stage.models_file.write_bytes(b"\x80")
    answer = await herd.get(FILE)
    assert (answer.status, answer.error["code"]) == (409, "models_file_unreadable")
    assert "not UTF-8" in answer.error["message"]


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

    def slow(*arguments: Any) -> None:
        loop.call_soon_threadsafe(begun.set)
        asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result(5)
        write(*arguments)

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
        ("POST /admin/models/{id:.+?}/pin", "alpha", 404),
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
