"""`llamaherd doctor`: what is found of engine, GPUs, memory, models, ports, certificates; and what to do about it."""

from __future__ import annotations

import json
import sys
from collections import Counter
from itertools import groupby
from typing import TYPE_CHECKING, Final

import typer

from manager.cli.options import ConfigOption, DataFolderOption, JsonOption, settings_from

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from manager.doctor import Finding, Level

MARKS: Final = {"ok": "✓", "note": "·", "warning": "!", "error": "✗"}
PLAIN: Final = {"ok": "+", "note": "-", "warning": "!", "error": "x"}  # for what has no other characters
COLOURS: Final = {"ok": "green", "note": "cyan", "warning": "yellow", "error": "red"}
COUNTED: Final = {"ok": "ok", "note": "notes", "warning": "warnings", "error": "errors"}


def doctor(config: ConfigOption = None, data_folder: DataFolderOption = None, as_json: JsonOption = False) -> None:
    """Look whether the service can run here, and say what to do where it can't. Exit 0: no errors; 1: some."""
    from manager.doctor import Level, examine
    from manager.doctor.case import Case
    from manager.errors import ConfigError

    try:
        case = Case(settings_from(config, {"storage": {"data_folder": data_folder}}))
    except ConfigError as mistake:
        case = Case(None, mistake.message)
    findings = examine(case)
    if as_json:
        typer.echo(json.dumps([_as_json(finding) for finding in findings], indent=2, ensure_ascii=False))
    elif sys.stdout.isatty():
        _print(findings)
    else:
        for line in _lines(findings):
            typer.echo(line)
    raise typer.Exit(1 if any(finding.level is Level.ERROR for finding in findings) else 0)


def _as_json(finding: Finding) -> dict[str, str | None]:
    return {
        "area": finding.area,
        "name": finding.name,
        "level": str(finding.level),
        "text": finding.text,
        "advice": finding.advice,
    }


def _lines(findings: Sequence[Finding]) -> Iterator[str]:
    marks = _marks()
    width = max((len(finding.name) for finding in findings), default=0)
    for area, found in groupby(findings, lambda finding: finding.area):
        yield area
        for finding in found:
            first, *more = finding.text.splitlines() or [""]
            yield f"  {marks[finding.level]} {finding.name:<{width}}  {first}"
            for line in more:
                yield f"{'':{width + 6}}{line}"
            if finding.advice is not None:
                yield f"{'':{width + 6}}do: {finding.advice}"
    yield ""
    yield _summary(findings)


def _print(findings: Sequence[Finding]) -> None:
    """As _lines, in colours, and broken into the columns of the terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console, marks = Console(highlight=False), _marks()
    for area, found in groupby(findings, lambda finding: finding.area):
        console.print(Text(area, style="bold"))
        table = Table.grid(padding=(0, 2, 0, 0), pad_edge=False)
        table.add_column(width=3)
        table.add_column(min_width=12)
        table.add_column(overflow="fold")
        for finding in found:
            text = Text(finding.text)
            if finding.advice is not None:
                text.append(f"\ndo: {finding.advice}", style="bold")
            mark = Text(f"  {marks[finding.level]}", style=COLOURS[finding.level])
            table.add_row(mark, Text(finding.name), text)
        console.print(table)
    console.print(f"\n{_summary(findings)}", markup=False)


def _marks() -> dict[str, str]:
    try:
        "".join(MARKS.values()).encode(sys.stdout.encoding or "ascii")
    except (LookupError, UnicodeEncodeError):
        return PLAIN
    return MARKS


def _summary(findings: Sequence[Finding]) -> str:
    counts: Counter[Level] = Counter(finding.level for finding in findings)
    return ", ".join(f"{COUNTED[level]}: {count}" for level, count in sorted(counts.items(), key=_order))


def _order(item: tuple[Level, int]) -> int:
    return list(MARKS).index(item[0])
