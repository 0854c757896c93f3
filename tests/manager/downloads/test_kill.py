"""A download whose process is killed goes on in the next one."""

from __future__ import annotations

import asyncio
import hashlib
import signal
import sys
from pathlib import Path

from tests.fakes.hub import Fault
from tests.manager.downloads.conftest import Downloads

PROGRAM = """
import asyncio, sys
from pathlib import Path
from manager.downloads import fetch
from manager.settings_sections import HubSettings
asyncio.run(fetch(sys.argv[1], Path(sys.argv[2]), settings=HubSettings(), progress=lambda done, total: print(done)))
"""
ROOT = Path(__file__).parents[3]
DATA = bytes(range(256)) * 4096 * 4  # 4 MiB


async def test_a_killed_process_leaves_a_part_that_the_next_one_goes_on_from(downloads: Downloads) -> None:
    hub = downloads.hub
    hub.files["/big.gguf"] = DATA
    hub.fail("/big.gguf", Fault(stall_after=3 * 1024**2))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, hub.url("/big.gguf"), str(downloads.target), cwd=ROOT
    )
    async with asyncio.timeout(30):
        # Another process writes it; nobody tells when.
        while not downloads.part.exists() or downloads.part.stat().st_size < 1024**2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    await process.wait()
    there = downloads.part.stat().st_size
    assert not downloads.target.exists()
    fetched = await downloads.fetch(hub.url("/big.gguf"))
    assert fetched.sha256 == hashlib.sha256(DATA).hexdigest()
    assert hub.requests[-1].range == f"bytes={there}-"
