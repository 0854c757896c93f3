"""Entries of models.json whose engine another package brings: what may be in them, and what is known of them."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from manager.catalog import Catalog, load_catalog
from manager.cli import main
from manager.entry import ModelEntry
from manager.errors import ConfigError
from manager.memory import HOST
from manager.memory_free import Free
from manager.memory_ledger import Ledger
from tests.conftest import MakeSettings
from tests.manager.engines.conftest import Install

GIB = 1 << 30
PARAMS = """
class Params(ModelParams):
    deep_thought: int = Field(default=42, ge=1)
    ctx_size: int | None = Field(default=None, ge=8)
"""
NAMED = PARAMS + "KIND = EngineKind(params=Params, make=print)"
ON_DISK = PARAMS + "KIND = EngineKind(params=Params, make=print, files=lambda e: [e.path, e.path.with_suffix('.tok')])"


class House:
    """A data folder with a models.json of entries of the engine own."""

    def __init__(self, folder: Path, make_settings: MakeSettings) -> None:
        self.models = folder / "data" / "models"
        self.models.mkdir(parents=True)
        self._file = folder / "data" / "models.json"
        self._make = make_settings

    def load(self, **sections: Any) -> Catalog:
        return load_catalog(self._make(storage={"data_folder": self._file.parent}, **sections))

    def entry(self, params: dict[str, Any], sections: dict[str, Any] | None = None, **more: Any) -> ModelEntry:
        self._file.write_text(json.dumps({"m": {"engine": "own", "params": params, **more}}))
        (entry,) = self.load(**(sections or {}))
        return entry

    async def read(self, params: dict[str, Any]) -> ModelEntry:
        return await asyncio.to_thread(self.entry, params)

    def mistakes(self, params: dict[str, Any], **more: Any) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            self.entry(params, **more)
        return [line.removeprefix(f"{self._file}: ") for line in caught.value.message.splitlines()]

    def ledger(self) -> Ledger:
        return Ledger(self._make(), host=lambda: Free(HOST, 16 * GIB, 10 * GIB, "host"), torch_cuda=lambda: False)


@pytest.fixture
def house(tmp_path: Path, make_settings: MakeSettings) -> House:
    return House(tmp_path, make_settings)


# what may be in them


@pytest.mark.parametrize("key", ["deepThought", "deep_thought"])
def test_its_params_are_those_of_its_kind_in_both_spellings(key: str, house: House, install: Install) -> None:
    install("herd_keys", NAMED)
    found = house.entry({"model": "a name/of something", key: 7}, {"model": {"ctx_size": 512}}, aliases=["n"])
    assert found.params.model_dump(include={"deep_thought", "ctx_size"}) == {"deep_thought": 7, "ctx_size": 512}
    assert (found.engine, found.path, found.stamps) == ("own", Path("a name/of something"), ())
    assert (found.unavailable, found.aliases, found.source) == (None, ("n",), "models.json")
    assert found.created > 0
    for view in ("llama", "hf"):
        with pytest.raises(TypeError, match="its engine is own"):
            getattr(found, view)


@pytest.mark.parametrize(
    ("params", "mistake"),
    [
        ({"model": "a", "deepThougt": 7}, "m.params.deepThougt: unknown key; did you mean deepThought?"),
        ({"model": "a", "deepThought": 7, "deep_thought": 7}, "m.params.deep_thought: is there twice"),
        ({"model": "a", "deepThought": 0}, "m.params.deepThought: should be greater than or equal to 1 (got 0)"),
        ({"model": "a", "deepThought": "7"}, "m.params.deepThought: should be a valid integer (got '7')"),
        ({"model": "a", "ctxSize": 4}, "m.params.ctxSize: should be greater than or equal to 8 (got 4)"),
        ({}, "m.params.model: is missing"),
        ({"model": "a\n"}, r"m.params.model: 'a\n' has control characters"),
    ],
)
def test_values_that_make_no_sense_are_named(
    params: dict[str, Any], mistake: str, house: House, install: Install
) -> None:
    install("herd_wrong", NAMED)
    (line,) = house.mistakes(params)
    assert line.startswith(mistake)


def test_a_package_that_can_not_be_imported_is_a_mistake_of_the_entry(house: House, install: Install) -> None:
    install("herd_gone", "import nowhere_at_all")
    (line,) = house.mistakes({"model": "a"})
    assert line == (
        "m.engine: the engine 'own' of the package herd_gone 1.0 can't be used: "
        "ModuleNotFoundError: No module named 'nowhere_at_all'"
    )


def test_a_check_of_its_own_that_breaks_is_a_mistake_of_the_entry(house: House, install: Install) -> None:
    check = "    @field_validator('deep_thought')\n    def broken(cls, value): return value.nothing\n"
    install("herd_check", PARAMS + check + "KIND = EngineKind(params=Params, make=print)")
    (line,) = house.mistakes({"model": "a", "deepThought": 7})
    assert line.startswith("m.params: the engine own failed to check them (AttributeError: ")


def test_a_template_of_llama_cpp_is_refused(house: House, install: Install) -> None:
    install("herd_template", NAMED)
    (line,) = house.mistakes({"model": "a"}, template="zephyr")
    assert line.startswith("m.template: 'zephyr' is built into llama.cpp; a model of the engine own needs a file in")


def test_what_is_known_of_it_can_be_inspected(
    house: House, install: Install, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    install("herd_seen", NAMED)
    house.entry({"model": "a"})
    monkeypatch.chdir(house.models.parents[1])
    monkeypatch.setattr(sys, "argv", ["llamaherd", "model", "inspect", "m"])
    with pytest.raises(SystemExit) as ended:
        main()
    shown = capfd.readouterr().out
    assert not ended.value.code
    assert re.search(r"^Model: +m \(engine own\)$", shown, re.MULTILINE)
    assert re.search(r"^Runs with: +the engine own, which a package brings$", shown, re.MULTILINE)
    assert "Memory when fully used: its engine does not say" in shown
    assert re.search(r"^Fits now: +yes$", shown, re.MULTILINE)


# its files


def test_a_model_with_files_is_found_in_the_folder_of_models(house: House, install: Install) -> None:
    install("herd_files", ON_DISK)
    assert house.entry({"model": "org\\a.bin"}).unavailable == "org/a.bin does not exist"
    (house.models / "org").mkdir()
    for name in ("a.bin", "a.tok"):
        (house.models / "org" / name).write_bytes(b"1234")
    before = house.entry({"model": "org\\a.bin"})
    assert (before.path, before.unavailable) == (house.models / "org" / "a.bin", None)
    os.utime(house.models / "org" / "a.tok", (1, 1))
    assert house.entry({"model": "org\\a.bin"}) != before
    assert house.mistakes({"model": "../a.bin"})[0].startswith("m.params.model: '../a.bin' leads out of the models")


def test_what_its_package_has_against_a_model_is_said(house: House, install: Install) -> None:
    install("herd_judge", "KIND = EngineKind(params=ModelParams, make=print, problem=lambda e: f'no {e.params.model}')")
    assert house.entry({"model": "a"}).unavailable == "no a"


def test_a_package_that_breaks_while_it_judges_costs_its_own_model_only(house: House, install: Install) -> None:
    broken = "KIND = EngineKind(params=ModelParams, make=print, files=lambda e: 1 / 0, problem=lambda e: 1 / 0)"
    install("herd_breaks", broken)
    assert house.entry({"model": "a"}).unavailable == "a does not exist"
    (house.models / "a").touch()
    assert house.entry({"model": "a"}).unavailable == "its engine failed to judge it (ZeroDivisionError)"


@pytest.mark.parametrize(
    ("says", "unavailable"),
    [
        ("problem=lambda e: None", None),
        ("problem=lambda e: ''", None),
        ("problem=lambda e: 'no \\udce9'", "no ?"),
        ("problem=lambda e: True", "its engine failed to judge it (TypeError)"),
        ("problem=lambda e: Path('/a')", "its engine failed to judge it (TypeError)"),
        ("problem=lambda e: exit()", "its engine failed to judge it (SystemExit)"),
        ("files=lambda e: [str(e.path)]", None),
        ("files=lambda e: 7", None),
        ("files=lambda e: [e.path / 'tok']", "tok can't be read: Permission denied"),
        ("files=lambda e: [e.path.with_name('x' * 300)]", f"{'x' * 300} can't be read: File name too long"),
    ],
)
async def test_whatever_its_package_says_is_an_answer(
    says: str, unavailable: str | None, house: House, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exists(path: Path) -> bool:
        if path.name == "tok":  # as in a folder of somebody else; the tests may run as root
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(path)

    real = Path.exists
    monkeypatch.setattr(Path, "exists", exists)
    install("herd_says", f"KIND = EngineKind(params=ModelParams, make=print, {says})")
    (house.models / "a").touch()
    found = await house.read({"model": "a"})
    assert (found.unavailable or "").rpartition("/")[2] == (unavailable or "")
    assert await house.ledger().expected(found)


# its memory


async def test_without_a_word_of_memory_nothing_is_needed_until_it_is_learnt(house: House, install: Install) -> None:
    install("herd_memory", NAMED)
    found, ledger = await house.read({"model": "a"}), house.ledger()
    assert (await ledger.expected(found)).needed == {HOST: 0}
    ledger.learn(found, {HOST: 1000, "gpu7": 5}, served=True)
    expected = await ledger.expected(found)
    assert (expected.estimate, expected.learnt) == (None, {HOST: 1000, "gpu7": 5})
    assert expected.needed == {HOST: 1030}  # of a device that nobody knows nothing can be said
    assert (await ledger.expected(await house.read({"model": "a", "deepThought": 1}))).needed == {HOST: 0}
    assert (await ledger.expected(await house.read({"model": "b"}))).needed == {HOST: 0}
    assert (await ledger.expected(await house.read({"model": "a", "temperature": 1}))).needed == {HOST: 1030}


async def test_what_it_says_counts_and_is_raised_by_what_was_learnt(house: House, install: Install) -> None:
    install(
        "herd_says", "KIND = EngineKind(params=ModelParams, make=print, memory=lambda e: {'host': 5000, 'gpu0': 9})"
    )
    found, ledger = await house.read({"model": "a"}), house.ledger()
    for peak, needed in ((100, 5000), (6000, 6180)):
        assert (await ledger.expected(found)).needed == {HOST: 5000}
        ledger.learn(found, {HOST: peak}, served=True)
        assert (await ledger.expected(found)).needed == {HOST: needed}


async def test_a_model_with_files_needs_their_size(house: House, install: Install) -> None:
    install("herd_sizes", ON_DISK)
    for name in ("a.bin", "a.tok"):
        (house.models / name).write_bytes(b"1234")
    assert (await house.ledger().expected(await house.read({"model": "a.bin"}))).needed == {HOST: 8}


@pytest.mark.parametrize("said", ["{'host': 'much'}", "{'host': float('inf')}", "None", "{'host': -5}", "exit()"])
async def test_a_word_of_memory_that_makes_no_sense_is_none(said: str, house: House, install: Install) -> None:
    install("herd_odd", f"KIND = EngineKind(params=ModelParams, make=print, memory=lambda e: {said})")
    assert (await house.ledger().expected(await house.read({"model": "a"}))).needed == {HOST: 0}
