"""`llamaherd model inspect`: what a model's file says, and what it will take here with its entry's settings."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from manager.cli.options import ConfigOption, DataFolderOption, JsonOption, settings_from, size
from manager.gguf_types import FILE_TYPES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from manager.entry import ModelEntry
    from manager.memory import Estimate
    from manager.memory_free import Free
    from manager.memory_ledger import Expected
    from manager.memory_model import ModelFacts
    from manager.placement import Placement
    from manager.settings import Settings


def inspect_model(
    name: Annotated[str, typer.Argument(help="A model's name or alias.")],
    config: ConfigOption = None,
    data_folder: DataFolderOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a model is, what memory it will take, and whether that is free now."""
    from manager.catalog import load_catalog

    settings = settings_from(config, {"storage": {"data_folder": data_folder}})
    entry = load_catalog(settings).find(name).entry
    _check(entry)
    report = _looked_up(entry, settings)
    if as_json:
        typer.echo(json.dumps(_as_json(report), indent=2, ensure_ascii=False))
        return
    for line in _lines(report, settings):
        typer.echo(line)


@dataclass(frozen=True, slots=True)
class _Report:
    """What is shown. `about` is what the files say, by the name in JSON; `room` is bytes by device for all models."""

    entry: ModelEntry
    launcher: str | None  # None: it runs in the service itself
    about: Mapping[str, Any]
    estimate: Estimate
    way: Placement
    free: Sequence[Free]
    room: Mapping[str, int]

    @property
    def expected(self) -> Expected:
        return self.way.expected

    @property
    def lacking(self) -> list[str]:
        """What is missing on each device for it to be loaded now, without anything else going."""
        there = {device.device: min(device.free, self.room.get(device.device, 0)) for device in self.free}
        return [
            f"{device} needs {size(needed)} and has {size(there.get(device, 0))}"
            for device, needed in self.way.needs.items()
            if needed > there.get(device, 0)
        ]


def _looked_up(entry: ModelEntry, settings: Settings) -> _Report:
    from manager.engines.kinds import BUILT_IN
    from manager.engines.llama.native import choose_launcher
    from manager.errors import LoadFailed
    from manager.memory import Estimate
    from manager.memory_free import gpus_free, host_free
    from manager.memory_ledger import Ledger
    from manager.placement import best_alone

    async def of_ledger() -> tuple[Placement, Mapping[str, int]]:
        ledger = Ledger(settings)
        ways, room = await ledger.placements(entry), await ledger.room({})
        return best_alone(ways, room), room.there

    launcher = choose_launcher(settings)[0] if entry.engine == "llama" else None
    about = _about(entry)
    way, room = asyncio.run(of_ledger())
    estimate = way.expected.estimate
    if estimate is None and entry.engine in BUILT_IN:
        raise LoadFailed(f"what {entry.name} will take can't be told from its files", should_retry=False)
    gpus = [gpu for gpu in gpus_free(settings.llama.cuda_visible_devices) if gpu.device in room]
    return _Report(entry, launcher, about, estimate or Estimate((), 0, ()), way, (host_free(), *gpus), room)


def _about(entry: ModelEntry) -> dict[str, Any]:
    match entry.engine:
        case "llama":
            return _file(entry)
        case "hf":
            return _folder(entry)
        case own:  # only its package knows
            return {"title": f"engine {own}"}


def _check(entry: ModelEntry) -> None:
    """Raise LoadFailed where a file of a GGUF model is missing or broken."""
    from manager.gguf_file import check_gguf

    if entry.engine != "llama":
        return
    draft = entry.llama.draft_model
    others = [*([] if draft is None else [draft]), *(adapter.path for adapter in entry.llama.lora)]
    for path in (entry.path, entry.mmproj, *map(Path, others)):
        if path is not None:
            check_gguf(path)


def _file(entry: ModelEntry) -> dict[str, Any]:
    from manager.memory_model import read_model

    facts = read_model(entry.path)
    return {
        "title": facts.name or facts.architecture,
        "architecture": facts.architecture,
        "parameters": facts.parameters,
        "quantisation": _quantisation(facts),
        "trained_window": facts.trained_window,
        "layers": len(facts.layers),
        "heads": facts.heads,
        "kv_heads": facts.kv_heads,
        "chat_template": facts.chat_template,
    }


def _folder(entry: ModelEntry) -> dict[str, Any]:
    from manager.memory_folder import read_folder

    facts = read_folder(entry.path, pickle=entry.hf.allow_pickle)
    return {
        "title": facts.architecture,
        "architecture": facts.architecture,
        "parameters": facts.parameters,
        "quantisation": ", ".join(sorted(facts.dtypes, key=lambda dtype: -facts.dtypes[dtype])),
        "trained_window": facts.trained_window,
        "layers": facts.layers,
        "heads": facts.heads,
        "kv_heads": facts.kv_heads,
        "chat_template": facts.chat_template,
    }


