"""Packages that bring engines, as they lie in site-packages: a module and what its metadata says of entry points."""

from __future__ import annotations

from pathlib import Path
from typing import Final

# What a module of an engine begins with.
IMPORTS: Final = """
from collections.abc import Iterable
from pathlib import Path
from pydantic import Field, field_validator
from manager.engines.kinds import EngineKind
from manager.params import ModelParams
"""


def write_package(folder: Path, name: str, code: str, engines: tuple[str, ...] = ("own",)) -> None:
    """Put the package `name` there, version 1.0, whose module of that name has a KIND for each of the engines."""
    (folder / f"{name}.py").write_text(IMPORTS + code)
    about = folder / f"{name}-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    points = "".join(f"{engine} = {name}:KIND\n" for engine in engines)
    (about / "entry_points.txt").write_text(f"[llamaherd.engines]\n{points}")
