#!/usr/bin/env python3
"""Checks a machine with a GPU: builds llama-server, loads SmolLM2 with all layers there, and says whether it is right.

It starts the service with that binary and asks it over HTTP, so every figure is what users get:

- The text at temperature 0 is that of the CPU. It may part where the CPU was nearly undecided itself.
- Tokens per second of 1, 8 and 32 streams, and the CPU's.
- Memory by NVML against the estimate, all layers on the GPU, and its memory free again within 2 s of the unload.

It prints a table, and ends with 1 where a figure is wrong, with the reasons in words; with 2 where nothing could be
measured. `--backend cpu` tries the same without a GPU: both sides are on the CPU then, the GPU's rows are left out, and
the table says so.

It needs the packages of the service (a folder of them in PYTHONPATH will do) and a GGUF model: `--model`, or the
starter model, which comes from the package index.
"""

from __future__ import annotations

import argparse
import http.client
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

try:
    from rich.console import Console
    from rich.table import Table

    from benchmarks import gpu as measuring
    from benchmarks.gpu_judging import Agreement, OnGpu, agreement, off, wrong_on_gpu, wrong_speeds
    from manager.errors import HerdError
    from manager.settings import load_settings
    from manager.starter_model import provide_starter
except ImportError as missing:
    sys.stderr.write(f"NOTHING WAS MEASURED: the packages of the service are not installed ({missing}).\n")
    sys.exit(2)

MIB = 1 << 20
CPU_TOKENS = 32  # of each stream there
MOST_TOKENS = measuring.WINDOW - 64  # the rest of a stream's window is for its prompt
FAILURES = (HerdError, RuntimeError, OSError, http.client.HTTPException, subprocess.CalledProcessError)


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that was found. `wrong`: in words, empty where all is right."""

    backend: str
    binary: str
    agreements: list[Agreement]
    cpu: dict[int, float]
    gpu: dict[int, float] | None
    on_gpu: OnGpu | None
    wrong: list[str]


def measure(options: argparse.Namespace, binary: Path, model: Path) -> Report:
    with_gpu = options.backend != "cpu"
    with measuring.service(binary, model, gpu=with_gpu) as there:
        reference = measuring.texts(there, measuring.CPU)
        cpu = measuring.speeds(there, measuring.CPU, min(CPU_TOKENS, options.tokens))
        there.ask("POST", "/unloadModel", {"model": measuring.CPU})
        watch = measuring.OnGpuWatch(there) if with_gpu else None
        tried = measuring.texts(there, measuring.GPU)
        fast = measuring.speeds(there, measuring.GPU, options.tokens) if with_gpu else None
        on_gpu = watch.look() if watch else None
    agreements = [agreement(*pair) for pair in zip(reference, tried, strict=True)]
    prompts = zip(measuring.PROMPTS, agreements, strict=True)
    wrong = [f"{prompt!r}: {found.wrong}" for prompt, found in prompts if found.wrong]
    wrong += [*wrong_speeds(cpu, fast), *(wrong_on_gpu(on_gpu) if on_gpu else ())]
    return Report(options.backend, str(binary), agreements, cpu, fast, on_gpu, wrong)


def table(report: Report) -> Table:
    gpu = report.gpu is not None
    title = "SmolLM2 on the GPU" if gpu else "NO GPU WAS TRIED: both sides are the CPU"
    made = Table("figure", "CPU", *(["GPU"] if gpu else []), title=title)
    same, of = (sum(getattr(one, name) for one in report.agreements) for name in ("same", "of"))
    apart = max(one.apart for one in report.agreements)
    rows = [("tokens that agree", f"of {of}", str(same)), ("first token's logprob, most off", "", f"{apart:.4f}")]
    for streams, speed in report.cpu.items():
        rows.append(
            (f"tokens/s, {streams} streams", f"{speed:.1f}", f"{report.gpu[streams]:.1f}" if report.gpu else "")
        )
    found = report.on_gpu
    if found is not None:
        taken = "not known" if found.taken is None else f"{found.taken / MIB:.0f} MiB (estimate {off(found):+.0%})"
        freed = "not in time" if found.freed_after is None else f"{found.freed_after:.2f} s"
        rows += [
            ("layers", "", "not told" if found.layers is None else f"{found.layers[0]} of {found.layers[1]}"),
            ("memory", "", taken),
            ("free again after", "", freed),
        ]
    for figure, cpu, other in rows:
        made.add_row(figure, cpu, other) if gpu else made.add_row(figure, f"{other} {cpu}".strip())
    return made


def built(options: argparse.Namespace) -> Path:
    """The binary of the command line, or one that is built now. Raises HerdError or CalledProcessError."""
    if options.binary is not None:
        return Path(options.binary).resolve()
    from manager.builds.kept import builds, builds_folder

    argv = [sys.executable, "-m", "manager.cli", "llama", "build", "--backend", options.backend]
    argv += [] if options.source is None else ["--source", str(options.source.resolve())]
    subprocess.run(argv, cwd=ROOT, check=True, stdout=sys.stderr)  # noqa: S603  our own program
    of_kind = [build for build in builds(builds_folder(load_settings())) if build.gpu == options.backend]
    if not of_kind:
        raise HerdError(f"there is no {options.backend} build after the build")
    return of_kind[0].binary


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/gpu_check.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--backend", choices=("cuda", "cpu"), default="cuda", help="what is built and tried [cuda]")
    parser.add_argument("--binary", type=Path, metavar="PATH", help="a llama-server that is there; nothing is built")
    parser.add_argument("--source", type=Path, metavar="PATH", help="folder or archive of llama.cpp to build")
    parser.add_argument("--model", type=Path, metavar="PATH", help="GGUF file; default: the starter model")
    parser.add_argument("--tokens", type=_tokens, default=128, metavar="N", help="of each stream on the GPU [128]")
    parser.add_argument("--json", action="store_true", help="print everything as JSON and no table")
    return parser.parse_args(argv)


def _tokens(text: str) -> int:
    number = int(text)
    if not 1 <= number <= MOST_TOKENS:
        raise argparse.ArgumentTypeError(f"it is {number}, and may be 1 to {MOST_TOKENS}")
    return number


def checked(options: argparse.Namespace) -> Report:
    model = options.model.resolve() if options.model else provide_starter(load_settings())
    for path in filter(None, (model, options.binary)):
        if not path.is_file():
            raise HerdError(f"{path} does not exist or is no file")
    with_gpu = options.backend != "cpu"
    if with_gpu:
        measuring.require_gpu()  # before minutes of building
    binary = built(options)
    if with_gpu:
        measuring.require_gpu(binary=binary)
    return measure(options, binary, model)


def main(argv: Sequence[str]) -> int:
    options = parse(argv)
    try:
        report = checked(options)
    except FAILURES as error:
        sys.stderr.write(f"NOTHING WAS MEASURED: {error}\n")
        return 2
    except (ValueError, LookupError, TypeError) as error:
        sys.stderr.write(f"NOTHING WAS MEASURED: an answer was not understood: {error!r}\n")
        return 2
    if options.json:
        sys.stdout.write(json.dumps(asdict(report), indent=1) + "\n")
    else:
        Console().print(table(report))
    sys.stderr.writelines(f"WRONG: {reason}\n" for reason in report.wrong)
    return 1 if report.wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
