"""The catalog: what models.json, settings and discovery become together."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from manager.catalog import Catalog, Found, LlamaParams, ModelEntry, Template, load_catalog
from manager.errors import ConfigError, ModelNotFound
from manager.settings import Settings
from manager.templates import BUILTIN
from tests.conftest import MakeSettings
from tests.gguf_files import write_header_only, write_tiny_gguf, write_truncated_gguf


class House:
    """A data folder in which a test puts models, and the settings for it."""

    def __init__(self, root: Path, make_settings: MakeSettings) -> None:
        self.root = root
        self.data = root / "data"
        self.models = self.data / "models"
        self.gguf = root / "gguf"
        self.hf = root / "hf"
        self.models.mkdir(parents=True)
        self._make = make_settings

    def settings(self, **sections: dict[str, Any]) -> Settings:
        storage: dict[str, Any] = {"data_folder": self.data} | sections.pop("storage", {})
        return self._make(storage=storage, **sections)

    def write(self, entries: dict[str, Any]) -> None:
        (self.data / "models.json").write_text(json.dumps(entries), encoding="utf-8")

    def load(self, **sections: dict[str, Any]) -> Catalog:
        return load_catalog(self.settings(**sections))

    def discover(self, **sections: dict[str, Any]) -> Catalog:
        for folder in (self.gguf, self.hf):
            folder.mkdir(exist_ok=True)
        return self.load(storage={"gguf_models_dir": self.gguf, "hf_models_dir": self.hf}, **sections)

    def mistake(self, **sections: dict[str, Any]) -> str:
        with pytest.raises(ConfigError) as caught:
            self.load(**sections)
        return caught.value.message.replace(f"{self.data / 'models.json'}: ", "")


@pytest.fixture
def house(tmp_path: Path, make_settings: MakeSettings) -> House:
    return House(tmp_path, make_settings)


def entry(model: str = "m.gguf", params: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {"params": {"model": model, **(params or {})}, **more}


def only(catalog: Catalog) -> ModelEntry:
    (found,) = catalog
    return found


# entries of models.json


def test_nothing_at_all_is_an_empty_catalog(house: House) -> None:
    catalog = house.load()
    assert len(catalog) == 0
    assert list(catalog) == []
    assert catalog.default is None
    with pytest.raises(ModelNotFound):
        catalog.find("m")


def test_an_entry_becomes_what_an_engine_needs(house: House) -> None:
    file = write_header_only(house.models / "sub" / "m.gguf")
    house.write(
        {"m": entry("sub\\m.gguf", {"ctxSize": 64}, template="zephyr", personalities={"p": "Be p."}, aliases=["a"])}
    )
    found = only(house.load())
    assert (found.name, found.engine, found.path, found.source) == ("m", "llama", file, "models.json")
    assert (found.params.ctx_size, found.template, found.aliases) == (64, Template(builtin="zephyr"), ("a",))
    assert found.created == int(file.stat().st_mtime)
    assert found.unavailable is None
    assert found.personality("p") == "Be p."


@pytest.mark.parametrize("text", ["sub/m.gguf", "sub\\m.gguf", "./sub//m.gguf", "other/../sub/m.gguf"])
def test_relative_paths_start_in_the_models_folder(text: str, house: House) -> None:
    write_header_only(house.models / "sub" / "m.gguf")
    house.write({"m": entry(text)})
    assert only(house.load()).path == house.models / "sub" / "m.gguf"


def test_the_models_folder_can_be_elsewhere_and_paths_can_be_absolute(house: House) -> None:
    elsewhere = house.root / "store"
    write_header_only(elsewhere / "m.gguf")
    house.write({"relative": entry(), "absolute": entry(str(elsewhere / "m.gguf"))})
    catalog = house.load(storage={"models_folder": elsewhere})
    assert [(found.path, found.unavailable) for found in catalog] == [(elsewhere / "m.gguf", None)] * 2


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"model": "../m.gguf"}, "m.params.model: '../m.gguf' leads out of the models folder"),
        ({"model": "a\\..\\..\\m.gguf"}, "m.params.model: 'a\\\\..\\\\..\\\\m.gguf' leads out of the models folder"),
        ({"model": "C:\\m.gguf"}, "m.params.model: 'C:\\\\m.gguf' is a path on a Windows drive"),
        ({"model": "m\u0000.gguf"}, "m.params.model: 'm\\x00.gguf' is not a path"),
        ({"model": "m.gguf", "mmproj": "../p.gguf"}, "m.params.mmproj: '../p.gguf' leads out"),
        ({"model": "m.gguf", "lora": ["../l.gguf"]}, "m.params.lora: '../l.gguf' leads out"),
    ],
)
def test_paths_that_can_not_be_meant_are_mistakes(params: dict[str, Any], message: str, house: House) -> None:
    house.write({"m": {"params": params}})
    assert house.mistake().startswith(message)


def test_projector_and_adapters_are_resolved_like_the_model(house: House) -> None:
    for name in ("m", "p", "l"):
        write_header_only(house.models / f"{name}.gguf")
    house.write({"m": entry(params={"mmproj": "p.gguf", "lora": [{"path": "l.gguf", "scale": 2}]})})
    found = only(house.load())
    assert found.mmproj == house.models / "p.gguf"
    assert [(lora.path, lora.scale) for lora in found.llama.lora] == [(str(house.models / "l.gguf"), 2.0)]
    assert found.unavailable is None


@pytest.mark.parametrize("missing", ["sub/m.gguf", "p.gguf", "l.gguf"])
def test_a_missing_file_leaves_the_model_in_the_list_with_the_reason(
    missing: str, house: House, caplog: pytest.LogCaptureFixture
) -> None:
    for name in {"sub/m.gguf", "p.gguf", "l.gguf"} - {missing}:
        write_header_only(house.models / name)
    house.write({"m": entry("sub/m.gguf", {"mmproj": "p.gguf", "lora": "l.gguf"})})
    with caplog.at_level(logging.WARNING):
        found = only(house.load())
    assert found.unavailable == f"{missing} does not exist"
    assert f"model=m unavailable={missing} does not exist" in caplog.text


def test_broken_files_are_listed_with_the_reason(house: House) -> None:
    write_truncated_gguf(house.models / "cut.gguf", keep=100_000)
    (house.models / "html.gguf").write_text("<html>", encoding="utf-8")
    house.write({"cut": entry("cut.gguf"), "html": entry("html.gguf")})
    assert [found.unavailable for found in house.load()] == [
        "cut.gguf is cut off: 100,000 bytes of at least 229,248",
        "html.gguf is not a GGUF file",
    ]


# Hugging Face folders


def write_folder(folder: Path, *names: str) -> Path:
    """A folder with a config.json and these files, all of them empty but that one."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}", encoding="utf-8")
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    return folder


