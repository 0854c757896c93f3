"""Makes the entries of a catalog from models.json, the settings and discovery, and says what is wrong with them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import MappingProxyType
from typing import Any, Final, TypeVar

from manager.discovery import FoundModel, distinct, find_gguf_models, find_hf_models, hf_problem
from manager.engines.judging import files_of, problem_of
from manager.engines.kinds import KINDS, kind_of
from manager.entry import HfParams, LlamaParams, ModelEntry, ModelParams, Template
from manager.errors import ConfigError
from manager.extras import missing_hf
from manager.gguf_file import gguf_problem, split_name
from manager.mistakes import Mistake, MistakeList, shown
from manager.models_file import FileEntry, name_problem
from manager.settings import Settings
from manager.templates import find_template

Params = TypeVar("Params", bound=ModelParams)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# Of every alias with every profile there is one, so that a short file can have very many.
MOST_NAMES: Final = 100_000


class CatalogBuilder:
    """Collects entries and mistakes while a catalog is read; `mistakes` are those of models.json until now."""

    def __init__(self, settings: Settings, mistakes: Iterable[Mistake] = ()) -> None:
        self.entries: list[ModelEntry] = []
        self.mistakes = MistakeList()
        self.mistakes.extend(mistakes)
        self.warnings: list[str] = []
        self.single: str | None = None  # the name of the model that the settings describe
        self._settings = settings
        self._storage = settings.storage
        self._owners: dict[str, str] = {}  # every name and alias, with the place where it was given
        self._defaults = _default_params(settings)

    def add_from_file(self, name: str, raw: FileEntry) -> None:
        names = (name, *raw.aliases)
        if len(self._owners) + len(names) * (1 + len(raw.profiles)) > MOST_NAMES:
            self._refuse(f"there are more than {MOST_NAMES:,} names of models, aliases and profiles", name)
            return
        self._take(name, (name,), f"the entry {name}")
        self._take(name, raw.aliases, f"the entry {name}", "aliases")
        ids = (f"{used}:{profile}" for profile in raw.profiles for used in names)
        self._take(name, ids, f"a profile of the entry {name}", "profiles")
        try:
            self.entries.append(self._from_file(name, raw))
        except _PathError as error:
            self._refuse(error.reason, name, "params", error.key)
        except ConfigError as error:
            self._refuse(error.message, name, "template")

    def _take(self, entry: str, names: Iterable[str], owner: str, *key: str) -> None:
        for name in names:
            if name in self._owners:
                self._refuse(f"the name {shown(name)} is taken by {self._owners[name]}", entry, *key)
            self._owners[name] = owner

    def _refuse(self, message: str, *path: str) -> None:
        self.mistakes.add(Mistake(message, path, self._storage.models_file))

    def _from_file(self, name: str, raw: FileEntry) -> ModelEntry:
        folder = self._storage.models_folder
        given = raw.params
        params: ModelParams
        if isinstance(given, LlamaParams):
            params, mmproj = self._filled(_resolved(given, folder)), given.mmproj
        else:
            params, mmproj = self._filled(given), None
        entry = ModelEntry(
            name=name,
            path=_path(folder, raw),
            params=params,
            engine=raw.engine,
            template=self._template(raw),
            personalities=MappingProxyType(dict(raw.personalities)),
            request=raw.request.filter(),
            profiles=MappingProxyType({key: profile.profile(raw.request) for key, profile in raw.profiles.items()}),
            aliases=raw.aliases,
            mmproj=None if mmproj is None else _inside(folder, mmproj, "mmproj"),
            description=raw.description,
            ttl=raw.ttl,
            pinned=raw.pinned,
            preload=raw.preload,
            concurrency=raw.concurrency,
            queue=raw.queue,
            source="models.json",
        )
        return self._judged(entry)

    def _template(self, raw: FileEntry) -> Template | None:
        """Raises ConfigError where there is none of this name that the engine can use."""
        if raw.template is None:
            return None
        folder = self._storage.templates_folder
        found = find_template(raw.template, folder)
        if found.file is None and raw.engine != "llama":
            raise ConfigError(
                f"{shown(raw.template)} is built into llama.cpp; a model of the engine {raw.engine} needs a file in "
                f"{folder}"
            )
        return found

    def add_from_settings(self) -> None:
        model = self._settings.model
        if model.path is None:
            return
        real = _real(model.path)
        if model.name is None:
            # An entry for this file says more about it than the settings do.
            self.single = next((entry.name for entry in self.entries if _real(entry.path) == real), None)
            if self.single is not None:
                return
        name = self.single = model.name or _stem(model.path)
        mmproj = model.mmproj if model.type == "VL" else None
        same = next((entry for entry in self.entries if name in (entry.name, *entry.aliases)), None)
        if same is not None:
            if _real(same.path) != real:
                self._refuse_setting(
                    f"{shown(name)} is {model.path} by the settings (MODEL_PATH, MODEL_NAME), "
                    f"but {same.path} by {self._storage.models_file}"
                )
            return
        reason = name_problem(name)
        if reason is not None:
            self._refuse_setting(f"{shown(name)}: a model name {reason}")
            return
        if name in self._owners:
            self._refuse_setting(f"{shown(name)} is taken by {self._owners[name]}")
        self._owners[name] = "the settings (MODEL_PATH, MODEL_NAME)"
        params = self._filled(LlamaParams(model=str(model.path), mmproj=None if mmproj is None else str(mmproj)))
        entry = ModelEntry(name=name, path=model.path, params=params, mmproj=mmproj, source="environment")
        self.entries.append(self._judged(entry))

    def _refuse_setting(self, message: str) -> None:
        self.mistakes.add(Mistake(message, ("model", "name")))

    def add_discovered(self) -> None:
        if self._storage.gguf_models_dir is None and self._storage.hf_models_dir is None:
            return  # resolving the paths of thousands of entries takes a second
        known = {_real(path) for entry in self.entries for path in _places(entry)}
        found: list[FoundModel] = []
        hf: set[Path] = set()
        if self._storage.gguf_models_dir is not None:
            found += _found(find_gguf_models, self._storage.gguf_models_dir, "gguf_models_dir (GGUF_MODELS_DIR)")
        if self._storage.hf_models_dir is not None:
            models = _found(find_hf_models, self._storage.hf_models_dir, "hf_models_dir (HF_MODELS_DIR)")
            hf = {model.path for model in models}
            found += models
        fresh = []
        # An entry that only says more of a model that is found must not hide others that are called alike.
        named = {(entry.name, _real(entry.path)) for entry in self.entries}
        kept = set()
        for model in found:
            real = _real(model.path)
            if (model.name, real) in named:
                kept.add(model.name)
            if real not in known:
                known.add(real)
                fresh.append(model)
        for name, model in distinct(fresh, self._owners, kept):
            if name_problem(name) is not None:
                self.warnings.append(f"file={str(model.path)!a} skipped=its name {name_problem(name)}")
            else:
                self.entries.append(self._judged(self._discovered(name, model, model.path in hf)))

    def _discovered(self, name: str, model: FoundModel, hf: bool) -> ModelEntry:
        params: LlamaParams | HfParams
        if hf:
            params = self._filled(HfParams(model=str(model.path)))
        else:
            mmproj = None if model.mmproj is None else str(model.mmproj)
            params = self._filled(LlamaParams(model=str(model.path), mmproj=mmproj))
        return ModelEntry(
            name=name,
            path=model.path,
            params=params,
            engine="hf" if hf else "llama",
            mmproj=model.mmproj,
            source="discovered",
        )

    def _filled(self, params: Params) -> Params:
        fields = type(params).model_fields
        missing = {k: value for k, value in self._defaults.items() if k in fields and getattr(params, k) is None}
        return params.model_copy(update=missing) if missing else params

    def _judged(self, entry: ModelEntry) -> ModelEntry:
        reason = self._broken(entry)
        if reason is not None:
            self.warnings.append(f"model={entry.name} unavailable={reason}")
        elif entry.engine == "hf" and (reason := self._missing) is not None:
            warning = f"engine=hf unavailable={reason}"
            if warning not in self.warnings:  # once for all its models
                self.warnings.append(warning)
        created = _created(entry.path, self._storage.models_file)
        return replace(entry, unavailable=reason, created=created, stamps=tuple(map(_stamp, files_of(entry))))

    @cached_property
    def _missing(self) -> str | None:
        return missing_hf()

    def _broken(self, entry: ModelEntry) -> str | None:
        """What is wrong with its files."""
        if entry.engine == "hf":
            return hf_problem(entry.path, self._short(entry.path), pickle=entry.hf.allow_pickle)
        if entry.engine != "llama":
            return problem_of(entry, self._short)
        for path in files_of(entry):
            reason = gguf_problem(path, self._short(path))
            if reason is not None:
                return reason
        return None

    def _short(self, path: Path) -> str:
        """The path as a client may see it: relative to the folder of models, or the name alone."""
        folder = self._storage.models_folder
        return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name


class _PathError(Exception):
    """A path in models.json that can't be meant: `key` is that of params which has it."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(key, reason)
        self.key = key
        self.reason = reason


