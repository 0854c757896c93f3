"""models.json: reads it, checks every key and type, and words mistakes with file, entry and key. Opens no model."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ValidationError
from pydantic.alias_generators import to_camel

from manager.engines.kinds import BUILT_IN, KINDS, EngineKind
from manager.entry import LlamaParams
from manager.errors import ConfigError
from manager.mistakes import Mistake, MistakeList, did_you_mean, problem, shown
from manager.models_forms import FORMS, PARAMS, FileEntry, HfFileEntry, LlamaFileEntry, own_form, spellings
from manager.strict_json import SURROGATE, NotJson, defects, parsed
from manager.variants_file import variant_mistakes

__all__ = [
    "FileEntry",
    "HfFileEntry",
    "LlamaFileEntry",
    "name_problem",
    "parse_models_file",
    "read_models_file",
    "read_text",
]

# Arguments that would take llama-server off its socket, its key or its routes: it could never be reached.
OURS_TO_SAY: Final = frozenset({"-a", "--alias", "--api-key", "--api-key-file", "--api-prefix", "--host", "--port"})
SCHEMA_KEY: Final = "$schema"
_LONGEST_NAME: Final = 500
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_KIND: Final = {"llama": "GGUF models", "hf": "models of the engine hf"}
# Whether an entry may have this engine of another package with these params, both as the file has them.
Trusts = Callable[[str, Any], bool]


def read_models_file(path: Path) -> dict[str, FileEntry]:
    """The entries in the order of the file; none where there is no file.

    Raises Mistakes with file, entry and key of each; for a syntax error with line and column. ConfigError where the
    file can't be read.
    """
    entries, mistakes = parse_models_file(read_text(path), path)
    mistakes.check()
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


def parse_models_file(
    text: str | None, path: Path, trusts: Trusts | None = None
) -> tuple[dict[str, FileEntry], MistakeList]:
    """The entries of the text (None: of no file) that are right, and what is wrong with it. `path` is its file.

    Of another package's engine that is not trusted nothing is imported. Raises Mistakes where there are very many.
    """
    mistakes = MistakeList(path)
    entries: dict[str, FileEntry] = {}
    try:
        data = {} if text is None else parsed(text)
    except NotJson as error:
        mistakes.add(error.mistake)
        return entries, mistakes
    if not isinstance(data, dict):
        mistakes.add(Mistake("must be an object with an entry for each model"))
        return entries, mistakes
    mistakes.extend(defects(data, ()))
    for name, value in data.items():
        entry = None if name == SCHEMA_KEY else _entry(name, value, mistakes, trusts)
        if entry is not None:
            entries[name] = entry
    for mistake in mistakes:
        if mistake.path:
            entries.pop(mistake.path[0], None)
    return entries, mistakes


def _entry(name: str, value: Any, mistakes: MistakeList, trusts: Trusts | None) -> FileEntry | None:
    before = len(mistakes)
    reason = name_problem(name)
    if reason is not None:
        mistakes.add(Mistake(f"a model name {reason}", (name,)))
    if not isinstance(value, dict):
        mistakes.add(Mistake(f"must be an object, not {shown(value)}", (name,)))
        return None
    written: dict[tuple[str, ...], str] = {}
    fields = _keys(value, (name,), FileEntry, written, mistakes)
    engine = fields.get("engine", "llama")
    try:
        kind = _kind(engine, fields.get("params"), trusts)
    except ConfigError as error:
        mistakes.add(Mistake(error.message, (name, "engine")))
        return None
    if isinstance(fields.get("params"), dict):
        fields["params"] = _keys(fields["params"], (name, "params"), kind.params, written, mistakes)
    if len(mistakes) > before:
        return None
    try:
        entry = (FORMS.get(engine) or own_form(kind))(**fields)
    except ValidationError as error:
        mistakes.extend(_worded(name, error, written))
        return None
    except Exception as error:  # the code of another package
        said = f"the engine {engine} failed to check them ({type(error).__name__}: {error})"
        mistakes.add(Mistake(said, (name, "params")))
        return None
    mistakes.extend(replace(mistake, path=(name, *mistake.path)) for mistake in _rules(entry, name, written))
    return entry


def _kind(engine: Any, params: Any, trusts: Trusts | None) -> EngineKind:
    """Raises ConfigError where there is no such engine, its package can't be used, or it is not trusted."""
    if not isinstance(engine, str):
        raise ConfigError(f"there is no engine {shown(engine)}")
    if trusts is not None and engine not in BUILT_IN and not trusts(engine, params):
        raise ConfigError(
            f"{shown(engine)} with these params can't be given over HTTP, for only its package knows what they do: "
            "write it into the file on the machine itself"
        )
    return KINDS.get(engine)


def _keys(
    value: Mapping[str, Any],
    place: tuple[str, ...],
    model: type[BaseModel],
    written: dict[tuple[str, ...], str],
    mistakes: MistakeList,
) -> dict[str, Any]:
    """The object with its keys as the model names them; `written` remembers how the file spells them."""
    known = spellings(model)
    fields: dict[str, Any] = {}
    for key, item in value.items():
        field = known.get(key)
        if field is None:
            mistakes.add(Mistake(_unknown(key, model), (*place, key)))
        elif field in fields:
            mistakes.add(Mistake(f"is there twice, also as {written[(*place, field)]}", (*place, key)))
        else:
            fields[field] = item
            written[(*place, field)] = key
    return fields


def _unknown(key: str, model: type[BaseModel]) -> str:
    """What is wrong with a key that the model does not have: it is another engine's, or nobody's."""
    for engine, other in PARAMS.items():
        if model in PARAMS.values() and key in spellings(other):
            return f"is for {_KIND[engine]} only"
    alike = model.model_fields if "_" in key else [to_camel(field) for field in model.model_fields]
    return f"unknown key{did_you_mean(key, alike)}"


def _worded(name: str, error: ValidationError, written: Mapping[tuple[str, ...], str]) -> Iterable[Mistake]:
    for detail in error.errors(include_url=False, include_context=False):
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
    if name == SCHEMA_KEY:
        return f"must not be {SCHEMA_KEY}, by which models.json names its schema"
    return _text_problem(name)


def _suffix_problem(name: str) -> str | None:
    """Why this can't come after the colon of an id."""
    return _text_problem(name) or ("must not contain ':'" if ":" in name else None)


def _text_problem(name: str) -> str | None:
    if not name or name != name.strip():
        return "must not be empty, and must not begin or end with a space"
    if len(name) > _LONGEST_NAME:
        return f"must not have more than {_LONGEST_NAME} characters"
    if _CONTROL.search(name):
        return "must not contain control characters"
    if SURROGATE.search(name):
        return "must be valid Unicode"
    if name.startswith("/"):
        return "must not begin with '/'"
    return None