def test_an_entry_of_the_hugging_face_engine_is_a_folder_with_its_own_parameters(house: House) -> None:
    folder = write_folder(house.models / "org" / "m", "model.safetensors")
    more: dict[str, Any] = {"aliases": ["a"], "personalities": {"p": "Be p."}, "ttl": 5, "pinned": True, "queue": 3}
    house.write({"m": entry("org\\m", {"cacheTokens": 64, "temperature": 0}, engine="hf", **more)})
    found = only(house.load())
    assert (found.path, found.engine, found.mmproj, found.unavailable) == (folder, "hf", None, None)
    assert (found.hf.cache_tokens, found.hf.temperature, found.hf.parallel) == (64, 0, 16)
    assert (found.aliases, found.personality("p"), found.ttl) == (("a",), "Be p.", 5)
    assert (found.pinned, found.queue) == (True, 3)


def test_parameters_of_the_wrong_engine_are_never_given(house: House) -> None:
    write_folder(house.models / "f", "model.safetensors")
    house.write({"f": entry("f", engine="hf"), "g": entry()})
    folder, file = house.load()
    with pytest.raises(TypeError, match="f is no GGUF model"):
        _ = folder.llama
    with pytest.raises(TypeError, match="g is no Hugging Face model"):
        _ = file.hf


