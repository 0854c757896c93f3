from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from manager.engines.kinds import BUILT_IN, KINDS
from tests.manager.engines.packages import write_package

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Have a package with engines importable, as `write_package` describes it, until the test ends."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(KINDS, "_installed", None)
    monkeypatch.setattr(KINDS, "_known", dict(BUILT_IN))
    before = set(sys.modules)

    def add(name: str, code: str, engines: tuple[str, ...] = ("own",)) -> None:
        write_package(folder, name, code, engines)

    yield add
    for name in set(sys.modules) - before:
        if str(folder) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
