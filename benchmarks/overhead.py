"""What the service costs: the same requests straight to a llama.cpp child and through the service, in one run.

    python -m benchmarks.overhead [--duration 5] [--connections 1 8 16] [--json FILE]

Everything is started here on loopback ports, with a tiny random model, and stopped at the end. Load comes from wrk.
See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from benchmarks.load import ERRORS, Case, Sample, Target, drive, find_wrk
from benchmarks.targets import MODEL, Child, router, service, straight, tried
from tests.gguf_files import write_tiny_gguf

TOKENS: Final = 64
WIDTH: Final = 128  # of the table, also where the output is no terminal
SHORT: Final = Case("short", "/tokenize", json.dumps({"model": MODEL, "content": "a few short words"}))
STREAM: Final = Case(
    "stream",
    "/v1/chat/completions",
    json.dumps(
        {
            "model": MODEL,
            "messages": [{"role": "user", "content": "count"}],
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_tokens": TOKENS,
            "ignore_eos": True,
            "temperature": 0,
        }
    ),
)
CASES: Final = {case.name: case for case in (SHORT, STREAM)}
LEGS: Final = {"straight": straight, "service": service, "router": router}


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement: a case at one target. The ratio is that of the rates, to the straight leg of the same run.

    `kept`: connections were used again; else there was a new one for each request.
    """

    child: str
    case: str
    connections: int
    leg: str
    sample: Sample
    tokens_per_second: float
    ratio: float | None
    kept: bool


def measure(child: Child, legs: Sequence[str], options: argparse.Namespace) -> Iterator[Row]:
    """Every case at every leg, the legs of a case right after each other."""
    with contextlib.ExitStack() as stack:
        targets = []
        for leg in legs:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f"lh-bench-{leg}-")))
            targets.append(stack.enter_context(LEGS[leg](child, folder)))
        for case in (CASES[name] for name in options.cases):
            asked = [tried(target, case) for target in targets]
            for connections in options.connections:
                yield from _compare(child.kind, list(zip(targets, asked, strict=True)), connections, options)


def _compare(
    kind: str, legs: Sequence[tuple[Target, Case]], connections: int, options: argparse.Namespace
) -> Iterator[Row]:
    samples: list[list[Sample]] = [[] for _ in legs]
    for _ in range(options.rounds):
        for seen, (target, case) in zip(samples, legs, strict=True):
            seen.append(drive(target, case, connections=connections, seconds=options.duration))
    base = next((together(seen).rate for seen, (target, _) in zip(samples, legs, strict=True) if _straight(target)), 0)
    for seen, (target, case) in zip(samples, legs, strict=True):
        sample = together(seen)
        ratio = sample.rate / base if base else None
        yield Row(kind, case.name, connections, target.name, sample, sample.rate * case.tokens, ratio, not case.close)


def _straight(target: Target) -> bool:
    return target.name == "straight"


def together(samples: Sequence[Sample]) -> Sample:
    """Several rounds as one: sums, medians, and the worst of all."""
    return Sample(
        requests=sum(sample.requests for sample in samples),
        seconds=sum(sample.seconds for sample in samples),
        p50_ms=median(sample.p50_ms for sample in samples),
        p99_ms=median(sample.p99_ms for sample in samples),
        worst_ms=max(sample.worst_ms for sample in samples),
        cpu_seconds=sum(sample.cpu_seconds for sample in samples),
        errors={kind: sum(sample.errors[kind] for sample in samples) for kind in ERRORS},
    )


def added_ms(rows: Sequence[Row], child: str) -> float | None:
    """What the service adds to the median of a short request over one connection."""
    medians = {
        row.leg: row.sample.p50_ms for row in rows if (row.child, row.case, row.connections) == (child, SHORT.name, 1)
    }
    return medians["service"] - medians["straight"] if {"service", "straight"} <= medians.keys() else None