@pytest.mark.parametrize(
    ("names", "pickle", "reason"),
    [
        ((), False, "f holds no weights: neither model.safetensors nor model.safetensors.index.json"),
        (("adapter_model.safetensors",), False, "f holds no weights"),
        (("model.safetensors.index.json",), False, "f holds no weights, only the index of their files"),
        (("model.safetensors.index.json", "other.safetensors"), False, None),
        (("model.safetensors.index.json", "model-00001-of-00001.safetensors"), False, None),
        (
            ("model.safetensors.index.json", "model-00002-of-00003.safetensors"),
            False,
            "f: of the 3 files of its weights these are missing: 1, 3",
        ),
        (
            ("pytorch_model.bin",),
            False,
            "f holds no safetensors, and pytorch_model.bin can run code when it is loaded; allow_pickle in its params",
        ),
        (("pytorch_model.bin",), True, None),
        (("pytorch_model.bin.index.json",), True, "f holds no weights, only the index of their files"),
        (("pytorch_model.bin", "model.safetensors"), False, None),
    ],
)
def test_a_folder_without_weights_that_may_be_loaded_is_listed_with_the_reason(
    names: tuple[str, ...], pickle: bool, reason: str | None, house: House
) -> None:
    write_folder(house.models / "f", *names)
    house.write({"m": entry("f", {"allow_pickle": pickle}, engine="hf")})
    found = only(house.load()).unavailable
    assert found is None if reason is None else str(found).startswith(reason)


def test_what_is_no_folder_of_a_model_is_listed_with_the_reason(house: House, caplog: pytest.LogCaptureFixture) -> None:
    (house.models / "empty").mkdir()
    write_header_only(house.models / "m.gguf")
    house.write({name: entry(name, engine="hf") for name in ("gone", "empty", "m.gguf")})
    assert [found.unavailable for found in house.load()] == [
        "gone does not exist",
        "empty holds no config.json",
        "m.gguf is no folder; a model of the engine hf is a folder with config.json and the weights",
    ]
    assert "model=gone unavailable=gone does not exist" in caplog.text


def test_without_the_extra_models_are_listed_with_the_command_that_installs_it(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)  # by which Python says that it is not there
    for name in ("a", "b"):
        write_folder(house.models / name, "model.safetensors")
    house.write({name: entry(name, engine="hf") for name in ("a", "b", "gone")} | {"m": entry()})
    reasons = [str(found.unavailable) for found in house.load()]
    assert all("llguidance" in reason and "pip install" in reason and "[hf]" in reason for reason in reasons[:2])
    assert reasons[2:] == ["gone does not exist", "m.gguf does not exist"]
    assert caplog.text.count("llguidance") == 1


@pytest.mark.parametrize(
    "changed",
    ["config.json", "tokenizer.json", "model.safetensors", "chat_template.jinja", "1_Pooling/config.json", "vocab.txt"],
)
def test_a_folder_with_another_file_is_another_entry(changed: str, house: House) -> None:
    names = {"tokenizer.json", "model.safetensors", "chat_template.jinja", "1_Pooling/config.json", "vocab.txt"}
    folder = write_folder(house.models / "f", *names, "README.md")
    house.write({"m": entry("f", engine="hf")})
    before, again = tuple(house.load()), tuple(house.load())
    (folder / "README.md").write_text("News.", encoding="utf-8")
    read_again = tuple(house.load())
    os.utime(folder / changed, ns=(1, 1))
    after = tuple(house.load())
    assert before == again
    assert before[0].stamps == read_again[0].stamps
    assert before[0].stamps != after[0].stamps


