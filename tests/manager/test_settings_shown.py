"""Settings as people may see them: values, defaults, origins, and no secret."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from manager.activation import PassedSocket, PassedSockets
from manager.settings import Settings, load_settings
from manager.settings_layers import sections_of
from manager.settings_shown import MASK, ShownSetting, shown_settings
from tests.conftest import MakeSettings


@pytest.fixture
def alone(make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder of its own, with no settings in the environment (make_settings sees to both)."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def shown(settings: Settings) -> dict[str, ShownSetting]:
    return {setting.name: setting for setting in shown_settings(settings)}


@pytest.mark.usefixtures("alone")
def test_each_setting_has_its_default_and_says_what_it_is() -> None:
    found = shown(load_settings())
    assert found.keys() == {f"{section}.{key}" for section, keys in sections_of(Settings).items() for key in keys}
    assert [setting.name for setting in found.values() if not setting.description] == []
    assert {setting.source for setting in found.values()} == {"default"}
    assert [setting.name for setting in found.values() if setting.value != setting.default] == []
    assert {setting.name for setting in found.values() if setting.secret} == {"hub.token", "tls.passphrase"}


@pytest.mark.usefixtures("alone")
def test_each_value_that_is_set_says_from_where(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("config.yml").write_text("server:\n  port: 1\n  max_body: 2048\nlog:\n  keep: 5\n")
    Path(".env").write_text("LLAMAHERD_SERVER__PORT=2\nLLAMA_N_CTX=512\n")
    monkeypatch.setenv("LLAMAHERD_SERVER__PORT", "3")
    monkeypatch.setenv("LLAMAHERD_LOG__KEEP", "7")
    given: dict[str, Any] = {"config_path": "config.yml", "log": {"keep": 9}, "server": {"host": None}}
    found = shown(load_settings(given))
    told = {name: (one.value, one.source) for name, one in found.items() if one.source != "default"}
    assert told == {
        "server.port": (3, "LLAMAHERD_SERVER__PORT"),
        "server.max_body": (2048, "config.yml, line 3"),
        "model.ctx_size": (512, ".env, line 2"),
        "log.keep": (9, "command line"),
    }
    assert found["server.port"].default == 8000


@pytest.mark.usefixtures("alone")
def test_origins_are_those_of_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("config.yml").write_text("server:\n  port: 1\n")
    monkeypatch.setenv("CONFIG_PATH", "config.yml")
    settings = load_settings()
    Path("config.yml").write_text("\n\nserver:\n  max_body: 2048\n  port: 2\n")
    monkeypatch.setenv("LLAMAHERD_SERVER__PORT", "3")
    port = shown(settings)["server.port"]
    assert (port.value, port.source) == (1, "config.yml, line 2")
    assert shown(settings)["server.max_body"].source == "default"


@pytest.mark.usefixtures("alone")
def test_secrets_are_masked_where_they_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    token = shown(load_settings())["hub.token"]
    assert (token.value, token.default, token.secret) == (None, None, True)
    monkeypatch.setenv("HF_TOKEN", "hf_s3cret")
    token = shown(load_settings())["hub.token"]
    assert (token.value, token.default, token.source) == (MASK, None, "HF_TOKEN")


@pytest.mark.usefixtures("alone")
def test_a_path_that_follows_from_another_setting_is_its_own_default(tmp_path: Path) -> None:
    found = shown(load_settings({"storage": {"data_folder": tmp_path / "there"}}))
    keys = found["storage.keys_file"]
    assert (keys.value, keys.default, keys.source) == (str(tmp_path / "there" / "keys.json"),) * 2 + ("default",)
    assert found["storage.data_folder"].default == str(tmp_path / "data")


@pytest.mark.usefixtures("alone")
def test_an_address_of_systemd_says_so() -> None:
    found = shown(PassedSockets((PassedSocket(3, "127.0.0.1", 4000),)).applied_to(load_settings()))
    assert (found["server.port"].value, found["server.port"].source) == (4000, "a socket of systemd")


@pytest.mark.usefixtures("alone")
def test_origins_are_no_part_of_what_is_set() -> None:
    settings = load_settings({"server": {"port": 5}})
    assert "origins" not in settings.model_dump()
    assert "command line" not in repr(settings)
