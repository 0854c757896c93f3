"""Imports go one way. The sources are parsed, so an import inside a function counts as one at the top."""

from __future__ import annotations

import ast
import graphlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# A part of `manager` may import what stands in its own line or above, never below. A new module needs a place here.
LEVELS = tuple(
    line.split()
    for line in """
        daemon_thread errors event_id json_text logbuf mistakes state strict_json
        addresses api_key audit auth capture key_file key_record key_rules events exposure feed gauges groups guesses \
        history inflight log log_file log_lines log_models log_queue log_recent media_kinds metrics notify \
        package_index places policy redaction \
        private_file public_hosts quota quota_windows remote_images rotated_file settings settings_layers \
        settings_sections settings_server settings_shown settings_types settings_yaml tls usage usage_report \
        usage_store discovery downloads entry extras gguf_file gguf_header gguf_types params plan refusal summary \
        templates variants variants_file watch
        builds catalog catalog_builder confinement description engines engine_metrics memory memory_cgroup \
        memory_folder memory_free memory_hf memory_devices memory_figures memory_layers memory_learnt memory_ledger \
        memory_measured memory_model memory_sizes memory_smi models_file models_forms models_powers models_schema \
        placement process model_listing \
        model_store models_check models_edit models_text pins run_folder watchdog
        pull_state pulls starter_model
        backoff life lease waiting instance reload
        scheduler
        pool
        device_memory home samples service
        activation app connection connections doctor listener redirect short_answers stall
        server
        cli
    """.strip().splitlines()
)

# What `routes` may not see: how models run, and what is made of the routes.
CLOSED_TO_ROUTES = {"process", "instance", "app", "server", "cli"}

# Packages that take seconds to import, and the only place that may do so.
HEAVY = {
    **dict.fromkeys(("torch", "transformers", "accelerate", "llguidance", "PIL", "numpy"), "manager.engines.hf"),
    "xllamacpp": "manager.engines.llama",
}

# Names under which anything could be put.
SHAPELESS = {"utils", "util", "helpers", "helper", "common", "base", "misc"}


@dataclass(frozen=True)
class Import:
    """One import of one of our modules, or of a package, as `what`; `where` is file:line."""

    importer: str
    what: str
    where: str


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {
    module_name(file): file for folder in ("manager", "routes") for file in sorted((ROOT / folder).rglob("*.py"))
}


def imports_of(module: str) -> Iterator[Import]:
    file = SOURCES[module]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"), file)):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            source = absolute(module, node)
            # `from manager import app` names a module, `from manager.errors import HerdError` a thing inside one.
            targets = [name if (name := f"{source}.{alias.name}") in SOURCES else source for alias in node.names]
        else:
            continue
        for target in dict.fromkeys(targets):
            yield Import(module, target, f"{file.relative_to(ROOT)}:{node.lineno}")


def absolute(module: str, node: ast.ImportFrom) -> str:
    if node.level == 0:
        return node.module or ""
    package = module.split(".")
    if SOURCES[module].name != "__init__.py":
        package = package[:-1]
    kept = package[: len(package) - node.level + 1]
    return ".".join([*kept, *([node.module] if node.module else [])])


def part_of(module: str) -> str | None:
    """The piece of `manager` that a module belongs to, by which LEVELS names it; None for other modules."""
    pieces = module.split(".")
    return pieces[1] if pieces[0] == "manager" and len(pieces) > 1 else None


LEVEL_OF = {part: number for number, parts in enumerate(LEVELS) for part in parts}
IMPORTS = [one for module in SOURCES for one in imports_of(module)]


def fail_with(mistakes: list[str]) -> None:
    if mistakes:
        pytest.fail("\n".join(mistakes), pytrace=False)


def test_every_module_has_a_level() -> None:
    unknown = {part for module in SOURCES if (part := part_of(module)) and part not in LEVEL_OF}
    fail_with([f"manager/{part}: give it a place in LEVELS of tests/test_layers.py" for part in sorted(unknown)])


def test_every_level_names_modules_that_exist() -> None:
    gone = LEVEL_OF.keys() - {part_of(module) for module in SOURCES}
    fail_with([f"LEVELS of tests/test_layers.py: there is no manager/{part}" for part in sorted(gone)])


def test_manager_imports_from_its_own_level_or_lower_ones() -> None:
    mistakes = []
    for one in IMPORTS:
        importer, imported = part_of(one.importer), part_of(one.what)
        if importer in LEVEL_OF and imported in LEVEL_OF and LEVEL_OF[imported] > LEVEL_OF[importer]:
            mistakes.append(f"{one.where}: manager.{importer} may not import {one.what}, which is above it")
    fail_with(mistakes)


def test_modules_do_not_import_each_other_in_a_circle() -> None:
    graph = {module: {one.what for one in imports_of(module) if one.what in SOURCES} - {module} for module in SOURCES}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        circle = error.args[1][::-1]
        edges = itertools.pairwise(circle)
        fail_with([one.where + f": {a} imports {b}" for a, b in edges for one in imports_of(a) if one.what == b])


def test_only_app_imports_routes() -> None:
    fail_with(
        [
            f"{one.where}: only manager.app may import routes"
            for one in IMPORTS
            if one.what.split(".")[0] == "routes" and one.importer.split(".")[0] == "manager"
            if one.importer != "manager.app"
        ]
    )


def test_routes_do_not_import_what_is_closed_to_them() -> None:
    fail_with(
        [
            f"{one.where}: routes may not import {one.what}"
            for one in IMPORTS
            if one.importer.split(".")[0] == "routes" and part_of(one.what) in CLOSED_TO_ROUTES
        ]
    )


def test_heavy_packages_are_imported_by_their_engine_only() -> None:
    fail_with(
        [
            f"{one.where}: {package} may be imported in {engine} only"
            for one in IMPORTS
            for package, engine in HEAVY.items()
            if one.what.split(".")[0] == package and not one.importer.startswith(engine)
        ]
    )


def test_no_module_has_a_shapeless_name() -> None:
    fail_with(
        [
            f"{file.relative_to(ROOT)}: say in the name what the module is about"
            for module, file in SOURCES.items()
            if SHAPELESS & set(module.split("."))
        ]
    )