def test_a_folder_takes_a_jinja_file_but_no_template_of_llama_cpp(house: House) -> None:
    folder = house.data / "templates"
    folder.mkdir()
    (folder / "own.jinja").write_text("{{ messages }}", encoding="utf-8")
    house.write({"m": entry("f", engine="hf", template="own")})
    template = only(house.load()).template
    assert template is not None
    assert template.file == folder / "own.jinja"
    house.write({"m": entry("f", engine="hf", template="zephyr")})
    assert house.mistake() == (
        f"m.template: 'zephyr' is built into llama.cpp; a model of the engine hf needs a file in {folder}"
    )


def test_a_folder_that_leads_out_of_the_models_folder_is_a_mistake(house: House) -> None:
    house.write({"m": entry("../f", engine="hf")})
    assert house.mistake().startswith("m.params.model: '../f' leads out of the models folder")


def test_names_and_aliases_are_unique(house: House) -> None:
    house.write({"a": entry(aliases=["x"]), "b": entry(aliases=["x", "a"]), "x": entry()})
    assert house.mistake().splitlines() == [
        "b.aliases: the name 'x' is taken by the entry a",
        "b.aliases: the name 'a' is taken by the entry a",
        "x: the name 'x' is taken by the entry b",
    ]


def test_mistakes_of_the_file_come_before_any_model_is_opened(house: House) -> None:
    house.write({"m": entry(params={"gpuLayer": 1})})
    assert house.mistake() == "m.params.gpuLayer: unknown key; did you mean gpuLayers?"


# defaults


def test_settings_are_defaults_of_every_llama_model_that_does_not_say_its_own(house: House) -> None:
    write_header_only(house.gguf / "found.gguf")
    house.write(
        {
            "own": entry(params={"ctx_size": 0, "gpu_layers": 0, "temperature": 0, "n_predict": 5, "threads": 2}),
            "none": entry(),
        }
    )
    catalog = house.discover(
        model={"ctx_size": 64, "gpu_layers": -1, "batch_size": 32, "threads": 3},
        generation={"default_temperature": 0.5, "default_max_tokens": 99},
    )
    shown = [
        (p.ctx_size, p.gpu_layers, p.batch_size, p.threads, p.temperature, p.n_predict)
        for p in (found.llama for found in catalog)
    ]
    assert shown == [(0, 0, 32, 2, 0, 5), (64, -1, 32, 3, 0.5, 99), (64, -1, 32, 3, 0.5, 99)]


def test_settings_are_defaults_of_hugging_face_models_as_far_as_they_have_them(house: House) -> None:
    write_folder(house.hf / "found", "model.safetensors")
    write_folder(house.models / "own", "model.safetensors")
    house.write({"own": entry("own", {"ctx_size": 0, "temperature": 0}, engine="hf")})
    catalog = house.discover(
        model={"ctx_size": 64, "gpu_layers": -1, "batch_size": 32, "threads": 3},
        generation={"default_temperature": 0.5, "default_max_tokens": 99},
    )
    shown = [(p.ctx_size, p.batch_size, p.threads, p.temperature, p.n_predict) for p in (e.hf for e in catalog)]
    assert shown == [(0, 32, 3, 0, 99), (64, 32, 3, 0.5, 99)]


# templates


def test_a_file_goes_before_a_built_in_template(house: House) -> None:
    folder = house.data / "templates"
    folder.mkdir()
    for name in ("zephyr.jinja", "own.jinja", "whole.txt"):
        (folder / name).write_text("{{ messages }}", encoding="utf-8")
    names = ["zephyr", "own", "own.jinja", "whole.txt", "chatml"]
    house.write({name: entry(template=name) for name in names} | {"none": entry()})
    found = [found.template for found in house.load()]
    assert [None if template is None else template.file for template in found] == [
        folder / "zephyr.jinja",
        folder / "own.jinja",
        folder / "own.jinja",
        folder / "whole.txt",
        None,
        None,
    ]
    assert found[4:] == [Template(builtin="chatml"), None]


