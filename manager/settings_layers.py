"""Where settings come from: environment, .env and YAML file. A layer checks its keys and knows the place of each value.

Names that mean nothing are in its `mistakes`. What a value must be is said in settings.py.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import yaml
from dotenv.parser import parse_stream
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from manager.errors import ConfigError
from manager.mistakes import did_you_mean
from manager.settings_yaml import composed, python

PREFIX: Final = "LLAMAHERD_"
DOTENV: Final = Path(".env")
COMMAND_LINE: Final = "command line"

# Variables without our prefix, kept under the names that other programs gave them.
EXACT_NAMES: Final[dict[str, tuple[str, ...]]] = {
    "CONFIG_PATH": ("config_path",),
    "GGUF_MODELS_DIR": ("storage", "gguf_models_dir"),
    "HF_MODELS_DIR": ("storage", "hf_models_dir"),
    "LLAMA_N_CTX": ("model", "ctx_size"),
    "LLAMA_N_GPU_LAYERS": ("model", "gpu_layers"),
    "LLAMA_N_BATCH": ("model", "batch_size"),
    "LLAMA_N_THREADS": ("model", "threads"),
    "LLAMA_LOG_LEVEL": ("llama", "log_level"),
    "MODEL_TYPE": ("model", "type"),
    "MODEL_PATH": ("model", "path"),
    "MMPROJ_PATH": ("model", "mmproj"),
    "MODEL_NAME": ("model", "name"),
    "HF_ENDPOINT": ("hub", "endpoint"),
    "HF_TOKEN": ("hub", "token"),
    "CUDA_VISIBLE_DEVICES": ("llama", "cuda_visible_devices"),
}
# Here an empty value has a meaning of its own: no GPU at all, no files of log lines.
_MAY_BE_EMPTY: Final = frozenset({("llama", "cuda_visible_devices"), ("log", "folder")})

KeyPath = tuple[str, ...]

# What can't be said in one word: JSON, a list also with commas between its items.
_STRUCTURED: Final[dict[KeyPath, str]] = {
    ("cors", "allowed_origins"): "list",
    ("hub", "mirrors"): "list",
    ("scheduling", "groups"): "object",
    ("server", "allowed_hosts"): "list",
    ("server", "trusted_proxies"): "list",
}


def layers_of(
    settings_cls: type[BaseSettings], given: Mapping[str, Any]
) -> tuple[VariablesLayer, VariablesLayer, YamlLayer]:
    """Environment, .env and YAML file, the first before the others. `given`: what the command line says.

    Raises one ConfigError with all unknown names, and whatever else can't be read.
    """
    environment, dotenv = environment_layer(settings_cls, os.environ), dotenv_layer(settings_cls)
    said = (given, environment.values, dotenv.values)
    path = next((values["config_path"] for values in said if values.get("config_path")), None)
    file = YamlLayer(settings_cls, None if path is None else _home_of(Path(path)))
    mistakes = [*environment.mistakes, *dotenv.mistakes, *file.mistakes]
    if mistakes:
        raise ConfigError("\n".join(mistakes))
    return environment, dotenv, file


def _home_of(path: Path) -> Path:
    """With its ~ replaced, as AbsolutePath does."""
    try:
        return path.expanduser()
    except RuntimeError:
        raise ConfigError(f"config_path: {path}: its ~ means no folder here; set HOME") from None


def sections_of(settings_cls: type[BaseSettings]) -> dict[str, frozenset[str]]:
    """The sections and their keys, as the model declares them."""
    fields = settings_cls.model_fields.items()
    return {
        name: frozenset(field.annotation.model_fields)
        for name, field in fields
        if isinstance(field.annotation, type) and hasattr(field.annotation, "model_fields")
    }


class Layer(PydanticBaseSettingsSource):
    """Values of one origin, by section and key."""

    def __init__(self, settings_cls: type[BaseSettings]) -> None:
        super().__init__(settings_cls)
        self.sections = sections_of(settings_cls)
        self.values: dict[str, Any] = {}
        self.mistakes: list[str] = []
        self._places: dict[KeyPath, str] = {}

    def __call__(self) -> dict[str, Any]:
        return self.values

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return self.values.get(field_name), field_name, False

    def places(self, key: KeyPath) -> list[str]:
        """Where this layer sets the key, or the keys of that section, as a message names it."""
        return [place for known, place in self._places.items() if known[: len(key)] == key]

    def origin(self, key: KeyPath) -> str | None:
        """The variable, or the file and line, by which this layer sets the key; None where it doesn't."""
        place = self._places.get(key)
        return None if place is None else place.rpartition(": ")[0] or place

    def origins(self) -> dict[str, str]:
        """The same of all that this layer sets, by names such as `server.port`."""
        return {".".join(key): origin for key in self._places if (origin := self.origin(key)) is not None}

    def put(self, key: KeyPath, value: Any, place: str) -> None:
        target = self.values
        for part in key[:-1]:
            target = target.setdefault(part, {})
        target[key[-1]] = value
        self._places[key] = place


