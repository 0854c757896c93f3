"""Whether a build that is there already is the one that is wanted: its name alone does not tell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from manager.builds.cuda import PARTS
from manager.builds.failure import Tell
from manager.builds.kept import Build, builds, read_about
from manager.builds.recipe import OF_SOURCE
from manager.errors import ConfigError

_WORDS: Final = {"source_sha256": "source", "cpu": "CPU", "shared": "cuBLAS"}


def kept_as(folder: Path, name: str, wanted: Mapping[str, Any], tell: Tell) -> Build | None:
    """The build of that name, if there is one, made as is wanted. `wanted`: what build.json would say of it. Blocks.

    Raises ConfigError where it was made otherwise, or for another CPU.
    """
    there = next((build for build in builds(folder) if build.name == name), None)
    if there is None:
        return None
    why = f"for another CPU (with {', '.join(lacking)})" if (lacking := there.lacking()) else ""
    if not why and (differing := list(_differing(read_about(there.folder) or {}, wanted))):
        why = f"made otherwise ({', '.join(differing)})"
    if why:
        raise ConfigError(
            f"{name} is there already, and {why}: give the new one a --name of its own, or replace that with --force."
        )
    tell.say(f"{name} is there already (--force makes it again).")
    return there


def _differing(there: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[str]:
    """What differs, in words or as options of CMake."""
    for key, value in wanted.items():
        if key == "options":
            yield from _differing_options(there, value)
        elif there.get(key) != value:
            yield _WORDS.get(key, key)


def _differing_options(there: Mapping[str, Any], wanted: Mapping[str, str]) -> list[str]:
    known, ordered = there.get("options"), there.get("ordered")
    known = known if isinstance(known, dict) else {}
    # What a machine adds by itself counts only where somebody ordered it.
    by_itself = PARTS - wanted.keys() - set(ordered if isinstance(ordered, list) else ())
    names = (known.keys() | wanted.keys()) - OF_SOURCE - by_itself
    return sorted(name for name in names if known.get(name) != wanted.get(name))
