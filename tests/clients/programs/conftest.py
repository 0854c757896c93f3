"""What test_programs.py tells the clients. A service's address goes with its key."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Herd:
    """A running service: `url` is without a path, `v1` the base of OpenAI's API."""

    url: str
    key: str

    @property
    def v1(self) -> str:
        return f"{self.url}/v1"


@pytest.fixture(scope="session")
def herd() -> Herd:
    """Models: smol (also gpt-4o-mini), smol:exact, endless, vectors."""
    return Herd(os.environ["HERD_URL"], os.environ["HERD_KEY"])


@pytest.fixture(scope="session")
def faulty_herd() -> Herd:
    """Models: flaky-… can't answer the first time, broken can't be loaded."""
    return Herd(os.environ["HERD_FAULTY_URL"], os.environ["HERD_FAULTY_KEY"])


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


def run_example(herd: Herd, heading: str) -> None:
    """Run the examples in Python under this heading of docs/clients.md, with the names that there are here."""
    text = (Path(__file__).parents[3] / "docs" / "clients.md").read_text(encoding="utf-8")
    (section,) = re.findall(rf"^## {re.escape(heading)}$(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    code = "".join(re.findall(r"```python\n(.*?)```", section, re.DOTALL))
    here = {"https://llm.example.org": herd.url, "sk-lh-…": herd.key, "qwen3-4b": "smol", "nomic-embed": "vectors"}
    for name, real in here.items():
        code = code.replace(name, real)
    assert code
    exec(compile(code, f"docs/clients.md, {heading}", "exec"), {})  # noqa: S102
