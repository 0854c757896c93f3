"""The example files and the page of settings: complete, valid, and true."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from dotenv import dotenv_values

from manager.engines.llama.arguments import CTX_SIZE
from manager.settings import Settings, load_settings
from manager.settings_layers import DOTENV, EXACT_NAMES, sections_of, variable_names
from tests.conftest import MakeSettings

ROOT = Path(__file__).parents[2]
ENV = ROOT / "config" / "llamaherd.env.example"
PAGE = ROOT / "docs" / "configuration.md"
EXAMPLE = "For example:"
VARIABLE = re.compile(r"^#([A-Z_]+)=(.*)$", re.MULTILINE)


@pytest.fixture(autouse=True)
def _nothing_is_set(make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)


def variables() -> dict[str, tuple[str, str]]:
    """The variables of the file of environment, with their comment and their value."""
    found = {}
    for block in ENV.read_text(encoding="utf-8").split("\n\n"):
        comment = " ".join(line.removeprefix("# ") for line in block.splitlines() if line.startswith("# "))
        for name, value in VARIABLE.findall(block):
            assert name not in found
            found[name] = (comment, value)
    return found


def uncommented(names: list[str]) -> str:
    text = ENV.read_text(encoding="utf-8")
    return VARIABLE.sub(lambda line: line[0].removeprefix("#") if line[1] in names else line[0], text)


def test_file_of_environment_has_every_variable_and_nothing_is_set_in_it() -> None:
    assert variables().keys() == variable_names(Settings).keys()
    assert dotenv_values(ENV) == {}


def test_file_of_environment_says_what_each_setting_means() -> None:
    found = variables()
    for section, keys in sections_of(Settings).items():
        model: Any = Settings.model_fields[section].annotation
        for key in keys:
            comment = found[f"LLAMAHERD_{section}__{key}".upper()][0]
            assert comment.removesuffix(f" {EXAMPLE}") == model.model_fields[key].description


def test_other_names_of_a_setting_stand_beside_it_with_the_same_value() -> None:
    found, names = variables(), variable_names(Settings)
    prefixed = {key: name for name, key in names.items() if name not in EXACT_NAMES}
    for name, key in EXACT_NAMES.items():
        if name != "CONFIG_PATH":
            assert found[name] == found[prefixed[key if isinstance(key, tuple) else (key,)]]


def test_file_of_environment_is_valid_with_every_line_on() -> None:
    names = [name for name in variables() if name != "CONFIG_PATH"]
    DOTENV.write_text(uncommented(names), encoding="utf-8")
    settings = load_settings()
    assert settings.model.name == "my-model"
    assert settings.tls.webroot is not None
    for section, keys in sections_of(Settings).items():
        part = getattr(settings, section)
        assert [key for key in keys if getattr(part, key) in (None, [], {})] == []


def test_lines_that_are_no_examples_say_the_defaults() -> None:
    names = [name for name, (comment, _) in variables().items() if not comment.endswith(EXAMPLE)]
    plain = load_settings()
    DOTENV.write_text(uncommented(names), encoding="utf-8")
    assert load_settings().model_dump() == plain.model_dump()


def test_examples_are_of_settings_that_have_no_default() -> None:
    names, plain = variable_names(Settings), load_settings()
    for name, (comment, _) in variables().items():
        if comment.endswith(EXAMPLE) and name not in ("CONFIG_PATH", "MODEL_TYPE", "LLAMAHERD_MODEL__TYPE"):
            section, key = names[name]
            assert getattr(getattr(plain, section), key) in (None, [], {}), name


def test_systemd_and_a_shell_read_the_same_values_as_we_do() -> None:
    text = uncommented(list(variables()))
    DOTENV.write_text(text, encoding="utf-8")
    read = dotenv_values(DOTENV, interpolate=False)
    for line in text.splitlines():
        assert line == "" or line.startswith("# ") or line == "#" or re.match(r"[A-Z]", line)
        if re.match(r"[A-Z]", line):
            name, _, value = line.partition("=")
            # In single quotes, or without anything that means something to one of the three.
            assert re.fullmatch(r"'[^'\\]*'|[^\s'\"\\$`#;&|<>(){}\[\]]+", value), line
            assert shlex.split(value)[0] == read[name]


def test_example_of_models_is_valid_by_the_schema_that_it_names() -> None:
    example = json.loads((ROOT / "data" / "models.example.json").read_text(encoding="utf-8"))
    schema = json.loads((ROOT / "data" / example["$schema"]).read_text(encoding="utf-8"))
    validator = jsonschema_rs.validator_for(schema)
    validator.validate(example)
    example["Mistral-7b"]["params"]["gpuLayers"] = "80"
    assert not validator.is_valid(example)


# the page of settings


def rows() -> dict[str, tuple[str, str]]:
    """The settings of the page, with the section that their row stands in and their default."""
    found = {}
    for section, text in re.findall(
        r"^### (.+)\n((?:(?!^##).*\n)*)", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE
    ):
        for name, default in re.findall(r"^\| `([a-z_]+\.[a-z_]+)` \| ?(.*?) ?\|", text, flags=re.MULTILINE):
            found[name] = (section, default)
    return found


def documented(section: str, key: str, default: Any) -> str | None:
    """The default as the page has it; None where it is told in words."""
    model: Any = Settings.model_fields[section].annotation
    field = model.model_fields[key]
    if isinstance(default, Path) and field.default_factory is not None and key != "cache_folder":
        return f"`{default.name}` in the data folder"
    if key == "cache_folder" or default is None or default == {}:
        return None
    if isinstance(default, Path):
        return f"`{default.name}`"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f"`{default:g}`" if isinstance(default, float) else f"`{default}`"


def test_page_tells_the_true_default_of_each_setting_in_its_section() -> None:
    found, plain = rows(), load_settings()
    in_words = {"model.ctx_size": f"`{CTX_SIZE}`", "model.type": "`LLM`; `VL` where `model.mmproj` is set"}
    for section, keys in sections_of(Settings).items():
        for key in keys:
            name = f"{section}.{key}"
            assert name in found, f"{name} has no row in {PAGE}"
            place, told = found[name]
            assert place == section, f"the row of {name} stands in section {place}"
            expected = in_words.get(name) or documented(section, key, getattr(getattr(plain, section), key))
            if expected is None:
                assert not re.fullmatch(r"`[^`]*`", told), f"{name}: there is no default {told}"
            else:
                assert told == expected, name