def show(console: Console, rows: Sequence[Row]) -> None:
    table = Table(title="Straight to a child, and through the service")
    for name in ("child", "case", "conn", "kept", "leg"):
        table.add_column(name)
    for name in ("answers/s", "tokens/s", "p50 ms", "p99 ms", "worst ms", "cpu µs", "failed", "ratio"):
        table.add_column(name, justify="right")
    for row in rows:
        sample = row.sample
        times = [f"{value:.2f}" for value in (sample.p50_ms, sample.p99_ms, sample.worst_ms)]
        tokens = f"{row.tokens_per_second:,.0f}" if row.tokens_per_second else ""
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        counts = (f"{sample.rate:,.0f}", tokens, *times, f"{sample.cpu_us:.0f}", f"{sample.failed:,}", ratio)
        table.add_row(row.child, row.case, str(row.connections), "yes" if row.kept else "no", row.leg, *counts)
    console.print(table)
    for child in dict.fromkeys(row.child for row in rows):
        added = added_ms(rows, child)
        stalls = [row.sample.worst_ms for row in rows if (row.child, row.case, row.leg) == (child, "short", "service")]
        if added is not None:
            console.print(f"{child}: the service adds {added:.3f} ms at the median (short, one connection)")
        if stalls:
            console.print(f"{child}: longest short request through the service {max(stalls):.1f} ms")


def report(rows: Sequence[Row]) -> dict[str, Any]:
    """Everything as JSON."""
    machine = {"cpus": os.cpu_count(), "python": platform.python_version(), "platform": platform.platform()}
    kinds = dict.fromkeys(row.child for row in rows)
    results = [{**asdict(row), "answers_per_second": row.sample.rate, "cpu_us": row.sample.cpu_us} for row in rows]
    return {"machine": machine, "added_p50_ms": {kind: added_ms(rows, kind) for kind in kinds}, "results": results}


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=__doc__.splitlines()[0])
    parser.add_argument("--duration", type=int, default=5, metavar="S", help="seconds of load per measurement [5]")
    parser.add_argument("--rounds", type=int, default=1, metavar="N", help="rounds over the legs of each case [1]")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 8, 16], metavar="N")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--legs", nargs="+", choices=LEGS, help="default: all that the child has")
    parser.add_argument("--children", nargs="+", choices=("native", "embedded", "mock"), help="default: real and mock")
    parser.add_argument("--binary", type=Path, help="llama-server; default: LLAMAHERD_LLAMA__BINARY, or PATH")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything there")
    options = parser.parse_args(argv)
    binary = options.binary or os.environ.get("LLAMAHERD_LLAMA__BINARY") or shutil.which("llama-server")
    options.binary = Path(binary).absolute() if binary else None
    options.children = options.children or ["native" if options.binary else "embedded", "mock"]
    if "native" in options.children and options.binary is None:
        parser.error("no llama-server is found: name it with --binary")
    if find_wrk() is None:
        parser.error("wrk is not installed (Debian: apt-get install wrk)")
    return options


def run(options: argparse.Namespace, console: Console) -> list[Row]:
    rows = []
    with tempfile.TemporaryDirectory(prefix="lh-bench-") as folder:
        model = write_tiny_gguf(Path(folder) / "tiny.gguf")
        for kind in options.children:
            child = Child(kind, model, max(options.connections), options.binary if kind == "native" else None)
            legs = options.legs or list(LEGS)
            for row in measure(child, [leg for leg in legs if leg != "router" or kind == "native"], options):
                rate = f"{row.sample.rate:,.0f}/s"
                console.print(f"[dim]{row.child} {row.case} x{row.connections} {row.leg}: {rate}[/dim]")
                rows.append(row)
    return rows


def main() -> None:
    options = parse(sys.argv[1:])
    console = Console(width=max(WIDTH, shutil.get_terminal_size().columns))
    # An end by signal must stop what was started, too.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        rows = run(options, console)
    except RuntimeError as error:
        sys.exit(str(error))
    show(console, rows)
    if options.json:
        options.json.write_text(json.dumps(report(rows), indent=2) + "\n")


if __name__ == "__main__":
    main()
