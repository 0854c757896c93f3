"""`llamaherd llama list`: every llama.cpp that could run models here, and which one does."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import typer

from manager.cli.options import ConfigOption, JsonOption, settings_from, show, size

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from manager.builds.kept import Build
    from manager.engines.llama.native import Found
    from manager.settings import Settings


@dataclass(frozen=True)
class Row:
    """One llama.cpp. `kind`: build, setting, path or embedded; `made_at`: seconds since the epoch.

    `why` it is the one that runs models, None where it is not; `unfit`: CPU instructions that it lacks here.
    """

    kind: str
    name: str
    version: str
    backend: str | None = None
    features: tuple[str, ...] = ()
    cpu: str = ""
    made_at: float | None = None
    bytes: int | None = None
    path: Path | None = None
    why: str | None = None
    unfit: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        made = None if self.made_at is None else datetime.fromtimestamp(self.made_at, UTC).isoformat(timespec="seconds")
        own = {name: getattr(self, name) for name in ("kind", "name", "version", "backend", "cpu", "bytes", "why")}
        path = None if self.path is None else str(self.path)
        return own | {"features": self.features, "made_at": made, "path": path, "unfit": self.unfit}


def list_builds(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List every llama.cpp that could run models here, and which one does."""
    settings = settings_from(config, {})
    rows, problem = _rows(settings)
    if as_json:
        typer.echo(json.dumps([row.as_json() for row in rows], indent=2, ensure_ascii=False))
    elif rows:
        _show(rows)
    else:
        typer.echo("There is no llama.cpp: compile one with llamaherd llama build.")
    if problem is not None:
        typer.echo(problem, err=True)


def _show(rows: list[Row]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("Name", "Version", "Backend", "CPU", "Made", "Size", "Runs models")
    for row in rows:
        made = "" if row.made_at is None else f"{datetime.fromtimestamp(row.made_at, UTC):%Y-%m-%d %H:%M}"
        runs = f"yes: {row.why}" if row.why else f"can't: no {', '.join(row.unfit)} here" if row.unfit else ""
        taken = "" if row.bytes is None else size(row.bytes)
        table.add_row(*map(Text, (row.name, row.version, row.backend or "", row.cpu, made, taken, runs)))
    show(table)


def _rows(settings: Settings) -> tuple[list[Row], str | None]:
    """All rows, and what is wrong with the choice, if something is. Blocks."""
    from manager.builds.kept import builds, builds_folder
    from manager.engines.llama.native import find
    from manager.errors import ConfigError

    problem, found = None, None
    try:
        found = find(settings)
    except ConfigError as error:
        problem = error.message
    embedded_only = settings.llama.launcher == "embedded"
    used = None if embedded_only else found
    rows = [_of_build(build, used) for build in builds(builds_folder(settings))]
    rows += _elsewhere(settings, used)
    rows += _embedded(settings, chosen=embedded_only or (found is None and problem is None))
    return rows, problem


def _of_build(build: Build, found: Found | None) -> Row:
    return Row(
        kind="build",
        name=build.name,
        version=build.version,
        backend=build.gpu,
        features=build.features,
        cpu=build.word,
        made_at=build.made_at,
        bytes=build.size(),
        path=build.binary,
        why=found.why if found is not None and found.build == build else None,
        unfit=tuple(build.lacking()),
    )


def _elsewhere(settings: Settings, found: Found | None) -> Iterator[Row]:
    """Those of the setting and of PATH."""
    import shutil
    from pathlib import Path

    from manager.builds.kept import BINARY_NAME
    from manager.builds.toolchain import said

    on_path = shutil.which(BINARY_NAME)
    places = {"setting": settings.llama.binary, "path": None if on_path is None else Path(on_path).absolute()}
    for kind, binary in places.items():
        if binary is not None and binary.is_file():
            version = said(binary, "--version").partition("\n")[0].removeprefix("version: ")
            why = found.why if found is not None and found.build is None and found.binary == binary else None
            yield Row(kind, str(binary), version or "unknown", bytes=binary.stat().st_size, path=binary, why=why)


def _embedded(settings: Settings, *, chosen: bool) -> Iterator[Row]:
    from importlib.metadata import PackageNotFoundError, version

    from manager.engines.llama.native import EMBEDDED_PACKAGE

    try:
        row = Row("embedded", f"{EMBEDDED_PACKAGE} (wheel)", version(EMBEDDED_PACKAGE))
    except PackageNotFoundError:
        return
    if chosen and settings.llama.launcher != "native":
        reason = "llama.launcher is embedded" if settings.llama.launcher == "embedded" else "there is no other"
        row = Row(row.kind, row.name, row.version, why=reason)
    yield row
