"""Pinning: a field of models.json, changed in place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pytest

from manager.catalog import load_catalog
from manager.engines.kinds import KINDS, EngineKind
from manager.entry import ModelEntry, ModelParams
from manager.models_edit import FileChanged, NotWritten
from manager.pins import NoEntry, set_pinned
from manager.pool import _runs_alike
from manager.settings import Settings
from tests.conftest import EMPTY_GGUF, MakeSettings

# As people write: their own order, spaces and blank lines.
WRITTEN: Final = """{
    "$schema": "models.schema.json",
    "one" : {
        "aliases": ["uno"],

        "params": {"model": "one.gguf" }
    },
    "two": {"pinned":  true , "params": {"model": "two.gguf"}}
}
"""


class Models:
    """A data folder, and pins in it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.folder = settings.storage.models_folder
        self.file = settings.storage.models_file

    def gguf(self, name: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(EMPTY_GGUF)

    def pin(self, name: str, *, pinned: bool = True) -> Any:
        """The entry of the catalog afterwards."""
        set_pinned(self.settings, load_catalog(self.settings).find(name).entry, pinned=pinned)
        return load_catalog(self.settings).find(name).entry

    def names(self) -> list[str]:
        return sorted(load_catalog(self.settings).names)


@pytest.fixture
def models(make_settings: MakeSettings, tmp_path: Path) -> Models:
    made = Models(make_settings(storage={"gguf_models_dir": tmp_path / "data" / "models"}))
    made.folder.mkdir(parents=True)
    return made


def test_only_the_field_of_the_entry_changes(models: Models) -> None:
    models.file.write_text(WRITTEN)
    assert models.pin("two", pinned=False).pinned is False
    unpinned = WRITTEN.replace("  true ", "  false ")
    assert models.file.read_text() == unpinned
    assert models.pin("uno").pinned is True
    pinned = unpinned.replace('one.gguf" }\n', 'one.gguf" },\n\n        "pinned": true\n')
    assert models.file.read_text() == pinned
    models.pin("one", pinned=False)
    assert models.file.read_text() == pinned.replace('"pinned": true', '"pinned": false')


def test_what_is_so_already_is_not_written(models: Models) -> None:
    models.file.write_text(WRITTEN)
    before = models.file.stat()
    models.pin("two")
    models.pin("one", pinned=False)
    assert models.file.stat() == before


@pytest.mark.parametrize("written", [None, "", "\ufeff{\r\n}\r\n", WRITTEN])
def test_a_discovered_model_gets_an_entry_that_means_the_same_process(models: Models, written: str | None) -> None:
    if written:
        models.file.write_text(written, newline="")
    models.gguf("org/new.gguf")
    models.gguf("org/mmproj-new.gguf")
    found = load_catalog(models.settings).find("new").entry
    assert (found.source, found.mmproj) == ("discovered", models.folder / "org" / "mmproj-new.gguf")
    entry = models.pin("new")
    assert json.loads(models.file.read_text(encoding="utf-8-sig"))["new"] == {
        "params": {"model": "org/new.gguf", "mmproj": "org/mmproj-new.gguf"},
        "pinned": True,
    }
    assert (entry.source, entry.pinned) == ("models.json", True)
    assert _runs_alike(found, entry)
    assert models.pin("new", pinned=False).pinned is False


def test_a_discovered_folder_says_its_engine(make_settings: MakeSettings, tmp_path: Path) -> None:
    folder = tmp_path / "hf" / "tiny"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"")
    models = Models(make_settings(storage={"hf_models_dir": tmp_path / "hf"}))
    found = load_catalog(models.settings).find("tiny").entry
    entry = models.pin("tiny")
    written = {"engine": "hf", "params": {"model": str(folder)}, "pinned": True}  # it is not in the folder of models
    assert json.loads(models.file.read_text()) == {"tiny": written}
    assert _runs_alike(found, entry)


def test_a_file_that_is_called_as_the_schema_is_no_model(models: Models) -> None:
    models.gguf("$schema.gguf")
    assert models.names() == []


def test_an_engine_without_files_runs_another_model_under_another_name(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = EngineKind(params=ModelParams, make=NotImplemented)
    monkeypatch.setattr(KINDS, "_known", {"own": kind})

    def entry(model: str) -> ModelEntry:
        return ModelEntry("m", Path(model), ModelParams(model=model), engine="own")

    assert _runs_alike(entry("a/b"), entry("a/b"))
    assert entry("a/b").path == entry("a//b").path
    assert not _runs_alike(entry("a/b"), entry("a//b"))


def test_unpinning_a_discovered_model_makes_no_entry(models: Models) -> None:
    models.gguf("new.gguf")
    models.pin("new", pinned=False)
    assert not models.file.exists()


@pytest.mark.parametrize("name", ["back\\slash.gguf", "c:drive.gguf"])
def test_a_path_that_would_be_read_as_another_one_is_written_whole(models: Models, name: str) -> None:
    models.gguf(name)
    entry = models.pin(name.removesuffix(".gguf"))
    assert entry.path == models.folder / name


@pytest.mark.parametrize("pinned", ["x", "b/x", "c/x"])
def test_others_that_are_called_alike_keep_their_names(models: Models, pinned: str) -> None:
    for folder in "abc":
        models.gguf(f"{folder}/x.gguf")
    assert models.names() == ["b/x", "c/x", "x"]
    path = models.pin(pinned).path
    assert models.names() == ["b/x", "c/x", "x"]
    assert load_catalog(models.settings).find(pinned).entry.path == path


def test_the_model_of_the_settings_has_no_entry_to_change(make_settings: MakeSettings, tmp_path: Path) -> None:
    (tmp_path / "own.gguf").write_bytes(EMPTY_GGUF)
    models = Models(make_settings(model={"path": tmp_path / "own.gguf"}))
    with pytest.raises(NoEntry, match="'own' is that of the settings"):
        models.pin("own")
    assert not models.file.exists()


def test_an_entry_that_is_gone_from_the_file_is_told(models: Models) -> None:
    models.file.write_text(WRITTEN)
    entry = load_catalog(models.settings).find("one").entry
    models.file.write_text("{}")
    with pytest.raises(FileChanged, match="it has no entry 'one' any more"):
        set_pinned(models.settings, entry, pinned=True)
    assert models.file.read_text() == "{}"


def test_a_file_with_a_mistake_is_left_alone(models: Models) -> None:
    models.file.write_text(WRITTEN)
    entry = load_catalog(models.settings).find("one").entry
    models.file.write_text('{"one": {"params": {}}}')
    with pytest.raises(NotWritten, match=r"models\.json: one\.params\.model: is missing"):
        set_pinned(models.settings, entry, pinned=True)
    assert models.file.read_text() == '{"one": {"params": {}}}'


def test_an_entry_that_the_service_would_not_take_is_not_written(models: Models) -> None:
    models.gguf("odd\n/new.gguf")
    with pytest.raises(NotWritten, match="is not a path"):
        models.pin("new")
    assert not models.file.exists()
