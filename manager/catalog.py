"""The models that can be served: models.json, the one model of the settings, and what discovery finds. Immutable."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

from manager.catalog_builder import CatalogBuilder
from manager.entry import HfParams, LlamaParams, Lora, ModelEntry, Template
from manager.errors import ModelNotFound
from manager.gguf_file import check_gguf
from manager.mistakes import MistakeList, did_you_mean, shown
from manager.models_file import FileEntry, parse_models_file, read_text
from manager.settings import Settings
from manager.variants import RequestFilter

__all__ = [
    "Catalog",
    "Found",
    "HfParams",
    "LlamaParams",
    "Lora",
    "ModelEntry",
    "Template",
    "catalog_of",
    "check_gguf",
    "load_catalog",
]

logger = logging.getLogger(__name__)


class Found(NamedTuple):
    """What the id of a model means. `personality`: the one in the id, or the one of the profile in it."""

    entry: ModelEntry
    personality: str | None = None
    profile: str | None = None

    @property
    def request(self) -> RequestFilter:
        """What is done to requests under this id."""
        return self.entry.request if self.profile is None else self.entry.profiles[self.profile].request


class Catalog:
    """Entries by name and alias. `default` is the model of a request that names none, `warnings` what was odd."""

    def __init__(
        self, entries: Iterable[ModelEntry], default: str | None = None, warnings: Collection[str] = ()
    ) -> None:
        self.warnings = frozenset(warnings)
        self._entries = {entry.name: entry for entry in entries}
        self._by_name = {name: entry for entry in self._entries.values() for name in (entry.name, *entry.aliases)}
        chosen = None if default is None else self._by_name.get(default)
        if chosen is None:
            usable = (entry for entry in self if entry.unavailable is None)
            chosen = next(usable, None) or next(iter(self), None)
        self.default: str | None = None if chosen is None else chosen.name

    def __iter__(self) -> Iterator[ModelEntry]:
        return iter(self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._entries)

    def get(self, name: str) -> ModelEntry | None:
        """The entry with this name or alias."""
        return self._by_name.get(name)

    def find(self, name: str) -> Found:
        """The entry of a name or alias, with what follows a colon: a profile or a personality of the model.

        An exact name or alias goes before a split at the last colon. Raises ModelNotFound with the nearest name.
        """
        entry = self._by_name.get(name)
        if entry is not None:
            return Found(entry)
        model, colon, variant = name.rpartition(":")
        entry = self._by_name.get(model) if colon else None
        if entry is None:
            raise ModelNotFound(
                f"The model {shown(name)} does not exist{did_you_mean(name, self._by_name)}", param="model"
            )
        if variant in entry.profiles:
            return Found(entry, entry.profiles[variant].personality, variant)
        if variant not in entry.personalities:
            hint = did_you_mean(variant, (*entry.profiles, *entry.personalities), prefix=f"{model}:")
            what = "profile or personality" if entry.profiles else "personality"
            raise ModelNotFound(f"The model {shown(model)} has no {what} {shown(variant)}{hint}", param="model")
        return Found(entry, variant)


def load_catalog(settings: Settings, said: Collection[str] = ()) -> Catalog:
    """Read and check everything. Raises ConfigError with file and place; a model that can't run is listed with why.

    What is odd is logged, but for what is in `said`: files are read again often, and once is enough.
    """
    models_file = settings.storage.models_file
    builder, default = _built(settings, *parse_models_file(read_text(models_file), models_file))
    for warning in builder.warnings:
        if warning not in said:
            logger.warning("%s", warning)
    return Catalog(builder.entries, default, builder.warnings)


def catalog_of(settings: Settings, entries: Mapping[str, FileEntry], mistakes: MistakeList) -> Catalog:
    """What `load_catalog` would make, were this what is in models.json. Raises as it does; nothing is logged."""
    builder, default = _built(settings, entries, mistakes)
    return Catalog(builder.entries, default, builder.warnings)


def _built(
    settings: Settings, entries: Mapping[str, FileEntry], mistakes: MistakeList
) -> tuple[CatalogBuilder, str | None]:
    """All entries, with these of models.json, and the name of the default model, where one is set.

    Raises Mistakes with every one, `mistakes` among them, and ConfigError where a folder of models can't be read.
    """
    builder = CatalogBuilder(settings, mistakes)
    for name, raw in entries.items():
        builder.add_from_file(name, raw)
    builder.add_from_settings()
    builder.mistakes.check()
    builder.add_discovered()
    default = settings.model.name or builder.single
    names = [name for entry in builder.entries for name in (entry.name, *entry.aliases)]
    if default is not None and default not in names:
        hint = did_you_mean(default, [entry.name for entry in builder.entries])
        builder.warnings.append(f"model={default} is to be the default but does not exist{hint}")
    return builder, default