def _resolved(params: LlamaParams, folder: Path) -> LlamaParams:
    """With the paths absolute that an entry names besides its model."""
    loras = tuple(lora.model_copy(update={"path": str(_inside(folder, lora.path, "lora"))}) for lora in params.lora)
    draft = None if params.draft_model is None else str(_inside(folder, params.draft_model, "draft_model"))
    return params.model_copy(update={"lora": loras, "draft_model": draft})


def _path(folder: Path, raw: FileEntry) -> Path:
    """Where its model lies; for an engine that has no files of it, the name of the model."""
    text = raw.params.model
    if KINDS.get(raw.engine).files is not None:
        return _inside(folder, text, "model")
    if _CONTROL.search(text):
        raise _PathError("model", f"{shown(text)} has control characters")
    return Path(text)


def _inside(folder: Path, text: str, key: str) -> Path:
    """The path that an entry names, absolute. A relative one must stay in the folder."""
    if not text.strip() or _CONTROL.search(text):
        raise _PathError(key, f"{shown(text)} is not a path")
    if Path(text).is_absolute():
        return Path(text)
    if PureWindowsPath(text).drive:
        raise _PathError(key, f"{shown(text)} is a path on a Windows drive, which does not exist here")
    parts: list[str] = []
    for part in PurePosixPath(text.replace("\\", "/")).parts:
        if part == ".." and not parts:
            raise _PathError(key, f"{shown(text)} leads out of the models folder {folder}")
        if part == "..":
            parts.pop()
        elif part != "/":
            parts.append(part)
    return folder.joinpath(*parts)