def test_a_template_with_a_new_text_is_another_one(house: House) -> None:
    folder = house.data / "templates"
    folder.mkdir()
    (folder / "own.jinja").write_text("{{ messages }}", encoding="utf-8")
    house.write({"m": entry(template="own")})
    before, again = tuple(house.load()), tuple(house.load())
    os.utime(folder / "own.jinja", ns=(1, 1))
    after = tuple(house.load())
    assert before == again
    assert before != after


@pytest.mark.parametrize("name", ["zephir", "../zephyr", "/etc/passwd", "a\u0000b", "x" * 300])
def test_an_unknown_template_is_a_mistake(name: str, house: House) -> None:
    (house.data / "templates").mkdir()
    (house.data / "zephyr").touch()
    house.write({"m": entry(template=name)})
    message = house.mistake()
    assert message.startswith("m.template: '")
    assert "is neither a file in" in message


def test_an_unknown_template_names_the_nearest(house: House) -> None:
    (house.data / "templates").mkdir()
    (house.data / "templates" / "pirate.jinja").touch()
    house.write({"m": entry(template="zephir")})
    assert house.mistake().endswith("nor a template of llama.cpp; did you mean zephyr?")
    house.write({"m": entry(template="pirates")})
    assert house.mistake().endswith("; did you mean pirate?")


def test_built_in_templates_are_those_of_llama_cpp() -> None:
    assert len(BUILTIN) == 54
    assert {"chatml", "zephyr", "llama3", "mistral-v7-tekken", "gpt-oss", "granite-4.0"} <= BUILTIN


def test_a_template_is_a_name_or_a_file() -> None:
    with pytest.raises(ValueError, match="a built-in name or a file"):
        Template()
    with pytest.raises(ValueError, match="a built-in name or a file"):
        Template(builtin="chatml", file=Path("/x"))


# names


@pytest.fixture
def named(house: House) -> Catalog:
    house.write(
        {
            "Mistral-7b": entry(personalities={"geography teacher": "Teach.", "poet": "Rhyme."}, aliases=["gpt-4"]),
            "qwen:7b": entry(personalities={"poet": "Rhyme."}),
            "Mistral-7b:poet": entry(),
        }
    )
    return house.load()


def test_a_model_is_found_by_name_alias_and_personality(named: Catalog) -> None:
    def found(name: str) -> tuple[str, str | None]:
        entry, personality, profile = named.find(name)
        assert profile is None
        return entry.name, personality

    assert found("Mistral-7b") == ("Mistral-7b", None)
    assert found("gpt-4") == ("Mistral-7b", None)
    assert found("Mistral-7b:geography teacher") == ("Mistral-7b", "geography teacher")
    assert found("gpt-4:poet") == ("Mistral-7b", "poet")
    assert found("qwen:7b") == ("qwen:7b", None)
    assert found("qwen:7b:poet") == ("qwen:7b", "poet")
    assert found("Mistral-7b:poet") == ("Mistral-7b:poet", None)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mistral-7b", "The model 'mistral-7b' does not exist; did you mean Mistral-7b?"),
        ("nothing-like-it", "The model 'nothing-like-it' does not exist"),
        ("", "The model '' does not exist"),
        (":", "The model ':' does not exist"),
        (
            "gpt-4:geografy teacher",
            "The model 'gpt-4' has no personality 'geografy teacher'; did you mean gpt-4:geography teacher?",
        ),
        ("gpt-4:", "The model 'gpt-4' has no personality ''"),
    ],
)
def test_an_unknown_name_is_told_with_the_nearest(name: str, message: str, named: Catalog) -> None:
    with pytest.raises(ModelNotFound) as caught:
        named.find(name)
    assert (caught.value.message, caught.value.param) == (message, "model")


