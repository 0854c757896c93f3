"""The clients that have libraries of their own: each is a program of `programs` or `node`, run in its own environment.

They are tests themselves, for the pytest of .venv-clients or for Node's test runner: one process for each client.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

from tests.e2e.service import Service

ROOT: Final = Path(__file__).parents[2]
PYTHON: Final = ROOT / ".venv-clients" / "bin" / "python"
PROGRAMS: Final = Path(__file__).parent / "programs"
NODE: Final = Path(__file__).parent / "node"
# Of the environment of whoever runs the tests.
KEPT: Final = ("PATH", "TMPDIR", "LANG")
PATIENCE: Final = 150.0


@pytest.fixture
def surroundings(service: Service, faulty_service: Service, authority: Path, tmp_path: Path) -> dict[str, str]:
    """The environment of a client: where the services are, whom to trust, a home of its own, and little else."""
    return {
        **{name: os.environ[name] for name in KEPT if name in os.environ},
        "HOME": str(tmp_path),
        "HERD_URL": service.url,
        "HERD_KEY": service.inference_key,
        "HERD_FAULTY_URL": faulty_service.url,
        "HERD_FAULTY_KEY": faulty_service.inference_key,
        "SSL_CERT_FILE": str(authority),
        "NODE_EXTRA_CA_CERTS": str(authority),
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else it asks the internet for prices
    }


@pytest.mark.timeout(180)
@pytest.mark.parametrize("client", sorted(path.stem.removeprefix("check_") for path in PROGRAMS.glob("check_*.py")))
def test_the_python_client_gets_what_it_asks_for(client: str, surroundings: dict[str, str]) -> None:
    if not PYTHON.exists():
        pytest.skip("there is no .venv-clients, which scripts/test makes")
    run([PYTHON, "-m", "pytest", f"check_{client}.py"], PROGRAMS, surroundings)


@pytest.mark.timeout(180)
def test_the_official_client_for_node_gets_what_it_asks_for(surroundings: dict[str, str]) -> None:
    node = shutil.which("node")
    if node is None or not (NODE / "node_modules").exists():
        pytest.skip("there is no Node, or its packages are not installed, which scripts/test does")
    run([node, "--test", "check_openai.mjs"], NODE, surroundings)


def run(command: Sequence[str | Path], folder: Path, environment: dict[str, str]) -> None:
    """The test fails where the program does, with all that it said."""
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}"