def _default_params(settings: Settings) -> Mapping[str, Any]:
    model, generation = settings.model, settings.generation
    defaults = {
        "ctx_size": model.ctx_size,
        "gpu_layers": model.gpu_layers,
        "batch_size": model.batch_size,
        "threads": model.threads,
        "temperature": generation.default_temperature,
        "n_predict": generation.default_max_tokens,
    }
    return {key: value for key, value in defaults.items() if value is not None}


def _found(find: Callable[[Path], list[FoundModel]], folder: Path, setting: str) -> list[FoundModel]:
    try:
        return find(folder)
    except OSError as error:
        raise ConfigError(f"storage.{setting}: {folder} can't be read: {error.strerror}") from None


def _places(entry: ModelEntry) -> list[Path]:
    """What an entry names: files, or its folder."""
    if entry.engine == "llama":
        return files_of(entry)
    return [] if kind_of(entry).files is None else [entry.path]


def _stem(path: Path) -> str:
    split = split_name(path.name)
    return path.stem if split is None else split.stem


def _real(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError):  # a loop of links
        return path


def _stamp(path: Path) -> tuple[int, int]:
    """By which a file that was replaced is told from the one before: nanoseconds and bytes; zeros where it is gone."""
    try:
        seen = path.stat()
    except (OSError, ValueError):
        return 0, 0
    return seen.st_mtime_ns, seen.st_size


def _created(path: Path, otherwise: Path) -> int:
    for candidate in (path, otherwise):
        try:
            return int(candidate.stat().st_mtime)
        except (OSError, ValueError):
            continue
    return 0