def test_a_very_long_name_is_refused_at_once_and_cut_in_the_message(named: Catalog) -> None:
    started = time.perf_counter()
    with pytest.raises(ModelNotFound) as caught:
        named.find("Mistral" * 100_000)
    assert time.perf_counter() - started < 0.5
    assert len(caught.value.message) < 150


def test_a_profile_is_found_behind_every_name_of_its_model(house: House) -> None:
    request = {"default": {"temperature": 0.5}}
    profiles = {"verse": {"personality": "poet"}, "bold": {"request": {"set": {"temperature": 2}}}}
    house.write({"qwen:7b": entry(aliases=["q"], personalities={"poet": "O."}, request=request, profiles=profiles)})
    catalog = house.load()
    model = only(catalog)
    for name in ("qwen:7b", "q"):
        assert catalog.find(name) == Found(model)
        assert catalog.find(f"{name}:poet") == Found(model, "poet")
        assert catalog.find(f"{name}:verse") == Found(model, "poet", "verse")
    assert catalog.find("q:poet").request.as_dict() == {"set": {}, "strip": [], **request}
    assert catalog.find("q:bold").request.as_dict() == {"set": {"temperature": 2}, "strip": [], **request}
    with pytest.raises(ModelNotFound, match="has no profile or personality 'bolt'; did you mean q:bold"):
        catalog.find("q:bolt")


@pytest.mark.parametrize("order", [1, -1])
def test_an_id_of_a_profile_can_not_be_the_name_of_another_model(house: House, order: int) -> None:
    entries = {"m": entry(aliases=["a"], profiles={"bold": {}}), "a:bold": entry()}
    house.write(dict([*entries.items()][::order]))
    with pytest.raises(ConfigError, match="'a:bold' is taken by"):
        house.load()


def test_a_profile_wins_over_a_found_file_with_its_id(house: House) -> None:
    house.write({"m": entry(profiles={"bold": {}})})
    house.gguf.mkdir()
    for name in ("m:bold", "m:other"):
        write_tiny_gguf(house.gguf / f"{name}.gguf")
    catalog = house.discover()
    assert catalog.names == ("m", "m:other")
    assert catalog.find("m:bold").profile == "bold"


def test_the_model_of_the_settings_can_not_have_the_id_of_a_profile(house: House) -> None:
    house.write({"m": entry(profiles={"bold": {}})})
    model = {"path": house.models / "other.gguf", "name": "m:bold"}
    assert house.mistake(model=model) == "model.name: 'm:bold' is taken by a profile of the entry m"


def test_an_unknown_personality_is_told_with_the_nearest(named: Catalog) -> None:
    found = named.find("Mistral-7b")[0]
    assert found.personality("poet") == "Rhyme."
    with pytest.raises(ModelNotFound) as caught:
        found.personality("poets")
    assert caught.value.param == "personality"
    assert caught.value.message == "The model 'Mistral-7b' has no personality 'poets'; did you mean poet?"


def test_get_and_in_know_names_and_aliases(named: Catalog) -> None:
    assert named.get("gpt-4") is named.get("Mistral-7b")
    assert named.get("no") is None
    assert "gpt-4" in named
    assert "Mistral-7b:geography teacher" not in named
    assert named.names == ("Mistral-7b", "qwen:7b", "Mistral-7b:poet")


def test_entries_can_not_be_changed(named: Catalog) -> None:
    found = named.find("Mistral-7b")[0]
    with pytest.raises(AttributeError):
        found.name = "other"  # type: ignore[misc]
    with pytest.raises(TypeError):
        found.personalities["x"] = "y"  # type: ignore[index]


def test_reading_again_without_a_change_gives_equal_entries(house: House) -> None:
    house.write({"m": entry(personalities={"p": "P"}, template="zephyr")})
    assert list(house.load()) == list(house.load())


# the default