def _as_json(report: _Report) -> dict[str, Any]:
    estimate = report.estimate
    return {
        "name": report.entry.name,
        "path": str(report.entry.path),
        **{key: value for key, value in report.about.items() if key != "title"},
        "launcher": report.launcher,
        "unavailable": report.entry.unavailable,
        "memory": {
            "total": estimate.total,
            "reclaimable": estimate.reclaimable,
            "devices": estimate.devices,
            "parts": [asdict(part) for part in estimate.parts],
            "later": [asdict(part) for part in estimate.later],
        },
        "learnt": dict(report.expected.learnt),
        "needed": dict(report.expected.needed),
        "placement": report.way.device,
        "free": [asdict(device) for device in report.free],
        "room": dict(report.room),
        "fits": not report.lacking,
    }


def _lines(report: _Report, settings: Settings) -> Iterator[str]:
    about = report.about
    yield _row("Model", f"{report.entry.name} ({about['title']})")
    where = {"llama": "File", "hf": "Folder"}.get(report.entry.engine, "Model")
    yield _row(where, str(report.entry.path))
    if "architecture" in about:
        parameters = f"{_count(about['parameters'])} parameters, {about['quantisation']}"
        yield _row("Architecture", f"{about['architecture']}, {parameters}")
        yield _row("Layers", f"{about['layers']}, heads {about['heads']}, of keys and values {about['kv_heads']}")
        yield _row("Trained window", f"{about['trained_window']:,} tokens")
        yield _row("Chat template", f"{'' if about['chat_template'] else 'none '}in the {where.lower()}")
    yield _row("Runs with", _runs_with(report))
    yield ""
    yield from _memory_lines(report)
    yield ""
    for device in report.free:
        yield _row(f"Free on {device.device}", f"{size(device.free)} of {size(device.total)} ({device.limit})")
    for name, room in report.room.items():
        yield _row(f"Room on {name}", f"{size(room)} for all models ({_source(name, settings)})")
    yield _row("Fits now", "no: " + ", ".join(report.lacking) if report.lacking else "yes")


def _runs_with(report: _Report) -> str:
    entry = report.entry
    if report.launcher is not None:
        slots = "a shared cache" if entry.llama.kv_unified else "a cache each"
        return f"the {report.launcher} launcher, slots: {entry.llama.parallel}, with {slots}"
    if entry.unavailable:
        return f"nothing: {entry.unavailable}"
    if entry.engine == "hf":
        return f"transformers in the service, sequences at once: {entry.hf.parallel}"
    return f"the engine {entry.engine}, which a package brings"


def _memory_lines(report: _Report) -> Iterator[str]:
    estimate, expected = report.estimate, report.expected
    yield "Memory when fully used:" if estimate.parts else "Memory when fully used: its engine does not say"
    for part in estimate.parts:
        yield f"  {part.name:<16}{part.device:<8}{size(part.size):>10}"
    if estimate.parts:
        yield f"  {'total':<24}{size(estimate.total):>10}"
    if estimate.reclaimable:
        yield f"  of it {size(estimate.reclaimable)} that the system takes back when memory is short"
    for part in estimate.later:
        yield f"  later, with use: {part.name}, {'without limit' if part.size < 0 else 'up to ' + size(part.size)}"
    if report.way.device is not None:
        yield f"GPU chosen:       {report.way.device} (llama.placement; nothing else running)"
    for device, seen in expected.learnt.items():
        reclaimable = estimate.devices.get(device, 0) - estimate.needed(device)
        needed = expected.needed.get(device, 0) + reclaimable
        yield f"Measured before:  {size(seen)} on {device}; expected: {size(needed)}"


def _source(device: str, settings: Settings) -> str:
    kind = "host" if device == "host" else "gpu"
    budget = getattr(settings.memory, f"{kind}_budget")
    return f"memory.{kind}_budget" if budget is not None else f"what is free less memory.{kind}_reserve"


def _quantisation(facts: ModelFacts) -> str:
    bits = 8 * facts.weights / facts.parameters if facts.parameters else 0.0
    name = "unknown" if facts.file_type is None else FILE_TYPES.get(facts.file_type, f"type {facts.file_type}")
    return f"{name} ({bits:.1f} bits per weight)"


def _count(number: int) -> str:
    return f"{number / 1e9:.1f} billion" if number >= 1e9 else f"{number / 1e6:.1f} million"


def _row(label: str, text: str) -> str:
    return f"{label + ':':<18}{text}"
