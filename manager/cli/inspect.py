"""`llamaherd model inspect`: what a model's file says, and what it will take here with its entry's settings."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from manager.cli.options import ConfigOption, DataFolderOption, JsonOption, settings_from, size

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from manager.entry import ModelEntry
    from manager.memory import Estimate
    from manager.memory_free import Free
    from manager.memory_model import ModelFacts

# general.file_type by number (enum llama_ftype in llama.h).
# fmt: off
FILE_TYPES: Final = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M",
    13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS",
    21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S",
    29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4_MOE",
}
# fmt: on


def inspect_model(
    name: Annotated[str, typer.Argument(help="A model's name or alias.")],
    config: ConfigOption = None,
    data_folder: DataFolderOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a model is, what memory it will take, and whether that is free now."""
    from manager.catalog import load_catalog
    from manager.engines.llama.native import choose_launcher
    from manager.memory import estimate
    from manager.memory_free import gpus_free, host_free
    from manager.memory_model import read_model

    settings = settings_from(config, {"storage": {"data_folder": data_folder}})
    entry, _ = load_catalog(settings).find(name)
    _check(entry)
    launcher, _ = choose_launcher(settings)
    # The wheel that the embedded launcher runs is built for the CPU.
    gpus = gpus_free() if launcher == "native" else ()
    facts = read_model(entry.path)
    expected = estimate(entry, launcher, [gpu.free for gpu in gpus], facts=facts)
    free = (host_free(), *gpus)
    if as_json:
        typer.echo(json.dumps(_as_json(entry, facts, expected, free, launcher), indent=2, ensure_ascii=False))
        return
    for line in _lines(entry, facts, expected, free, launcher):
        typer.echo(line)


def _check(entry: ModelEntry) -> None:
    from pathlib import Path

    from manager.errors import LoadFailed
    from manager.gguf_file import check_gguf

    if entry.engine != "llama":
        raise LoadFailed(f"{entry.name} is no GGUF model, and only these can be inspected", should_retry=False)
    for path in (entry.path, entry.mmproj, *(Path(adapter.path) for adapter in entry.params.lora)):
        if path is not None:
            check_gguf(path)


def _as_json(
    entry: ModelEntry, facts: ModelFacts, expected: Estimate, free: Sequence[Free], launcher: str
) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "name": entry.name,
        "path": str(entry.path),
        "architecture": facts.architecture,
        "parameters": facts.parameters,
        "quantisation": _quantisation(facts),
        "trained_window": facts.trained_window,
        "layers": len(facts.layers),
        "heads": facts.heads,
        "kv_heads": facts.kv_heads,
        "chat_template": facts.chat_template,
        "launcher": launcher,
        "memory": {
            "total": expected.total,
            "reclaimable": expected.reclaimable,
            "devices": expected.devices,
            "parts": [asdict(part) for part in expected.parts],
            "later": [asdict(part) for part in expected.later],
        },
        "free": [asdict(device) for device in free],
        "fits": not list(_lacking(expected, free)),
    }


def _lines(
    entry: ModelEntry, facts: ModelFacts, expected: Estimate, free: Sequence[Free], launcher: str
) -> Iterator[str]:
    params = entry.params
    slots = "a shared cache" if params.kv_unified else "a cache each"
    yield _row("Model", f"{entry.name} ({facts.name or facts.architecture})")
    yield _row("File", str(entry.path))
    yield _row("Architecture", f"{facts.architecture}, {_count(facts.parameters)} parameters, {_quantisation(facts)}")
    yield _row("Layers", f"{len(facts.layers)}, heads {facts.heads}, of keys and values {facts.kv_heads}")
    yield _row("Trained window", f"{facts.trained_window:,} tokens")
    yield _row("Chat template", "in the file" if facts.chat_template else "none in the file")
    yield _row("Runs with", f"the {launcher} launcher, slots: {params.parallel}, with {slots}")
    yield ""
    yield "Memory when fully used:"
    for part in expected.parts:
        yield f"  {part.name:<16}{part.device:<8}{size(part.size):>10}"
    yield f"  {'total':<24}{size(expected.total):>10}"
    if expected.reclaimable:
        yield f"  of it {size(expected.reclaimable)} that the system takes back when memory is short"
    for part in expected.later:
        yield f"  later, with use: {part.name}, {'without limit' if part.size < 0 else 'up to ' + size(part.size)}"
    yield ""
    for device in free:
        yield _row(f"Free on {device.device}", f"{size(device.free)} of {size(device.total)} ({device.limit})")
    lacking = list(_lacking(expected, free))
    yield _row("Fits now", "no: " + ", ".join(lacking) if lacking else "yes")


def _lacking(expected: Estimate, free: Sequence[Free]) -> Iterator[str]:
    there = {device.device: device.free for device in free}
    for device in expected.devices:
        needed, has = expected.needed(device), there.get(device, 0)
        if needed > has:
            yield f"{device} needs {size(needed)} and has {size(has)}"


def _quantisation(facts: ModelFacts) -> str:
    bits = 8 * facts.weights / facts.parameters if facts.parameters else 0.0
    name = "unknown" if facts.file_type is None else FILE_TYPES.get(facts.file_type, f"type {facts.file_type}")
    return f"{name} ({bits:.1f} bits per weight)"


def _count(number: int) -> str:
    return f"{number / 1e9:.1f} billion" if number >= 1e9 else f"{number / 1e6:.1f} million"


def _row(label: str, text: str) -> str:
    return f"{label + ':':<18}{text}"
