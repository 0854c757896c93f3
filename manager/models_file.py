"""models.json: reads it, checks every key and type, and words mistakes with file, entry and key. Opens no model.

`python -m manager.models_file > data/models.schema.json` writes the JSON schema of the file anew.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model
from pydantic.alias_generators import to_camel

from manager.engines.kinds import KINDS, EngineKind
from manager.entry import HfParams, LlamaParams, ModelParams
from manager.errors import ConfigError
from manager.mistakes import Mistake, Mistakes, did_you_mean, problem, shown
from manager.variants_file import FileFilter, FileProfile, variant_mistakes

# Arguments that would take llama-server off its socket, its key or its routes: it could never be reached.
OURS_TO_SAY: Final = frozenset({"-a", "--alias", "--api-key", "--api-key-file", "--api-prefix", "--host", "--port"})
_SCHEMA_KEY: Final = "$schema"
# Lone surrogates come from JSON escapes and from file names that are not UTF-8; they can't be sent to anyone.
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


class FileEntry(BaseModel):
    """One entry of models.json as it stands in the file, whatever its engine."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    params: ModelParams
    template: str | None = Field(
        default=None,
        min_length=1,
        description="A file in the templates folder (with or without .jinja), or, for GGUF models, the name of a "
        "template that llama.cpp knows; else the model's own.",
    )
    personalities: dict[str, str] = Field(
        default_factory=dict, description="System prompts by the name under which clients ask for them."
    )
    request: FileFilter = Field(
        default_factory=FileFilter, description="What is done to the fields of every request for the model."
    )
    profiles: dict[str, FileProfile] = Field(
        default_factory=dict,
        description="Variants of the model under ids of their own, `model:profile`, by name. They need no load.",
    )
    aliases: Annotated[tuple[str, ...], BeforeValidator(_as_tuple)] = Field(
        default=(), description="Other names under which clients may ask for the model."
    )
    engine: str = Field(
        default="llama",
        description="What runs the model: llama (llama.cpp, for GGUF files), hf (transformers, for folders), or an "
        "engine that an installed package brings.",
    )
    description: str | None = Field(default=None, description="A text for people; shown in lists.")
    ttl: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="Seconds without a request after which the model is unloaded; else limits.idle_ttl.",
    )
    pinned: bool = Field(
        default=False,
        description="true: once loaded it stays: never unloaded for being idle or to make room, and started again "
        "where it broke.",
    )
    preload: bool = Field(default=False, description="true: loaded when the service starts, where it fits.")
    concurrency: int | None = Field(
        default=None,
        ge=1,
        description="Most requests that its engine gets at once; else all: an engine queues what exceeds its slots.",
    )
    queue: int | None = Field(
        default=None, ge=0, description="Most requests that wait for it; else limits.queue. One more gets a 429."
    )


class LlamaFileEntry(FileEntry):
    """An entry of a GGUF model."""

    params: LlamaParams = Field(description="The model's file, how it runs, and defaults of its answers.")
    engine: Literal["llama"] = Field(default="llama", description=FileEntry.model_fields["engine"].description)


class HfFileEntry(FileEntry):
    """An entry of a Hugging Face model."""

    params: HfParams = Field(description="The model's folder, how it runs, and defaults of its answers.")
    engine: Literal["hf"] = Field(description=FileEntry.model_fields["engine"].description)


# The keys that an entry and its params may have, by engine. Those of other packages have forms of their own.
_FORMS: Final[Mapping[str, type[FileEntry]]] = {"llama": LlamaFileEntry, "hf": HfFileEntry}
_PARAMS: Final[Mapping[str, type[LlamaParams] | type[HfParams]]] = {"llama": LlamaParams, "hf": HfParams}
_KIND: Final = {"llama": "GGUF models", "hf": "models of the engine hf"}
# In the schema, which can't know them.
_OWN_FORM: Final = "OwnFileEntry"


class _Object(dict[str, Any]):
    """A JSON object that remembers the keys that were in it twice."""

    twice: tuple[str, ...] = ()


def read_models_file(path: Path) -> dict[str, FileEntry]:
    """The entries in the order of the file; none where there is no file.

    Raises Mistakes with file, entry and key of each; for a syntax error with line and column. ConfigError where the
    file can't be read.
    """
    entries, mistakes = parse_models_file(read_text(path), path)
    if mistakes:
        raise Mistakes(mistakes)
    return entries


