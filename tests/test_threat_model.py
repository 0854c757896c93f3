"""The threat model names tests that are there: one that was renamed or removed would leave a threat uncovered."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "threat-model.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py(?:::\w+)?)`", PAGE)) - {"tests/test_threat_model.py"})


def names_in(file: Path) -> set[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    functions = ast.FunctionDef | ast.AsyncFunctionDef
    return {node.name for node in tree.body if isinstance(node, functions) and node.name.startswith("test_")}


@pytest.mark.parametrize("named", NAMED)
def test_every_test_that_is_named_is_there(named: str) -> None:
    path, _, test = named.partition("::")
    found = names_in(ROOT / path)
    assert test in found if test else found


def test_every_threat_has_an_answer_and_a_test() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and line.count(" | ") == 2]
    threats = [row for row in rows if not row.startswith(("| threat |", "| ---"))]
    assert len(threats) > 40
    assert [row for row in threats if "`tests/" not in row.rsplit(" | ", 1)[1]] == []
