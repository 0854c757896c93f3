"""Judges a text as that of models.json before it is written: what a reload would refuse it for, and where that is.

And what it may not bring with it when it comes over HTTP.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from pydantic.alias_generators import to_camel

from manager.catalog import catalog_of
from manager.errors import ConfigError
from manager.json_text import Places
from manager.memory_devices import refuse_two_names
from manager.mistakes import Mistake, Mistakes
from manager.models_file import FileEntry, parse_models_file
from manager.settings import Settings

# Keys of params by which a model runs code of others, or its engine does what it is told: who can reach the service is
# not always who owns the machine.
FOR_THE_MACHINE: Final = ("allow_pickle", "trust_remote_code", "extra_args")


def mistakes_of(settings: Settings, text: str) -> list[Mistake]:
    """Every mistake, with line and column where it is in the text; none where a reload would take it. Blocks."""
    try:
        refuse_two_names(settings, catalog_of(settings, text))
    except Mistakes as error:
        return list(_placed(error.mistakes, text, settings.storage.models_file))
    except ConfigError as error:  # a folder of models, the GPUs
        return [Mistake(error.message)]
    return []


def powers_added(text: str, old: str | None, file: Path) -> list[Mistake]:
    """The keys of FOR_THE_MACHINE that the text has and the old one (None: there is no file) had not for that model.

    `text` has no mistakes.
    """
    had = {power for entry in parse_models_file(old, file)[0].values() for _, power in _powers(entry)}
    written = json.loads(text)
    added = [
        Mistake(
            "can't be given over HTTP, for it could run code of others: write it into the file on the machine itself",
            (name, "params", field if field in written[name]["params"] else to_camel(field)),
            file,
        )
        for name, entry in parse_models_file(text, file)[0].items()
        for field, power in _powers(entry)
        if power not in had
    ]
    return list(_placed(added, text, file))


def _powers(entry: FileEntry) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Those keys that the entry gives, and with each all that it is given for."""
    for field in FOR_THE_MACHINE:
        value = getattr(entry.params, field, None)
        if value:
            yield field, (field, value, entry.engine, entry.params.model)


def _placed(mistakes: Iterable[Mistake], text: str, file: Path) -> Iterator[Mistake]:
    places = Places(text)
    for mistake in mistakes:
        if mistake.file != file or not mistake.path:  # a setting, or no JSON
            yield mistake
        else:
            line, column = places.find(mistake.path)
            yield replace(mistake, line=line, column=column)