def read_text(path: Path) -> str | None:
    """The text of the file, with \\n at the ends of its lines; None where there is no file. Raises ConfigError."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}") from None
    except OSError as error:
        raise ConfigError(f"{path}: can't be read: {error.strerror}") from None


def parse_models_file(text: str | None, path: Path) -> tuple[dict[str, FileEntry], list[Mistake]]:
    """The entries of the text (None: of no file) that are right, and what is wrong with it. `path` is its file."""
    if text is None:
        return {}, []
    mistakes: list[Mistake] = []
    entries: dict[str, FileEntry] = {}
    try:
        data = _parsed(text)
        if isinstance(data, dict):
            mistakes += _defects(data, ())
        else:
            mistakes.append(Mistake("must be an object with an entry for each model"))
            data = {}
        for name, value in data.items():
            entry = None if name == _SCHEMA_KEY else _entry(name, value, mistakes)
            if entry is not None:
                entries[name] = entry
    except _NotJson as error:
        mistakes.append(error.mistake)
    except RecursionError:
        mistakes.append(Mistake("not valid JSON: it is nested too deeply"))
    wrong = {mistake.path[0] for mistake in mistakes if mistake.path}
    entries = {name: entry for name, entry in entries.items() if name not in wrong}
    return entries, [replace(mistake, file=path) for mistake in mistakes]


class _NotJson(Exception):
    def __init__(self, mistake: Mistake) -> None:
        super().__init__(mistake)
        self.mistake = mistake


def _parsed(text: str) -> Any:
    """Raises _NotJson and RecursionError."""

    def pairs(items: list[tuple[str, Any]]) -> _Object:
        result = _Object(items)
        if len(result) != len(items):
            result.twice = tuple(key for key, times in Counter(key for key, _ in items).items() if times > 1)
        return result

    def constant(word: str) -> Any:
        raise _NotJson(Mistake(f"{word} is not a number that JSON allows"))

    try:
        return json.loads(text, object_pairs_hook=pairs, parse_constant=constant)
    except json.JSONDecodeError as error:
        said = f"not valid JSON: {error.msg[0].lower()}{error.msg[1:]}"
        raise _NotJson(Mistake(said, line=error.lineno, column=error.colno)) from None
    except ValueError as error:
        raise _NotJson(Mistake(f"not valid JSON: {error}")) from None


def _defects(value: Any, path: tuple[str, ...]) -> Iterable[Mistake]:
    """What JSON lets pass and we don't: keys that are there twice, text that is no Unicode."""
    if isinstance(value, _Object):
        for key in value.twice:
            yield Mistake("is there twice", (*path, key))
        for key, item in value.items():
            if _SURROGATE.search(key):
                yield Mistake("the name has half of a character (\\ud800 to \\udfff)", (*path, key))
            else:
                yield from _defects(item, (*path, key))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _defects(item, (*path, str(number)))
    elif isinstance(value, str) and _SURROGATE.search(value):
        yield Mistake("the text has half of a character (\\ud800 to \\udfff)", path)


def _entry(name: str, value: Any, mistakes: list[Mistake]) -> FileEntry | None:
    before = len(mistakes)
    reason = name_problem(name)
    if reason is not None:
        mistakes.append(Mistake(f"a model name {reason}", (name,)))
    if not isinstance(value, dict):
        mistakes.append(Mistake(f"must be an object, not {shown(value)}", (name,)))
        return None
    written: dict[tuple[str, ...], str] = {}
    fields = _keys(value, (name,), FileEntry, written, mistakes)
    engine = fields.get("engine", "llama")
    try:
        kind = _kind(engine)
    except ConfigError as error:
        mistakes.append(Mistake(error.message, (name, "engine")))
        return None
    if isinstance(fields.get("params"), dict):
        fields["params"] = _keys(fields["params"], (name, "params"), kind.params, written, mistakes)
    if len(mistakes) > before:
        return None
    try:
        entry = (_FORMS.get(engine) or _own_form(kind))(**fields)
    except ValidationError as error:
        mistakes.extend(_worded(name, error, written))
        return None
    except Exception as error:  # the code of another package
        said = f"the engine {engine} failed to check them ({type(error).__name__}: {error})"
        mistakes.append(Mistake(said, (name, "params")))
        return None
    mistakes.extend(replace(mistake, path=(name, *mistake.path)) for mistake in _rules(entry, name, written))
    return entry


def _kind(engine: Any) -> EngineKind:
    """Raises ConfigError where there is no such engine, or its package can't be used."""
    if not isinstance(engine, str):
        raise ConfigError(f"there is no engine {shown(engine)}")
    return KINDS.get(engine)


@lru_cache
def _own_form(kind: EngineKind) -> type[FileEntry]:
    return create_model(_OWN_FORM, __base__=FileEntry, params=(kind.params, ...))


@lru_cache
def _spellings(model: type[BaseModel]) -> dict[str, str]:
    """Both spellings of each key, with the name of its field."""
    return {spelling: name for name in model.model_fields for spelling in (name, to_camel(name))}


def _keys(
    value: Mapping[str, Any],
    place: tuple[str, ...],
    model: type[BaseModel],
    written: dict[tuple[str, ...], str],
    mistakes: list[Mistake],
) -> dict[str, Any]:
    """The object with its keys as the model names them; `written` remembers how the file spells them."""
    known = _spellings(model)
    fields: dict[str, Any] = {}
    for key, item in value.items():
        field = known.get(key)
        if field is None:
            mistakes.append(Mistake(_unknown(key, model), (*place, key)))
        elif field in fields:
            mistakes.append(Mistake(f"is there twice, also as {written[(*place, field)]}", (*place, key)))
        else:
            fields[field] = item
            written[(*place, field)] = key
    return fields


