from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

import pytest
from typer.testing import CliRunner

from manager.auth import KeyStore
from manager.cli.config import app
from manager.settings import Settings
from manager.settings_layers import sections_of
from manager.settings_shown import MASK
from tests.conftest import MakeSettings
from tests.manager.conftest import Run


class Ask(Protocol):
    """`llamaherd config` in this process: exit status, standard output, standard error."""

    def __call__(self, *arguments: str) -> tuple[int, str, str]: ...


@pytest.fixture
def ask(make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """In a folder of its own, with no settings in the environment (make_settings sees to both)."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def call(*arguments: str) -> tuple[int, str, str]:
        done = CliRunner().invoke(app, arguments, catch_exceptions=False)
        return done.exit_code, done.stdout, done.stderr

    return call


def shown(ask: Ask, *arguments: str) -> dict[str, dict[str, Any]]:
    code, out, _ = ask("show", "--json", *arguments)
    assert code == 0
    found: dict[str, dict[str, Any]] = json.loads(out)
    return found


def test_every_setting_is_shown_with_its_default(ask: Ask) -> None:
    found = shown(ask)
    assert found.keys() == {f"{section}.{key}" for section, keys in sections_of(Settings).items() for key in keys}
    assert {one["source"] for one in found.values()} == {"default"}
    assert found["server.port"]["value"] == 8000
    assert found["tls.enabled"]["value"] is None
    assert found["storage.models_file"]["value"] == str(Path.cwd() / "data" / "models.json")


def test_source_of_each_value_is_the_variable_or_the_file_and_its_line(
    ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("my: settings.yml").write_text("server:\n  port: 1\n  host: ::1\n  max_body: 2048\nlog:\n  keep: 5\n")
    Path(".env").write_text("# mine\nLLAMAHERD_SERVER__PORT=2\nLLAMA_N_CTX=512\nLLAMAHERD_SERVER__MAX_BODY=4096\n")
    monkeypatch.setenv("LLAMAHERD_SERVER__PORT", "3")
    monkeypatch.setenv("MODEL_NAME", "m")
    found = shown(ask, "--config", "my: settings.yml", "--changed")
    assert {name: (one["value"], one["source"]) for name, one in found.items()} == {
        "server.port": (3, "LLAMAHERD_SERVER__PORT"),
        "server.host": ("::1", "my: settings.yml, line 3"),
        "server.max_body": (4096, ".env, line 4"),
        "model.ctx_size": (512, ".env, line 3"),
        "model.name": ("m", "MODEL_NAME"),
        "log.keep": (5, "my: settings.yml, line 6"),  # set, though it is what the default is
    }


def test_secrets_are_masked_and_not_even_their_length_is_told(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_" + "s3cret" * 5)
    Path("config.yml").write_text("tls: {host: llm.lan, passphrase: x}\n")
    monkeypatch.setenv("CONFIG_PATH", "config.yml")
    found = shown(ask)
    assert found["hub.token"] == {"value": MASK, "source": "HF_TOKEN"}
    assert found["tls.passphrase"] == {"value": MASK, "source": "config.yml, line 1"}
    table = ask("show")[1]
    assert "s3cret" not in table
    assert MASK in table
    assert MASK * 2 not in table


def test_table_can_be_of_one_section_and_of_what_is_set(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ask("show", "--changed")[1] == "Nothing is set: every value is the default.\n"
    monkeypatch.setenv("LLAMAHERD_SERVER__ALLOWED_HOSTS", "a.lan,b.lan")
    code, out, _ = ask("show", "--section", "server")
    assert code == 0
    assert '["a.lan", "b.lan"]' in out
    assert "LLAMAHERD_SERVER__ALLOWED_HOSTS" in out
    assert "limits." not in out
    code, _, err = ask("show", "--section", "sever")
    assert code == 2
    assert "did you mean server?" in err


def test_what_is_right_is_counted(ask: Ask) -> None:
    code, out, err = ask("check")
    assert (code, err) == (0, "")
    assert out == "The settings are right: models: 0, keys: 0.\n"


def test_mistakes_of_models_keys_and_exposure_are_told_together(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("data").mkdir()
    Path("data/models.json").write_text('{"a": {"params": {"model": "a.gguf", "ctxSze": 1}}, "b": {}}')
    monkeypatch.setenv("LLAMAHERD_SERVER__HOST", "192.0.2.1")
    monkeypatch.setenv("LLAMAHERD_TLS__HOST", "llm.lan")
    monkeypatch.setenv("LLAMAHERD_LLAMA__BINARY", "nowhere")
    code, out, err = ask("check")
    assert (code, out) == (2, "")
    for said in ("a.params.ctxSze: unknown key", "b.params: is missing", "no API key", "llm.lan", "llama.binary: "):
        assert said in err, said


def test_broken_file_of_keys_is_a_mistake(ask: Ask) -> None:
    KeyStore(Path("data/keys.json")).create("alice", "", ("inference",))
    assert "keys: 1" in ask("check")[1]
    Path("data/keys.json").write_text("{")
    code, _, err = ask("check")
    assert code == 2
    assert "data/keys.json" in err


def test_file_of_keys_that_others_can_read_is_left_as_it_is(ask: Ask) -> None:
    path = Path("data/keys.json")
    KeyStore(path).create("alice", "", ("inference",))
    path.chmod(0o644)
    code, out, _ = ask("check")
    assert path.stat().st_mode & 0o777 == 0o644
    assert (code, "not looked at (others can read" in out) == (0, True)


SECRET = "hf_S3CRET"


@pytest.mark.parametrize(
    "text",
    [
        f"hub: {{token: !secret {SECRET}}}",
        f"hub: {{token: [{SECRET}]}}",
        f"hub: {{token: {{a: {SECRET}}}}}",
        f"tls: {{passphrase: *{SECRET}}}",
        f"tls: {{passphrase: !{SECRET} x}}",
        f"hub: {{token: !!int {SECRET}}}",
        f"hub: {{token: !!bool {SECRET}}}",
        f"hub: {{token: !!timestamp {SECRET}}}",
        f"hub: {{endpoint: 'https://user:{SECRET}@hub.lan'}}",
        f"hub: {{endpoint: 'https://user:a/{SECRET} b@hub.lan'}}",
        f"hub: {{endpoint: 'https://{SECRET}@hub.lan'}}",
        f"hub: {{mirrors: ['https://a.lan', 'https://user:{SECRET}@hub.lan']}}",
        f"hub: {{mirrors: {{'https://a.lan/b': 'https://{SECRET}@hub.lan'}}}}",
        f"hub: {{endpoint: 'https://user:{SECRET * 20}@hub.lan'}}",
    ],
)
@pytest.mark.parametrize("verb", ["show", "check"])
def test_mistake_in_a_secret_or_in_an_address_with_a_password_shows_neither(run: Run, text: str, verb: str) -> None:
    Path("config.yml").write_text(text)
    code, out, err = run("config", verb, "--config", "config.yml")
    assert (code, out) == (2, "")
    assert err.startswith("llamaherd: config.yml, line 1")
    assert not any(part in (out + err).lower() for part in (SECRET.lower(), SECRET.lower().replace("_", "")))


@pytest.mark.parametrize("verb", ["show", "check"])
def test_mistakes_of_settings_are_all_told(run: Run, monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    monkeypatch.setenv("LLAMAHERD_SERVER__PORT", "many")
    monkeypatch.setenv("LLAMAHERD_LOG__KEEP", "-1")
    code, out, err = run("config", verb)
    assert (code, out) == (2, "")
    places = [line.removeprefix("llamaherd: ").partition(":")[0] for line in err.splitlines()]
    assert places == ["LLAMAHERD_SERVER__PORT", "LLAMAHERD_LOG__KEEP"]
