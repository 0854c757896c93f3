"""Judges a text as that of models.json before it is written: what a reload would refuse it for, and where that is."""

from __future__ import annotations

import json
from dataclasses import replace

from manager.catalog import catalog_of
from manager.errors import ConfigError
from manager.json_text import Places
from manager.memory_devices import refuse_two_names
from manager.mistakes import Mistake, MistakeList, Mistakes
from manager.models_file import FileEntry, parse_models_file
from manager.models_powers import Powers, spelled
from manager.settings import Settings


def mistakes_of(settings: Settings, text: str, powers: Powers | None = None) -> list[Mistake]:
    """Every mistake, with line and column where it is in the text; none where a reload would take it. Blocks.

    With `powers` it comes over HTTP: what it adds to them is a mistake too, and nothing is looked at for that.
    """
    file = settings.storage.models_file
    try:
        entries, mistakes = parse_models_file(text, file, None if powers is None else powers.trusts)
        if powers is not None:
            entries = _without_powers(entries, powers, text, mistakes)
        refuse_two_names(settings, catalog_of(settings, entries, mistakes))
    except Mistakes as error:
        places = Places(text)
        return [_placed(mistake, places) if mistake.file == file else mistake for mistake in error.mistakes]
    except ConfigError as error:  # a folder of models, the GPUs
        return [Mistake(error.message)]
    return []


def _without_powers(
    entries: dict[str, FileEntry], powers: Powers, text: str, mistakes: MistakeList
) -> dict[str, FileEntry]:
    """The entries that add none; for the others there are mistakes more. Raises Mistakes where there are very many."""
    added = {name: found for name, entry in entries.items() if (found := list(powers.added(name, entry)))}
    written = json.loads(text) if added else {}
    for name, found in added.items():
        for mistake in found:
            key = spelled(written[name]["params"], mistake.path[-1])
            mistakes.add(replace(mistake, path=(name, "params", key)))
    return {name: entry for name, entry in entries.items() if name not in added}


def _placed(mistake: Mistake, places: Places) -> Mistake:
    if not mistake.path:  # no JSON, or not all that there is
        return mistake
    line, column = places.find(mistake.path)
    return replace(mistake, line=line, column=column)