def _unknown(key: str, model: type[BaseModel]) -> str:
    """What is wrong with a key that the model does not have: it is another engine's, or nobody's."""
    for engine, other in _PARAMS.items():
        if model in _PARAMS.values() and key in _spellings(other):
            return f"is for {_KIND[engine]} only"
    alike = model.model_fields if "_" in key else [to_camel(field) for field in model.model_fields]
    return f"unknown key{did_you_mean(key, alike)}"


def _worded(name: str, error: ValidationError, written: Mapping[tuple[str, ...], str]) -> Iterable[Mistake]:
    for detail in error.errors():
        path: tuple[str, ...] = (name,)
        spelled = [name]
        for part in detail["loc"]:
            path = (*path, str(part))
            spelled.append(written.get(path, str(part)))
        yield Mistake(problem(detail), tuple(spelled))


def _rules(entry: FileEntry, name: str, written: Mapping[tuple[str, ...], str]) -> Iterable[Mistake]:
    """What types alone can't say, with places in the entry."""
    for alias in entry.aliases:
        reason = name_problem(alias)
        if reason is not None:
            yield Mistake(f"{shown(alias)}: an alias {reason}", ("aliases",))
    for personality in entry.personalities:
        reason = _suffix_problem(personality)
        if reason is not None:
            yield Mistake(f"{shown(personality)}: a personality's name {reason}", ("personalities",))
    yield from variant_mistakes(entry.request, entry.profiles, entry.personalities, _suffix_problem)
    arguments = entry.params.extra_args if isinstance(entry.params, LlamaParams) else ()
    for number, argument in enumerate(arguments):
        if _option(argument) in OURS_TO_SAY:
            key = written.get((name, "params", "extra_args"), "extra_args")
            said = f"{shown(argument)} is for the service to say and can't be given here"
            yield Mistake(said, ("params", key, str(number)))


def _option(argument: str) -> str:
    """The option as llama-server reads it, which takes `_` for `-`."""
    option = argument.partition("=")[0]
    return option.replace("_", "-") if option.startswith("--") else option


def name_problem(name: str) -> str | None:
    """Why this can't be the name or alias of a model; None where it can."""
    if "," in name:
        return "must not contain a comma"  # at which llama-server splits names
    return _text_problem(name)


def _suffix_problem(name: str) -> str | None:
    """Why this can't come after the colon of an id."""
    return _text_problem(name) or ("must not contain ':'" if ":" in name else None)


def _text_problem(name: str) -> str | None:
    if not name or name != name.strip():
        return "must not be empty, and must not begin or end with a space"
    if _CONTROL.search(name):
        return "must not contain control characters"
    if _SURROGATE.search(name):
        return "must be valid Unicode"
    if name.startswith("/"):
        return "must not begin with '/'"
    return None


def schema() -> dict[str, Any]:
    """The JSON schema of models.json. Every key is there in both spellings."""
    definitions: dict[str, Any] = {}
    for form in _FORMS.values():
        entry = form.model_json_schema(ref_template="#/$defs/{model}")
        definitions |= entry.pop("$defs") | {form.__name__: entry}
    for model in (*_FORMS.values(), *_PARAMS.values()):
        definitions[model.__name__] = _both_spellings(definitions[model.__name__])
    definitions[_OWN_FORM] = _both_spellings(_own_schema())
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "models.json of llamaherd",
        "description": "The models that are served, by name.",
        "type": "object",
        "properties": {_SCHEMA_KEY: {"type": "string"}},
        "additionalProperties": {
            "if": {"properties": {"engine": {"const": "hf"}}, "required": ["engine"]},
            "then": {"$ref": "#/$defs/HfFileEntry"},
            "else": {
                "if": {"properties": {"engine": {"const": "llama"}}},
                "then": {"$ref": "#/$defs/LlamaFileEntry"},
                "else": {"$ref": f"#/$defs/{_OWN_FORM}"},
            },
        },
        "$defs": definitions,
    }


def _own_schema() -> dict[str, Any]:
    """An entry whose engine another package brings: which params it may have, only that package knows."""
    entry = FileEntry.model_json_schema(ref_template="#/$defs/{model}")
    entry.pop("$defs")
    description = "The model and how it runs, as the engine's package wants it."
    entry["properties"]["params"] = {"type": "object", "description": description}
    del entry["properties"]["engine"]["default"]
    return entry | {
        "title": _OWN_FORM,
        "description": "An entry of a model whose engine an installed package brings.",
        "required": ["params", "engine"],
    }


def _both_spellings(model: dict[str, Any]) -> dict[str, Any]:
    properties = {}
    for name, value in model["properties"].items():
        value.pop("title", None)
        properties[name] = value
        if to_camel(name) != name:
            properties[to_camel(name)] = value
    return model | {"properties": properties}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(schema(), indent=2, ensure_ascii=False) + "\n")
