"""Tokens per second and waits for the first token, with one Hugging Face folder: the service, and what else runs it.

`transformers serve --continuous-batching` and plain `generate` are the rivals. With --both, one Hugging Face model and
one of llama.cpp generate at the same time, through one service.
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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from benchmarks.hf_rivals import (
    GGUF,
    HF,
    LEGS,
    MODES,
    WAITING,
    Leg,
    Served,
    Setting,
    cpu_seconds,
    left_out,
    memory,
    service,
)
from benchmarks.hf_streams import Seen, asks, rates
from manager.settings import load_settings
from manager.starter_model import starter_path

OURS: Final = "ours"
WARM_UP: Final = 1_000_000  # its prompts come in no round
MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Row:
    """One mode and width: the rounds of each leg, in the same order."""

    mode: str
    width: int
    rounds: Mapping[str, Sequence[Seen]]

    def rate(self, leg: str) -> float:
        """Tokens per second, the median round."""
        return median(seen.rate for seen in self.rounds[leg])

    def first(self, leg: str) -> float:
        return median(first for seen in self.rounds[leg] for first in seen.firsts)

    def worst(self, leg: str) -> float:
        return max(seen.worst for seen in self.rounds[leg])

    def cpu_ms(self, leg: str) -> float:
        """CPU time of a token in milliseconds: what other load on the machine changes least."""
        return median(1000 * seen.cpu / seen.tokens for seen in self.rounds[leg])

    @property
    def best_rival(self) -> str | None:
        return max((leg for leg in self.rounds if leg != OURS), key=self.rate, default=None)

    @property
    def ratio(self) -> float | None:
        """Ours to the best rival: the median of what each round gives, for the machine is not alike in all."""
        rival = self.best_rival
        if rival is None or OURS not in self.rounds:
            return None
        pairs = zip(self.rounds[OURS], self.rounds[rival], strict=True)
        return median(own.rate / other.rate for own, other in pairs)


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of a leg's process at the end; of ours also before the model was there, and what was estimated."""

    leg: str
    mode: str
    end: int
    idle: int = 0
    estimate: int = 0

    @property
    def text(self) -> str:
        told = f"{self.leg} {self.mode}: {self.end / MIB:,.0f} MiB at the end"
        if not self.estimate:
            return told
        added = self.end - self.idle
        return (
            f"{told}, {added / MIB:,.0f} MiB of it added by the model; "
            f"{self.estimate / MIB:,.0f} MiB estimated ({added / self.estimate:.2f})"
        )


def measure(options: argparse.Namespace, console: Console) -> tuple[list[Row], list[Memory]]:
    setting = setting_of(options, max(options.widths))
    rows, memories = [], []
    for mode in options.modes:
        with contextlib.ExitStack() as stack:
            legs = {}
            for name in options.legs:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f"lh-{name}-")))
                legs[name] = stack.enter_context(LEGS[name](setting, mode, folder))
                console.print(f"[dim]{mode}: {name} is ready[/dim]")
            for width in options.widths:
                row = Row(mode, width, rounds(legs, width, options))
                rates = ", ".join(f"{name} {row.rate(name):.1f}" for name in legs)
                console.print(f"[dim]{mode} x{width}: tokens/s {rates}[/dim]")
                rows.append(row)
            memories += [weighed(name, mode, leg) for name, leg in legs.items()]
    return rows, memories


def rounds(legs: Mapping[str, Leg], width: int, options: argparse.Namespace) -> dict[str, list[Seen]]:
    """The legs take turns, and each round another one begins. They get the same requests."""
    short = [replace(ask, tokens=8) for ask in asks(WARM_UP + width, width)]
    for leg in legs.values():
        leg.run(short, width)
    seen: dict[str, list[Seen]] = {name: [] for name in legs}
    names = list(legs)
    for number in range(options.rounds):
        wanted = asks(1000 * width + number, width * options.requests)
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            leg = legs[name]
            before = cpu_seconds(leg.pid)
            one = leg.run(wanted, width)
            seen[name].append(replace(one, cpu=cpu_seconds(leg.pid) - before))
    return seen


def weighed(name: str, mode: str, leg: Leg) -> Memory:
    if isinstance(leg, Served):
        return Memory(name, mode, memory(leg.pid), leg.idle, leg.estimate)
    return Memory(name, mode, memory(leg.pid))


def show(console: Console, rows: Sequence[Row], memories: Sequence[Memory]) -> None:
    legs = list(rows[0].rounds)
    table = Table(title="Tokens per second, and seconds to the first token (median / worst)")
    heads = ("mode", "streams", *(f"{leg} t/s" for leg in legs), "ratio")
    for name in (*heads, *(f"{leg} {what}" for what in ("first s", "cpu ms") for leg in legs)):
        table.add_column(name, justify="left" if name == "mode" else "right")
    for row in rows:
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        first = (f"{row.first(leg):.2f} / {row.worst(leg):.2f}" for leg in legs)
        cpu = (f"{row.cpu_ms(leg):.1f}" for leg in legs)
        table.add_row(row.mode, str(row.width), *(f"{row.rate(leg):.1f}" for leg in legs), ratio, *first, *cpu)
    console.print(table)
    console.print("ratio: ours to the best rival, the median of the rounds; cpu: of the process, for one token")
    for one in memories:
        console.print(one.text)


