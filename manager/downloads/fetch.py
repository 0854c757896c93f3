"""Fetches one file and checks it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from manager.downloads.client import Client
from manager.downloads.part import Part
from manager.downloads.progress import Meter, Note, Progress
from manager.downloads.transfer import Transfer, Wanted
from manager.settings_sections import HubSettings


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file that is there, whole. `size` is in bytes, `sha256` in hex; `etag` as the server gave it."""

    path: Path
    size: int
    sha256: str
    etag: str | None = None


async def fetch(
    url: str,
    target: Path,
    *,
    settings: HubSettings,
    sha256: str | None = None,
    size: int | None = None,
    headers: Mapping[str, str] | None = None,
    check: Callable[[Path], str | None] | None = None,
    progress: Progress | None = None,
    note: Note | None = None,
    public_only: bool = False,
    client: Client | None = None,
) -> Fetched:
    """The file at `url` as `target`, in place of what was there. Raises DownloadFailed.

    `sha256` (hex) and `size` (bytes) are what it must have. `check` looks at all that came, in a thread, before that
    takes its place, and tells what is wrong: then it is deleted, and what was there stays. `headers` go to the host of
    `url` alone, not where that redirects. What has come lies in `target` + ".part" until all is there, and a next call
    goes on from it, be it after a failure, a cancellation or a crash. `progress` is called in the event loop, at most
    ten times a second; `note` is told there what it waits for before it tries again. `public_only`: see Client; with a
    `client` it is the client that says so.
    """
    wanted = Wanted(url, None if sha256 is None else sha256.lower(), size, dict(headers or {}))
    meter = Meter(progress)
    async with _opened(client, settings, public_only) as opened, _taken(Part(target)) as part:
        etag = await Transfer(opened, part, wanted, meter, note).run()
        digest = await asyncio.to_thread(part.finish, wanted.sha256, check)
        meter.end(part.done)
        return Fetched(target, part.done, digest, etag)


@asynccontextmanager
async def _opened(client: Client | None, settings: HubSettings, public_only: bool) -> AsyncIterator[Client]:
    if client is not None:
        yield client
        return
    async with Client(settings, public_only=public_only) as own:
        yield own


@asynccontextmanager
async def _taken(part: Part) -> AsyncIterator[Part]:
    try:
        yield part
    finally:
        # Also where opening it was cancelled, and goes on in its thread.
        await asyncio.to_thread(part.close)