def test_the_default_is_the_model_of_the_settings_else_the_first_that_can_run(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    write_header_only(house.models / "m.gguf")
    house.write({"broken": entry("no.gguf"), "b": entry(aliases=["alias"]), "c": entry()})
    assert house.load().default == "b"
    assert house.load(model={"name": "c"}).default == "c"
    assert house.load(model={"name": "alias"}).default == "b"
    assert house.load(model={"name": "broken"}).default == "broken"
    assert house.load(model={"name": "brokn"}).default == "b"
    assert "model=brokn is to be the default but does not exist; did you mean broken?" in caplog.text


def test_the_first_is_the_default_where_none_can_run(house: House) -> None:
    house.write({"x": entry("no.gguf"), "y": entry("no.gguf")})
    assert house.load().default == "x"


# the one model of the settings


def test_a_vision_model_comes_from_the_environment(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    write_header_only(house.root / "v.gguf")
    write_header_only(house.root / "p.gguf")
    write_header_only(house.models / "m.gguf")
    house.write({"m": entry()})
    values = {"MODEL_TYPE": "VL", "MODEL_PATH": "v.gguf", "MMPROJ_PATH": "p.gguf", "MODEL_NAME": "seer"}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    catalog = house.load()
    found = catalog.find("seer")[0]
    assert (found.path, found.mmproj, found.source) == (house.root / "v.gguf", house.root / "p.gguf", "environment")
    assert found.unavailable is None
    assert catalog.names == ("m", "seer")
    assert catalog.default == "seer"


def test_a_text_model_of_the_environment_has_no_projector_and_may_be_named_by_its_file(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_header_only(house.root / "t-00001-of-00001.gguf")
    values = {"MODEL_TYPE": "LLM", "MODEL_PATH": "t-00001-of-00001.gguf", "MMPROJ_PATH": "p.gguf"}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    catalog = house.load()
    assert only(catalog).mmproj is None
    assert (only(catalog).name, catalog.default) == ("t", "t")


def test_an_entry_for_the_same_file_takes_the_place_of_the_settings(house: House) -> None:
    file = write_header_only(house.models / "m.gguf")
    house.write({"first": entry("no.gguf"), "m": entry(personalities={"p": "P"})})
    for model in ({"path": file}, {"path": file, "name": "m"}):
        catalog = house.load(model=model)
        assert (catalog.names, catalog.default) == (("first", "m"), "m")
    catalog = house.load(model={"path": file, "name": "other"})
    assert (catalog.names, catalog.default) == (("first", "m", "other"), "other")


def test_one_name_for_two_files_is_a_mistake(house: House) -> None:
    house.write({"m": entry()})
    message = house.mistake(model={"path": "/elsewhere/x.gguf", "name": "m"})
    assert message.startswith("model.name: 'm' is /elsewhere/x.gguf by the settings (MODEL_PATH, MODEL_NAME), but ")


def test_a_model_of_the_settings_that_is_missing_is_listed_by_its_file_name_only(house: House) -> None:
    found = only(house.load(model={"path": "/elsewhere/x.gguf"}))
    assert (found.name, found.unavailable, found.created) == ("x", "x.gguf does not exist", 0)


# discovery


def test_discovered_models_come_after_the_entries(house: House) -> None:
    write_tiny_gguf(house.gguf / "tiny.gguf")
    write_truncated_gguf(house.gguf / "cut.gguf", keep=9000)
    write_folder(house.hf / "org" / "bert", "model.safetensors")
    house.write({"z": entry()})
    catalog = house.discover()
    assert [(found.name, found.source, found.engine) for found in catalog] == [
        ("z", "models.json", "llama"),
        ("cut", "discovered", "llama"),
        ("tiny", "discovered", "llama"),
        ("bert", "discovered", "hf"),
    ]
    assert catalog.default == "tiny"
    bert = catalog.find("bert")[0]
    assert (bert.path, bert.unavailable) == (house.hf / "org" / "bert", None)
    assert str(catalog.find("cut")[0].unavailable).startswith("cut.gguf is cut off: 9,000 bytes")


def test_an_entry_wins_over_a_discovered_model_of_the_same_name_or_file(house: House) -> None:
    for name in ("a", "b", "c", "d"):
        write_header_only(house.gguf / f"{name}.gguf")
    link = house.models / "link.gguf"
    link.symlink_to(house.gguf / "b.gguf")
    house.write(
        {
            "a": entry("no.gguf"),
            "other": entry("link.gguf"),
            "vision": entry("no.gguf", {"mmproj": str(house.gguf / "d.gguf")}),
        }
    )
    catalog = house.discover()
    assert catalog.names == ("a", "other", "vision", "c")
    assert catalog.find("a")[0].source == "models.json"


def test_an_entry_for_a_folder_wins_over_its_discovery(house: House) -> None:
    folder = write_folder(house.hf / "bert", "model.safetensors")
    (house.models / "link").symlink_to(folder)
    house.write({"other": entry("link", engine="hf")})
    assert house.discover().names == ("other",)


def test_split_models_and_projectors_of_discovery(house: House) -> None:
    write_header_only(house.gguf / "s-00001-of-00002.gguf")
    for name in ("v/v-Q4_0.gguf", "v/mmproj-v.gguf"):
        write_header_only(house.gguf / name)
    catalog = house.discover()
    assert catalog.names == ("s", "v-Q4_0")
    assert catalog.find("s")[0].unavailable == "s: of its 2 parts these are missing: 2"
    assert catalog.find("v-Q4_0")[0].mmproj == house.gguf / "v" / "mmproj-v.gguf"


def test_a_folder_that_was_set_and_does_not_exist_is_a_mistake(house: House) -> None:
    assert house.mistake(storage={"gguf_models_dir": "/no/such"}) == (
        "storage.gguf_models_dir (GGUF_MODELS_DIR): /no/such can't be read: No such file or directory"
    )
    assert house.mistake(storage={"hf_models_dir": "/no/such"}).startswith("storage.hf_models_dir (HF_MODELS_DIR): ")


def test_a_file_whose_name_no_client_could_send_is_skipped(house: House, caplog: pytest.LogCaptureFixture) -> None:
    house.gguf.mkdir()
    for name in (b"new\nline.gguf", b"latin-\xe9.gguf"):
        Path(str(house.gguf).encode().decode() + "/" + name.decode("utf-8", "surrogateescape")).touch()
    assert len(house.discover()) == 0
    assert caplog.text.count("skipped=its name") == 2


def test_nothing_on_disk_makes_loading_raise(house: House) -> None:
    write_header_only(house.gguf / "m.gguf")
    (house.gguf / "loop.gguf").symlink_to("loop.gguf")
    (house.gguf / "gone.gguf").symlink_to("nowhere")
    (house.gguf / "folder.gguf").mkdir()
    house.write(
        {"long": entry("x" * 300 + ".gguf"), "folder": entry("."), "loop": entry(str(house.gguf / "loop.gguf"))}
    )
    unavailable = {found.name: found.unavailable for found in house.discover()}
    assert unavailable.pop("m") is None
    assert set(unavailable) == {"long", "folder", "loop", "gone"}
    assert None not in unavailable.values()


def test_two_hundred_entries_load_fast(house: House) -> None:
    write_tiny_gguf(house.models / "m.gguf")
    house.write(
        {
            f"model-{number}": entry(
                params={"ctxSize": 4096, "temperature": 0.7}, template="zephyr", personalities={"p": "P"}
            )
            for number in range(200)
        }
    )
    house.load()
    seconds = min(_timed(house) for _ in range(3))
    assert seconds < 0.2


def _timed(house: House) -> float:
    settings = house.settings()
    started = time.perf_counter()
    load_catalog(settings)
    return time.perf_counter() - started


def test_params_have_the_defaults_that_engines_rely_on() -> None:
    params = LlamaParams(model="m.gguf")
    assert (params.instruct, params.parallel, params.kv_unified, params.embedding) == (True, 2, False, False)
