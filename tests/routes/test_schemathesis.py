"""schemathesis over /openapi.json against the running service: what comes back is what is described, and no 5xx.

The requests are the same every time (schemathesis.toml). They are made by a process of their own, so that the service
runs here, under the watch for what blocks.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from tests.routes.conftest import StartHerd
from tests.routes.herd import Herd
from tests.routes.stage import Stage

NOWHERE: Final = {"endpoint": "http://127.0.0.1:9"}  # a hub for pulls: nothing leaves this machine
CONFIG: Final = Path(__file__).with_name("schemathesis.toml")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.fixture
def able(stage: Stage) -> Stage:
    """Its one model chats and makes vectors."""
    stage.model("alpha", params={"embedding": True}, personalities={"pirate": "Talk like a pirate."})
    return stage


async def run_over(herd: Herd, folder: Path, *options: str) -> None:
    """Fails with what schemathesis says where it finds anything."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG)),
        *("run", str(herd.server.make_url("/openapi.json")), "--no-color", *options),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=folder,  # it leaves files
    )
    try:
        said = (await process.communicate())[0].decode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        pytest.fail(said, pytrace=False)


async def test_every_answer_to_the_holder_of_a_key_is_as_described(
    able: Stage, start_herd: StartHerd, make_key: Callable[..., str], tmp_path: Path
) -> None:
    key = make_key("admin")
    await run_over(await start_herd(hub=NOWHERE), tmp_path, "-H", f"Authorization: Bearer {key}")


async def test_every_answer_of_a_service_without_keys_is_as_described(
    able: Stage, start_herd: StartHerd, tmp_path: Path
) -> None:
    options = ("--phases", "examples,fuzzing", "--max-examples", "2")
    # A key that is made would be asked for from then on.
    await run_over(await start_herd(hub=NOWHERE), tmp_path, *options, "--exclude-operation-id", "post_admin_keys")
