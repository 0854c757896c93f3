from __future__ import annotations

from pathlib import Path

import pytest

from tests.manager.tls.pki import Folder, Issued, authority


@pytest.fixture(scope="session")
def root() -> Issued:
    return authority("Root")


@pytest.fixture(scope="session")
def intermediate(root: Issued) -> Issued:
    return authority("Intermediate", root)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Nothing is in it yet."""
    return Folder(tmp_path / "ssl")
