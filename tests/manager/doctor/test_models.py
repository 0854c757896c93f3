from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from manager.doctor import Level
from tests.conftest import EMPTY_GGUF
from tests.fakes.nvml import Gpu
from tests.gguf_files import write_tiny_gguf
from tests.manager.doctor.conftest import Look, Nvml, llama_server


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """data/models, with a model that is whole and one that is cut off."""
    folder = tmp_path / "data" / "models"
    folder.mkdir(parents=True)
    write_tiny_gguf(folder / "tiny.gguf", file_type=None)
    (folder / "cut.gguf").write_bytes((folder / "tiny.gguf").read_bytes()[:5000])
    return folder


def list_models(models: Path, **entries: Any) -> None:
    (models.parent / "models.json").write_text(json.dumps(entries))


def gguf(name: str, **more: Any) -> dict[str, Any]:
    return {"params": {"model": name, **more.pop("params", {})}, **more}


def test_models_that_can_be_loaded_and_the_default_are_told(look: Look, models: Path) -> None:
    list_models(models, a=gguf("tiny.gguf"), b=gguf("tiny.gguf"))
    found = look("models")
    assert found["models.json"].text.endswith("models.json, models: 2")
    assert found["models"].text == "can be loaded: a, b"
    assert found["default model"].text == "a"
    assert look("memory")["default model"].text.startswith("a fits now: ")


def test_model_that_can_not_be_loaded_is_a_warning_and_the_default_one_an_error(look: Look, models: Path) -> None:
    list_models(models, good=gguf("tiny.gguf"), cut=gguf("cut.gguf"), gone=gguf("gone.gguf"))
    found = look("models", model={"name": "gone"})
    assert found["cut"].level is Level.WARNING
    assert "cut.gguf is cut off" in found["cut"].text
    assert found["gone"].level is Level.ERROR
    assert "gone.gguf does not exist" in found["gone"].text
    assert "llamaherd model pull" in str(found["gone"].advice)
    assert "default model" not in look("memory", model={"name": "gone"})


def test_folder_that_is_no_model_is_told_with_the_reason(look: Look, models: Path) -> None:
    (models / "empty").mkdir()
    list_models(models, good=gguf("tiny.gguf"), hf=gguf("empty", engine="hf"))
    found = look("models")["hf"]
    assert found.level is Level.WARNING
    assert "config.json" in found.text


def test_mistakes_of_models_json_are_errors_a_line_each_and_the_rest_goes_on(look: Look, models: Path) -> None:
    list_models(models, a={"params": {"model": "tiny.gguf", "ctxSze": 1}}, b=gguf("tiny.gguf", template="nowhere"))
    found = look("models")
    assert found["models.json"].level is Level.ERROR
    assert "b.template: 'nowhere' is neither a file" in found["models.json"].text  # the last one
    list_models(models, a={"params": {"model": "tiny.gguf", "ctxSze": 1}}, b=gguf("tiny.gguf"))
    found = look("models")
    assert "a.params.ctxSze: unknown key; did you mean ctxSize?" in found["models.json"].text
    assert found["disk"].level is Level.OK
    assert look("memory")["not looked at"].text == "the models have mistakes."


def test_names_in_settings_that_mean_no_model_are_told(look: Look, models: Path) -> None:
    list_models(models, a=gguf("tiny.gguf"))
    groups = {"g": {"models": ["a", "b"], "most": 1}}
    found = look("models", model={"name": "z"}, scheduling={"home": "y", "groups": groups})
    assert found["default model"].level is Level.ERROR
    assert found["scheduling.home"].level is Level.WARNING
    assert "It names b, which" in found["scheduling.groups.g"].text


def test_no_model_at_all_is_a_warning_with_the_command(look: Look) -> None:
    found = look("models")
    assert found["models.json"].level is Level.NOTE
    assert found["models"].level is Level.WARNING
    assert "llamaherd model fetch-starter" in str(found["models"].advice)


def test_template_that_is_no_text_is_an_error(look: Look, models: Path) -> None:
    templates = models.parent / "templates"
    templates.mkdir()
    (templates / "odd.jinja").write_bytes(b"\xff")
    list_models(models, a=gguf("tiny.gguf", template="odd"))
    assert look("models")["template"].level is Level.ERROR


def test_default_model_that_does_not_fit_is_told_with_both_numbers(look: Look, models: Path) -> None:
    list_models(models, a=gguf("tiny.gguf", params={"ctxSize": 2**33, "parallel": 1}))
    found = look("memory")["default model"]
    assert found.level is Level.ERROR
    assert "a can never fit: host needs " in found.text


def test_slots_that_may_grow_beyond_the_disk_are_a_warning(look: Look) -> None:
    assert "slots" not in look("models", storage={"slots_budget": 0})
    found = look("models", storage={"slots_budget": 2**60})["slots"]
    assert found.level is Level.WARNING
    assert "set storage.slots_budget to " in str(found.advice)


def test_model_whose_header_says_nothing_breaks_no_check(look: Look, models: Path) -> None:
    (models / "empty.gguf").write_bytes(EMPTY_GGUF)
    list_models(models, a=gguf("empty.gguf"))
    assert look("memory")["default model"].level is Level.OK


def test_models_json_that_is_a_folder_is_to_be_removed(look: Look, models: Path) -> None:
    (models.parent / "models.json").mkdir()
    found = look("models")["models.json"]
    assert (found.level, "remove that folder" in str(found.advice)) == (Level.ERROR, True)


def test_models_json_below_what_is_no_folder_belongs_elsewhere(look: Look) -> None:
    found = look("models", storage={"models_file": "/dev/null/models.json"})["models.json"]
    assert (found.level, "set storage.models_file" in str(found.advice)) == (Level.ERROR, True)


def test_mistake_of_the_settings_is_not_mended_in_models_json(look: Look, models: Path) -> None:
    list_models(models, a=gguf("tiny.gguf"))
    found = look("models", model={"name": "a", "path": models / "cut.gguf"})["models.json"]
    assert (found.level, "mend that setting" in str(found.advice)) == (Level.ERROR, True), found


def test_default_model_that_has_room_on_one_gpu_of_several_fits(
    look: Look, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    binary = llama_server(tmp_path / "bin" / "llama-server", "CUDA0: A (1 MiB)", "CUDA1: B (1 MiB)")
    list_models(models, a=gguf("tiny.gguf", params={"gpuLayers": -1}))
    nvml = Nvml(Gpu(free=1 << 20, uuid="GPU-0"), Gpu(free=24 << 30, uuid="GPU-1"))
    found = look("memory", nvml=nvml, llama={"binary": binary})["default model"]
    assert (found.level, "gpu1" in found.text, "gpu0" in found.text) == (Level.OK, True, False), found.text