class OriginsLayer(PydanticBaseSettingsSource):
    """As the field `origins`, where the others have each value that is set from. `given`: the command line's."""

    def __init__(self, settings_cls: type[BaseSettings], given: Mapping[str, Any], layers: tuple[Layer, ...]) -> None:
        super().__init__(settings_cls)
        sections = ((name, values) for name, values in given.items() if isinstance(values, Mapping))
        self._origins = {f"{section}.{key}": COMMAND_LINE for section, values in sections for key in values}
        for layer in layers:
            self._origins = {**layer.origins(), **self._origins}

    def __call__(self) -> dict[str, Any]:
        return {"origins": self._origins}

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return self._origins, field_name, False


class VariablesLayer(Layer):
    """Variables as (name, value, place). An empty value counts as not set; a prefixed name wins over an exact one."""

    def __init__(self, settings_cls: type[BaseSettings], variables: Iterable[tuple[str, str | None, str]]) -> None:
        super().__init__(settings_cls)
        known = variable_names(settings_cls)
        for name, value, place in sorted(variables, key=lambda item: item[0].startswith(PREFIX)):
            upper = name.upper() if name.startswith(PREFIX) else name
            if upper in known:
                key = known[upper]
                if value or (value is not None and key in _MAY_BE_EMPTY):
                    self._put_text(key, value, place)
            elif name.startswith(PREFIX):
                self.mistakes.append(f"{place}: unknown setting{did_you_mean(upper, known)}")

    def _put_text(self, key: KeyPath, text: str, place: str) -> None:
        try:
            self.put(key, _decoded(key, text, place), place)
        except ConfigError as error:
            self.mistakes.append(error.message)


def variable_names(settings_cls: type[BaseSettings]) -> dict[str, KeyPath]:
    """Every variable that is read, with the key that it sets."""
    prefixed = {
        f"{PREFIX}{section}__{key}".upper(): (section, key)
        for section, keys in sections_of(settings_cls).items()
        for key in sorted(keys)
    }
    return EXACT_NAMES | prefixed


def _decoded(key: KeyPath, value: str, place: str) -> Any:
    kind = _STRUCTURED.get(key)
    if kind is None:
        return value
    if kind == "list" and not value.lstrip().startswith("["):
        return [item.strip() for item in value.split(",") if item.strip()]
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{place}: not a JSON {kind}: {error.msg} at character {error.pos + 1}") from None


def environment_layer(settings_cls: type[BaseSettings], environment: Mapping[str, str]) -> VariablesLayer:
    return VariablesLayer(settings_cls, ((name, value, name) for name, value in environment.items()))


def dotenv_layer(settings_cls: type[BaseSettings], path: Path = DOTENV) -> VariablesLayer:
    """The .env file, if there is one. Values are taken as they stand: `${NAME}` is not replaced."""
    if not path.is_file():
        return VariablesLayer(settings_cls, ())
    try:
        with path.open(encoding="utf-8-sig") as file:
            bindings = list(parse_stream(file))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: can't be read: {error}") from None
    for binding in bindings:
        if binding.error:
            raise ConfigError(f"{path}, line {binding.original.line}: not of the form NAME=value")
    return VariablesLayer(
        settings_cls,
        [
            (binding.key, binding.value, f"{path}, line {_line_of(binding.original)}: {binding.key}")
            for binding in bindings
            if binding.key is not None
        ],
    )


def _line_of(original: Any) -> int:
    # A binding begins with the blank lines before it.
    text: str = original.string
    line: int = original.line
    return line + text[: len(text) - len(text.lstrip())].count("\n")


class YamlLayer(Layer):
    """The YAML file at CONFIG_PATH; empty where there is no path."""

    def __init__(self, settings_cls: type[BaseSettings], path: Path | None) -> None:
        super().__init__(settings_cls)
        self.path = path
        if path is None:
            return
        root = composed(path)
        if root is None:
            return
        if not isinstance(root, yaml.MappingNode):
            raise ConfigError(f"{path}: must hold sections such as 'server:'")
        for section, node, line in self._items(root, path, ""):
            self._section(path, section, node, line)

    def _section(self, path: Path, section: str, node: yaml.Node, line: int) -> None:
        keys = self.sections.get(section)
        if keys is None:
            self.mistakes.append(f"{path}, line {line}: {section}: unknown key{did_you_mean(section, self.sections)}")
        elif isinstance(node, yaml.MappingNode):
            for key, value, key_line in self._items(node, path, f"{section}."):
                place = f"{path}, line {key_line}: {section}.{key}"
                if key in keys:
                    self.put((section, key), python(value, place), place)
                else:
                    hint = did_you_mean(key, keys, prefix=f"{section}.")
                    self.mistakes.append(f"{place}: unknown key{hint}")
        elif not (isinstance(node, yaml.ScalarNode) and node.tag.endswith(":null")):
            self.mistakes.append(f"{path}, line {line}: {section}: must hold keys such as '{min(keys)}:'")

    def _items(self, node: yaml.MappingNode, path: Path, prefix: str) -> list[tuple[str, yaml.Node, int]]:
        items: dict[str, tuple[str, yaml.Node, int]] = {}
        for key_node, value in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else "?"
            line = key_node.start_mark.line + 1
            if key in items:
                self.mistakes.append(f"{path}, line {line}: {prefix}{key}: is there twice")
            items[key] = (key, value, line)
        return list(items.values())
