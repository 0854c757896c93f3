"""The extra [hf]: what is missing of it, and the command that installs it."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from manager.extras import HF_MODULES, missing_hf

ROOT = Path(__file__).parents[2]


def without(*modules: str) -> str | None:
    return missing_hf(is_there=lambda module: module not in modules)


def test_nothing_is_said_where_all_packages_are_there() -> None:
    assert without() is None


def test_missing_packages_are_named_as_registries_know_them() -> None:
    assert str(without("PIL")).startswith("Hugging Face models need pillow, which is not installed; ")
    assert str(without("torch", "transformers", "PIL")).startswith(
        "Hugging Face models need torch, transformers and pillow, which are not installed; "
    )


def test_the_command_is_that_of_a_checkout_only_in_a_checkout(tmp_path: Path) -> None:
    (tmp_path / "sources").mkdir()
    (tmp_path / "sources" / "constraints.txt").touch()
    reasons = [
        str(missing_hf(is_there=lambda module: False, checkout=tmp_path / folder))
        for folder in ("sources", "site-packages")
    ]
    assert reasons[0].endswith('in the folder of llamaherd, run: .venv/bin/pip install -c constraints.txt -e ".[hf]"')
    assert reasons[1].endswith('; run: pip install "llamaherd[hf]"')


def test_a_package_that_goes_missing_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)  # by which Python says that it is not there
    assert "accelerate" in str(missing_hf())


def test_looking_imports_nothing() -> None:
    code = "import sys; from manager.extras import *; missing_hf(); print(*HF_MODULES.keys() & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_packages_are_those_of_the_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extra = {re.split(r"[^A-Za-z0-9._-]", line)[0] for line in project["optional-dependencies"]["hf"]}
    assert set(HF_MODULES.values()) == extra


def test_transformers_is_pinned_to_one_version() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line.startswith("transformers")] == ["transformers==5.23.0"]
