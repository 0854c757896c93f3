"""A hub with faults, and downloads from it that never sleep."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from manager.downloads import Client, Fetched, Patience, fetch
from manager.settings_sections import HubSettings
from tests.fakes.hub import Hub, running_hub

PATH: Final = "/models/a.gguf"
DATA: Final = random.Random(7).randbytes(300_000)


@dataclass
class Downloads:
    """`pauses`: what was waited between tries, in seconds."""

    hub: Hub
    folder: Path
    settings: HubSettings
    pauses: list[float] = field(default_factory=list)

    @property
    def target(self) -> Path:
        return self.folder / "a.gguf"

    @property
    def part(self) -> Path:
        return self.folder / "a.gguf.part"

    def client(self, **options: Any) -> Client:
        async def pause(seconds: float) -> None:
            self.pauses.append(seconds)
            await asyncio.sleep(0)

        return Client(self.settings, patience=Patience(sleep=pause), **options)

    async def fetch(self, url: str | None = None, **options: Any) -> Fetched:
        async with self.client() as client:
            return await fetch(url or self.hub.url(PATH), self.target, settings=self.settings, client=client, **options)

    @property
    def left(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())


@pytest.fixture
async def downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Downloads]:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    async with running_hub() as hub:
        hub.files[PATH] = DATA
        yield Downloads(hub, tmp_path, HubSettings(endpoint=hub.address, timeout=5.0))


@pytest.fixture
def hub(downloads: Downloads) -> Hub:
    return downloads.hub
