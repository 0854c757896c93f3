"""The settings of the running service."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from manager.settings_shown import MASK
from routes.schema.settings import ShownSettings
from tests.routes.conftest import StartHerd
from tests.routes.herd import Herd
from tests.routes.stage import Fake, Stage


async def shown(herd: Herd, **more: Any) -> dict[str, Any]:
    answer = await herd.get("/admin/settings", **more)
    assert answer.status == 200, answer.body
    ShownSettings.model_validate(answer.json)
    return {setting.pop("name"): setting for setting in answer.json["settings"]}


async def test_they_are_those_of_the_running_service(stage: Stage, herd: Herd) -> None:
    found = await shown(herd)
    assert found["limits.stop_grace"] == {
        "section": "limits",
        "value": 2.0,
        "default": found["limits.stop_grace"]["default"],
        "source": "command line",
        "description": found["limits.stop_grace"]["description"],
        "secret": False,
    }
    assert found["storage.keys_file"]["value"] == str(stage.keys_file)
    assert found["server.log_level"]["source"] == "default"
    assert (await herd.get("/admin/settings")).json["config_path"] is None


async def test_file_and_line_are_those_of_the_start(
    fake: Fake, start_herd: StartHerd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "herd.yml"
    config.write_text("hub:\n  token: hf_s3cret\n  endpoint: https://hub.lan\n")
    monkeypatch.setenv("CONFIG_PATH", str(config))
    herd = await start_herd()
    config.unlink()
    answer = await herd.get("/admin/settings")
    assert answer.json["config_path"] == str(config)
    assert b"s3cret" not in answer.body
    found = await shown(herd)
    assert (found["hub.endpoint"]["value"], found["hub.endpoint"]["source"]) == ("https://hub.lan", f"{config}, line 3")
    assert (found["hub.token"]["value"], found["hub.token"]["secret"]) == (MASK, True)


async def test_a_folder_that_is_not_utf8_is_shown(fake: Fake, start_herd: StartHerd, tmp_path: Path) -> None:
    herd = await start_herd(storage={"templates_folder": os.fsdecode(bytes(tmp_path) + b"/t\xff")})
    assert (await shown(herd))["storage.templates_folder"]["value"] == f"{tmp_path}/t\ufffd"


async def test_they_are_for_administrators(fake: Fake, start_herd: StartHerd, make_key: Callable[..., str]) -> None:
    user, admin = make_key("user", "inference"), make_key("admin", "admin")
    herd = await start_herd()
    assert (await herd.get("/admin/settings", key=user)).status == 403
    assert await shown(herd, key=admin)