def both(options: argparse.Namespace, console: Console) -> Iterator[dict[str, Any]]:
    """Each model alone, then together, in turns."""
    setting = setting_of(options, max(options.widths))
    with tempfile.TemporaryDirectory(prefix="lh-both-") as folder, service(setting, Path(folder)) as running:
        names = (HF, GGUF)
        chats = {name: running.chat(name, "sampled") for name in names}
        for name in names:
            running.load(name)
        for width in options.widths:
            for chat in chats.values():
                rates([chat], width, 1.0, WARM_UP)
            alone: dict[str, list[float]] = {name: [] for name in names}
            together: dict[str, list[float]] = {name: [] for name in names}
            for number in range(options.rounds):
                for name in names:
                    alone[name] += rates([chats[name]], width, options.seconds, 1000 * number)
                for name, rate in zip(names, rates(list(chats.values()), width, options.seconds, number), strict=True):
                    together[name].append(rate)
            console.print(f"[dim]both x{width}: alone {alone}, together {together}[/dim]")
            for name in names:
                yield {
                    "model": name,
                    "streams": width,
                    "alone": median(alone[name]),
                    "together": median(together[name]),
                }


def show_both(console: Console, shares: Sequence[Mapping[str, Any]]) -> None:
    table = Table(title="One Hugging Face model and one of llama.cpp at the same time, tokens per second")
    for name in ("model", "streams", "alone", "together", "share"):
        table.add_column(name, justify="left" if name == "model" else "right")
    for row in shares:
        cells = (f"{row['alone']:.1f}", f"{row['together']:.1f}", f"{row['together'] / row['alone']:.2f}")
        table.add_row(row["model"], str(row["streams"]), *cells)
    console.print(table)


def setting_of(options: argparse.Namespace, parallel: int) -> Setting:
    gguf = options.gguf if options.both else None
    rivals = (options.rival_python, options.rival_waiting)
    return Setting(options.folder, options.threads, parallel, *rivals, gguf, options.binary)


def report(rows: Sequence[Row], memories: Sequence[Memory], shares: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Everything as JSON."""
    machine = {"cpus": os.cpu_count(), "python": platform.python_version(), "platform": platform.platform()}
    results = [
        {**asdict(row), "ratio": row.ratio, "tokens_per_second": {leg: row.rate(leg) for leg in row.rounds}}
        for row in rows
    ]
    return {
        "machine": machine,
        "results": results,
        "memory": [asdict(one) for one in memories],
        "both": list(shares),
    }


def widths(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def parse(argv: Sequence[str]) -> argparse.Namespace:
    cpus = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hf", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, metavar="DIR", help="the model, as a Hugging Face folder")
    parser.add_argument("--widths", type=widths, default=[1, 4, 8, 16], metavar="N,N", help="streams at a time")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="medians of so many [3]")
    parser.add_argument("--requests", type=int, default=2, metavar="N", help="of each stream in a round [2]")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--legs", nargs="+", choices=LEGS, default=list(LEGS))
    parser.add_argument("--threads", type=int, default=cpus, metavar="N", help=f"for each leg [{cpus}]")
    parser.add_argument(
        "--rival-waiting", choices=WAITING, default="brief", help="how the rivals' threads wait: brief is as ours"
    )
    parser.add_argument(
        "--rival-python", type=Path, default=Path(sys.executable), metavar="PATH", help="with transformers[serving]"
    )
    parser.add_argument("--both", action="store_true", help="instead: one model of each engine at the same time")
    parser.add_argument("--gguf", type=Path, help="llama.cpp's model for --both; default: the starter model")
    parser.add_argument("--seconds", type=float, default=20.0, metavar="S", help="of one measurement of --both [20]")
    parser.add_argument("--binary", type=Path, help="llama-server for --both; default: LLAMAHERD_LLAMA__BINARY, PATH")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything there")
    options = parser.parse_args(argv)
    options.folder = options.folder.absolute()
    binary = options.binary or os.environ.get("LLAMAHERD_LLAMA__BINARY") or shutil.which("llama-server")
    options.binary = Path(binary).absolute() if binary else None
    if not (options.folder / "config.json").is_file():
        parser.error(f"{options.folder} is no folder of a Hugging Face model")
    if options.both:
        options.gguf = (options.gguf or starter_path(load_settings())).absolute()
        if not options.gguf.is_file():
            parser.error(f"there is no {options.gguf}: llamaherd model fetch-starter, or --gguf")
    return options


def run(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    if options.both:
        shares = list(both(options, console))
        show_both(console, shares)
        return report([], [], shares)
    for leg in list(options.legs):
        if reason := left_out(leg, options.rival_python):
            console.print(f"{leg} is left out: {reason}")
            options.legs.remove(leg)
    rows, memories = measure(options, console)
    show(console, rows, memories)
    return report(rows, memories, [])


def main() -> None:
    options = parse(sys.argv[1:])
    # An end by signal must stop what was started, too.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        result = run(options, Console(width=170))
    except RuntimeError as error:
        sys.exit(str(error))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
