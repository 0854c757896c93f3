"""What a text may bring with it over HTTP."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from manager.entry import HfParams, LlamaParams
from manager.models_file import FileEntry
from manager.models_powers import HARMLESS, PATHS
from manager.models_text import check_models_text
from manager.settings import Settings
from tests.conftest import MakeSettings


@pytest.fixture
def settings(make_settings: MakeSettings, tmp_path: Path) -> Settings:
    found = {name: tmp_path / name for name in ("gguf", "hf")}
    for folder in found.values():
        folder.mkdir()
    made = make_settings(storage={"gguf_models_dir": found["gguf"], "hf_models_dir": found["hf"]})
    made.storage.models_folder.mkdir(parents=True)
    return made


def refused(settings: Settings, engine: str = "llama", **params: Any) -> list[str]:
    """The paths of the mistakes of an entry m, all of which are powers."""
    entry = {"engine": engine, "params": {"model": "m", **params}}
    found = check_models_text(settings, json.dumps({"m": entry}))
    assert all("can't be given over HTTP" in mistake["message"] for mistake in found)
    return [mistake["path"].removeprefix("m.params.") for mistake in found]


def test_every_key_is_decided_on() -> None:
    powers = {
        "llama": {"extra_args"},
        "hf": {"attn_implementation", "quantization", "trust_remote_code", "allow_pickle"},
    }
    for engine, params in (("llama", LlamaParams), ("hf", HfParams)):
        paths = set(PATHS) & params.model_fields.keys()
        assert set(params.model_fields) == HARMLESS[engine] | powers[engine] | paths
    # None of these makes anything run that params do not name.
    assert set(FileEntry.model_fields) == {
        *("params", "template", "personalities", "request", "profiles", "aliases", "engine", "description"),
        *("ttl", "pinned", "preload", "concurrency", "queue"),
    }


@pytest.mark.parametrize(
    ("engine", "params", "keys"),
    [
        ("llama", {"temperature": 1, "ctxSize": 5, "device": "CUDA0", "lora": ["a.gguf"]}, []),
        ("llama", {"extraArgs": ["--verbose"]}, ["extraArgs"]),
        ("llama", {"extra_args": []}, []),
        ("hf", {"dtype": "float32", "device_map": {"": "cpu"}, "parallel": 2}, []),
        ("hf", {"trust_remote_code": False, "allowPickle": False, "quantization": None}, []),
        ("hf", {"trust_remote_code": True, "allowPickle": True}, ["allowPickle", "trust_remote_code"]),
        ("hf", {"quantization": {"load_in_4bit": True}}, ["quantization"]),
        ("hf", {"attn_implementation": "sdpa"}, []),
        ("hf", {"attnImplementation": "flash_attention_2"}, ["attnImplementation"]),
    ],
)
def test_what_is_not_known_to_be_harmless_is_refused(
    settings: Settings, engine: str, params: dict[str, Any], keys: list[str]
) -> None:
    assert refused(settings, engine, **params) == keys


def test_a_kernel_of_a_hub_is_no_attention_wherever_it_is_said(settings: Settings) -> None:
    entry = {"engine": "hf", "params": {"model": "h", "attn_implementation": "org/kernel"}}
    settings.storage.models_file.write_text(json.dumps({"m": entry}))
    (found,) = check_models_text(settings, json.dumps({"m": entry}))
    assert found["path"] == "m.params.attn_implementation"
    assert found["message"].startswith("should be 'eager'")


@pytest.mark.parametrize("key", ["model", "mmproj", "draftModel", "lora"])
def test_a_path_outside_of_the_folders_of_models_is_refused(settings: Settings, tmp_path: Path, key: str) -> None:
    def given(path: Path) -> list[str]:
        return refused(settings, **{key: str(path)})

    for folder in (settings.storage.models_folder, tmp_path / "gguf", tmp_path / "hf"):
        assert given(folder / "x" / "m.gguf") == []
        assert given(folder.parent / f"{folder.name}-other" / "m.gguf") == [key]
        assert given(folder / ".." / "m.gguf") == [key]
    assert given(Path("/etc/passwd")) == [key]


def test_of_a_path_that_is_refused_nothing_is_looked_at(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    stat = Path.stat

    def recorded(path: Path, **options: Any) -> Any:
        seen.append(str(path))
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", recorded)
    assert refused(settings, model="/etc/passwd") == ["model"]
    assert "/etc/passwd" not in seen


def test_what_the_file_has_stays_for_that_model_and_engine(settings: Settings) -> None:
    there = {"engine": "hf", "params": {"model": "/srv/h", "quantization": {"bits": 4}}}
    settings.storage.models_file.write_text(json.dumps({"h": there}))

    def keys(engine: str = "hf", **params: Any) -> list[str]:
        text = json.dumps({"other": {"engine": engine, "params": {**there["params"], **params}, "pinned": True}})  # type: ignore[dict-item]
        return [mistake["path"].removeprefix("other.params.") for mistake in check_models_text(settings, text)]

    assert keys() == keys(temperature=1) == []
    assert keys(quantization={"bits": 8}) == ["quantization"]
    assert keys(quantization={"bits": True}) == ["quantization"]
    assert keys(model="h") == ["quantization"]
    assert keys(model="/srv/g") == ["model", "quantization"]
    assert keys(trust_remote_code=True) == ["trust_remote_code"]


@pytest.mark.parametrize("old", ["{", "[]", '{"h": 1}', "[" * 5000])
def test_a_file_that_is_broken_gives_nothing(settings: Settings, old: str) -> None:
    settings.storage.models_file.write_text(old)
    assert refused(settings, extra_args=["-v"]) == ["extra_args"]
