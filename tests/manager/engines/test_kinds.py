"""The registry of engines, with real packages on the path."""

from __future__ import annotations

import asyncio
import re
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from manager.engines.kinds import (
    BUILT_IN,
    KINDS,
    EngineKind,
    EngineKinds,
    Surroundings,
    check_supported,
    kind_of,
    supports,
)
from manager.engines.unmade import made
from manager.entry import HfParams, LlamaParams, ModelEntry, ModelParams
from manager.errors import ConfigError, EndpointUnsupported, LoadFailed
from tests.conftest import MakeSettings
from tests.manager.engines.conftest import Install

GOOD = (
    "KIND = EngineKind(params=ModelParams, make=lambda entry, around: None, paths=frozenset({'/v1/chat/completions'}))"
)


def own(name: str = "m") -> ModelEntry:
    return ModelEntry(name, Path("a"), ModelParams(model="a"), engine="own")


def test_the_built_in_ones_need_no_package() -> None:
    def find() -> list[object]:
        raise AssertionError("packages are looked up only where an entry names another engine")

    kinds = EngineKinds(find)  # type: ignore[arg-type]
    assert {name: kinds.get(name).params for name in BUILT_IN} == {"llama": LlamaParams, "hf": HfParams}


def test_a_package_is_imported_only_where_its_engine_is_named(install: Install) -> None:
    install("herd_named", GOOD)
    install("herd_unnamed", "raise RuntimeError('nobody asked for it')", ("other",))
    kinds = EngineKinds()
    assert kinds.names == ("llama", "hf", "own", "other")
    assert "herd_named" not in sys.modules
    kind = kinds.get("own")
    assert kind.params is ModelParams
    assert kinds.get("own") is kind
    assert "herd_unnamed" not in sys.modules


async def test_the_kind_of_an_entry_is_told_without_a_look_at_packages(install: Install) -> None:
    install("herd_known", GOOD)
    with pytest.raises(ConfigError, match="'own' is of no entry that was read"):
        kind_of(own())
    assert "herd_known" not in sys.modules
    kind = await asyncio.to_thread(KINDS.get, "own")
    assert kind_of(own()) is kind


def test_a_package_can_not_take_the_name_of_a_built_in_one(install: Install) -> None:
    install("herd_thief", GOOD, ("llama",))
    assert EngineKinds().get("llama") is BUILT_IN["llama"]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import not_installed_anywhere", "ModuleNotFoundError: No module named 'not_installed_anywhere'"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("import asyncio; raise asyncio.CancelledError", "CancelledError: "),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("KIMD = 1", "AttributeError: module 'herd_bad' has no attribute 'KIND'"),
        ("KIND = ModelParams", "its entry point is no EngineKind but <class 'manager.params.ModelParams'>"),
        ("KIND = EngineKind(params=dict, make=print)", "its params is no subclass of ModelParams"),
        ("KIND = EngineKind(params=ModelParams(model='m'), make=print)", "its params is no subclass of ModelParams"),
        ("KIND = EngineKind(params=ModelParams, make=None)", "its make can't be called"),
        ("KIND = EngineKind(params=ModelParams, make=print, files=['a'])", "its files can't be called"),
        ("KIND = EngineKind(params=ModelParams, make=print, paths='/props')", "its paths is no frozenset of strings"),
        ("KIND = EngineKind(params=ModelParams, make=print, paths=frozenset({1}))", "its paths is no frozenset"),
    ],
)
def test_a_package_that_is_good_for_nothing_is_named_with_the_reason(code: str, reason: str, install: Install) -> None:
    install("herd_bad", code)
    with pytest.raises(ConfigError) as caught:
        EngineKinds().get("own")
    assert caught.value.message.startswith(f"the engine 'own' of the package herd_bad 1.0 can't be used: {reason}")


def test_a_package_that_was_mended_can_be_used(install: Install, tmp_path: Path) -> None:
    install("herd_mended", "raise ImportError('not yet')")
    kinds = EngineKinds()
    with pytest.raises(ConfigError, match="not yet"):
        kinds.get("own")
    module = tmp_path / "site-packages" / "herd_mended.py"
    module.write_text(module.read_text().replace("raise ImportError('not yet')", GOOD))
    assert kinds.get("own").params is ModelParams


def test_two_packages_with_one_engine_are_both_named(install: Install) -> None:
    install("herd_one", GOOD)
    install("herd_two", GOOD)
    with pytest.raises(ConfigError, match=r"'own' is in several packages: herd_one 1\.0, herd_two 1\.0"):
        EngineKinds().get("own")


def test_an_engine_that_nobody_has_is_answered_with_the_nearest_name(install: Install) -> None:
    install("herd_near", GOOD, ("parrot",))
    with pytest.raises(ConfigError, match=r"there is no engine 'parot'; did you mean parrot\?"):
        EngineKinds().get("parot")
    with pytest.raises(ConfigError, match=r"there is no engine 'lama'; did you mean llama\?"):
        EngineKinds().get("lama")


def test_what_an_engine_never_answers_is_known_before_it_is_loaded(install: Install) -> None:
    install("herd_paths", GOOD)
    KINDS.get("own")
    assert supports(own(), "/v1/chat/completions")
    assert not supports(own(), "/v1/embeddings")
    with pytest.raises(EndpointUnsupported, match=r"The model 'm' can't do this: its engine \(own\) has no /infill"):
        check_supported(own(), "/infill")
    hf = ModelEntry("f", Path("a"), HfParams(model="a"), engine="hf")
    llama = ModelEntry("g", Path("a"), LlamaParams(model="a"))
    audio = "/v1/audio/transcriptions"
    assert (supports(hf, audio), supports(llama, audio)) == (False, True)


def test_an_engine_that_names_no_paths_is_asked(install: Install) -> None:
    install("herd_any", "KIND = EngineKind(params=ModelParams, make=print)")
    KINDS.get("own")
    assert supports(own(), "/anything")


def test_the_page_tells_of_every_field() -> None:
    page = (Path(__file__).parents[3] / "docs" / "engines-of-your-own.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE) == [field.name for field in fields(EngineKind)]


NO_ENGINE = """
async def later(entry, around): ...
class Half:
    pid = progress = None
    log = open = stop = measure = metrics = wait_exit = print
class Leaving:
    def __init__(self, entry, around): raise SystemExit(3)
KIND = EngineKind(params=ModelParams, make=%s)
"""


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        ("lambda entry, around: 1 / 0", "ZeroDivisionError"),
        ("Leaving", "SystemExit"),
        ("lambda entry, around: None", "NoneType has no log, pid, progress, start, wait_exit, stop, answers, activity"),
        ("later", "coroutine has no log, pid, progress, start"),
        ("lambda entry, around: Half()", "Half has no log, start, answers, activity"),
    ],
)
async def test_an_engine_that_can_not_be_made_is_a_load_that_fails(
    make: str, reason: str, install: Install, make_settings: MakeSettings, caplog: pytest.LogCaptureFixture
) -> None:
    install("herd_unmade", NO_ENGINE % make)
    await asyncio.to_thread(KINDS.get, "own")
    engine = made(own(), Surroundings(make_settings(), None))  # type: ignore[arg-type]
    with pytest.raises(LoadFailed) as caught:
        await engine.start()
    told = f"The model 'm' could not be loaded: its engine (own) could not be made ({reason}"
    assert caught.value.message.startswith(told)
    await engine.stop()
    assert "model=m its engine can't be made" in caplog.text
