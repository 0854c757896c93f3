from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any, Protocol

import pytest

from manager.cli import main
from tests.conftest import EMPTY_GGUF, MakeSettings
from tests.gguf_files import write_tiny_gguf


class Inspect(Protocol):
    """`llamaherd model inspect` in this process: exit status, standard output, standard error."""

    def __call__(self, *arguments: str) -> tuple[int, str, str]: ...


@pytest.fixture
def inspect(make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Inspect:
    """In a folder of its own, with no settings in the environment, and the launcher that is always there."""
    monkeypatch.setenv("LLAMAHERD_LLAMA__LAUNCHER", "embedded")

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["llamaherd", "model", "inspect", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capfd.readouterr()
        return int(ended.value.code or 0), out, err

    return call


def list_models(**entries: dict[str, Any]) -> None:
    models = Path("data/models")
    models.mkdir(parents=True)
    write_tiny_gguf(models / "tiny.gguf", file_type=None)
    (models / "empty.gguf").write_bytes(EMPTY_GGUF)
    (models / "cut.gguf").write_bytes((models / "tiny.gguf").read_bytes()[:5000])
    Path("data/models.json").write_text(json.dumps({name: {"params": params} for name, params in entries.items()}))


def test_shows_what_the_model_is_and_what_it_takes(inspect: Inspect) -> None:
    list_models(tiny={"model": "tiny.gguf", "ctxSize": 512, "parallel": 3})
    code, out, err = inspect("tiny")
    assert (code, err) == (0, "")
    rows = dict(re.findall(r"^([A-Z][^:]+): +(.+)$", out, re.MULTILINE))
    assert rows["Architecture"] == "llama, 0.1 million parameters, unknown (16.0 bits per weight)"
    assert rows["Trained window"] == "4,096 tokens"
    assert rows["Layers"] == "2, heads 4, of keys and values 2"
    assert rows["Chat template"] == "in the file"
    assert rows["Runs with"] == "the embedded launcher, slots: 3, with a cache each"
    assert rows["Fits now"] == "yes"
    assert re.search(r"^  cache +host +0\.4 MB$", out, re.MULTILINE)
    assert "prompt cache, up to 1.1 GB" in out


def test_json_has_every_number_in_bytes(inspect: Inspect) -> None:
    list_models(tiny={"model": "tiny.gguf", "ctxSize": 512, "parallel": 1, "cacheRamMib": -1})
    code, out, _ = inspect("tiny", "--json")
    shown = json.loads(out)
    assert code == 0
    assert shown["architecture"] == "llama"
    assert shown["memory"]["total"] == sum(part["size"] for part in shown["memory"]["parts"])
    assert {"name": "cache", "device": "host", "size": 512 * 2 * 2 * 32 * 2} in shown["memory"]["parts"]
    assert shown["memory"]["later"] == [{"name": "prompt cache", "device": "host", "size": -1}]
    assert shown["free"][0]["device"] == "host"
    assert shown["fits"] is True


def test_what_does_not_fit_is_said_with_both_numbers(inspect: Inspect) -> None:
    list_models(huge={"model": "tiny.gguf", "ctxSize": 2**33, "parallel": 1})
    code, out, _ = inspect("huge")
    assert code == 0
    assert re.search(r"^Fits now: +no: host needs [\d.]+ GB and has [\d.]+ GB$", out, re.MULTILINE)
    assert json.loads(inspect("huge", "--json")[1])["fits"] is False


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nothing", "does not exist"),
        ("cut", "cut off"),
        ("empty", "does not say its architecture"),
        ("gone", "does not exist"),
        ("adapted", "does not exist"),
    ],
)
def test_what_can_not_be_read_is_an_error_without_output(inspect: Inspect, name: str, reason: str) -> None:
    list_models(
        cut={"model": "cut.gguf"},
        empty={"model": "empty.gguf"},
        gone={"model": "gone.gguf"},
        adapted={"model": "tiny.gguf", "lora": "gone.gguf"},
    )
    code, out, err = inspect(name)
    assert (code, out) == (1, "")
    assert err.startswith("llamaherd: ")
    assert reason in err
    assert "Traceback" not in err


def test_a_hugging_face_folder_is_refused(inspect: Inspect, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path("hub/some-model")
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    monkeypatch.setenv("HF_MODELS_DIR", str(folder.parent.absolute()))
    code, _, err = inspect("some-model")
    assert (code, err) == (1, "llamaherd: some-model is no GGUF model, and only these can be inspected\n")
