"""The kinds of engine: llama and hf, and those that other packages bring (entry points of the group GROUP)."""

from __future__ import annotations

import logging
from asyncio import CancelledError
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from manager.discovery import hf_files
from manager.entry import ModelEntry
from manager.errors import ConfigError, EndpointUnsupported
from manager.mistakes import did_you_mean, shown
from manager.params import HfParams, LlamaParams, ModelParams

if TYPE_CHECKING:
    from manager.engines import Engine
    from manager.run_folder import RunFolder
    from manager.settings import Settings

logger = logging.getLogger(__name__)

GROUP: Final = "llamaherd.engines"
# What the code of another package can raise that must not end what calls it.
FAULTS: Final = (Exception, SystemExit, CancelledError)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What an engine gets of the service: its settings, and the folder for sockets and records of children."""

    settings: Settings
    run_folder: RunFolder


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EngineKind:
    """What runs models of one kind. A package exposes one under its entry point, whose name entries give as `engine`.

    `params`: the keys that `params` of an entry may have, with their types.
    `make`: the engine for one life of a model; called on the event loop, so it only remembers what it is given.
    `paths`: those of llama-server that its engines answer; others are refused before a model is loaded. None: ask them.
    `files`: what a model is made of; with it `params.model` is a path (of a file or a folder, in `entry.path`), without
    it any name. An entry is judged by them: one that lacks a file can't be used, and one with other files is another.
    `problem`: why a model can't be loaded here, None where nothing is known against it.
    `memory`: bytes that it will take by device ("host", "gpu0", …); None: as much as its lives so far.
    All but `make` are called in threads and may read files, but no network: what takes long holds up the start, every
    reload, or whoever waits for a load, and what never returns ends them, as nobody can end a thread.
    """

    params: type[ModelParams]
    make: Callable[[ModelEntry, Surroundings], Engine]
    paths: frozenset[str] | None = None
    files: Callable[[ModelEntry], Iterable[Path]] | None = None
    problem: Callable[[ModelEntry], str | None] | None = None
    memory: Callable[[ModelEntry], Mapping[str, int]] | None = None


def _llama(entry: ModelEntry, around: Surroundings) -> Engine:
    from manager.engines.llama.engine import LlamaEngine

    return LlamaEngine(entry, around.settings, around.run_folder)


def _hf(entry: ModelEntry, _: Surroundings) -> Engine:
    from manager.engines.hf.engine import HfEngine

    return HfEngine(entry)


def _llama_files(entry: ModelEntry) -> list[Path]:
    draft, adapters = entry.llama.draft_model, (adapter.path for adapter in entry.llama.lora)
    return [entry.path, *(Path(path) for path in (entry.mmproj, draft, *adapters) if path is not None)]


_SHARED_PATHS: Final = frozenset(
    {
        *("/props", "/tokenize", "/detokenize", "/apply-template"),
        *("/v1/chat/completions", "/v1/chat/completions/input_tokens", "/v1/completions", "/v1/embeddings"),
    }
)
BUILT_IN: Final[Mapping[str, EngineKind]] = {
    "llama": EngineKind(
        params=LlamaParams,
        make=_llama,
        paths=_SHARED_PATHS | {"/v1/rerank", "/infill", "/v1/audio/transcriptions"},
        files=_llama_files,
    ),
    "hf": EngineKind(params=HfParams, make=_hf, paths=_SHARED_PATHS, files=lambda entry: hf_files(entry.path)),
}


def _installed() -> Iterable[EntryPoint]:
    return entry_points(group=GROUP)


class EngineKinds:
    """All kinds by name. Packages are looked up once, and one is imported only where an entry names its engine."""

    def __init__(self, find: Callable[[], Iterable[EntryPoint]] = _installed) -> None:
        self._find = find
        self._known: dict[str, EngineKind] = dict(BUILT_IN)
        self._installed: dict[str, list[EntryPoint]] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """All that an entry may name; the packages need not be good for anything."""
        return tuple(dict.fromkeys([*BUILT_IN, *self._packages()]))

    def get(self, name: str) -> EngineKind:
        """Raises ConfigError where there is none of this name, or its package can't be used. May import."""
        known = self._known.get(name)
        if known is None:
            found = self._packages().get(name)
            if found is None:
                raise ConfigError(f"there is no engine {shown(name)}{did_you_mean(name, self.names)}")
            known = self._known[name] = _loaded(name, found)
        return known

    def known(self, name: str) -> EngineKind:
        """One that `get` has given before, without a look at files. Raises ConfigError for any other."""
        if name not in self._known:
            raise ConfigError(f"the engine {shown(name)} is of no entry that was read")
        return self._known[name]

    def _packages(self) -> dict[str, list[EntryPoint]]:
        if self._installed is None:
            self._installed = {}
            for point in self._find():
                self._installed.setdefault(point.name, []).append(point)
        return self._installed


def _loaded(name: str, found: list[EntryPoint]) -> EngineKind:
    packages = sorted({_package(point) for point in found})
    if len(packages) > 1:
        raise ConfigError(f"the engine {shown(name)} is in several packages: {', '.join(packages)}")
    try:
        kind: EngineKind = found[0].load()
        reason = _defect(kind)
    except FAULTS as error:
        reason = f"{type(error).__name__}: {error}"
        logger.debug("engine=%s can't be imported", name, exc_info=True)
    if reason is None:
        return kind
    raise ConfigError(f"the engine {shown(name)} of the package {packages[0]} can't be used: {reason}")


def _package(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else point.value


def _defect(kind: object) -> str | None:
    """Why this is no kind of engine; None where it is one."""
    if not isinstance(kind, EngineKind):
        return f"its entry point is no EngineKind but {shown(kind)}"
    given: dict[str, Any] = {field.name: getattr(kind, field.name) for field in fields(kind)}
    params, paths = given.pop("params"), given.pop("paths")
    if not (isinstance(params, type) and issubclass(params, ModelParams)):
        return "its params is no subclass of ModelParams"
    if not (paths is None or (isinstance(paths, frozenset) and all(isinstance(path, str) for path in paths))):
        return "its paths is no frozenset of strings"
    wrong = [name for name, value in given.items() if not callable(value) and (name == "make" or value is not None)]
    return f"its {wrong[0]} can't be called" if wrong else None


KINDS: Final = EngineKinds()


def kind_of(entry: ModelEntry) -> EngineKind:
    """The kind of an entry of the catalog. Never blocks: it was loaded when the entry was read."""
    return KINDS.known(entry.engine)


def supports(entry: ModelEntry, path: str) -> bool:
    """Whether the engine of this entry answers this path of llama-server at all, loaded or not."""
    paths = kind_of(entry).paths
    return paths is None or path in paths


def check_supported(entry: ModelEntry, path: str) -> None:
    """Raises EndpointUnsupported, which names the model, where its engine never answers this path."""
    if not supports(entry, path):
        raise EndpointUnsupported(
            f"The model '{entry.name}' can't do this: its engine ({entry.engine}) has no {path}.", param="model"
        )
