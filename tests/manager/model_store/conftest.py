"""A hub, and settings whose models go to the test's own folder."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from manager.downloads import Client, Patience
from manager.entry import HfParams, LlamaParams, ModelEntry
from manager.model_store import Plan, Pulled, pull, resolve
from manager.settings import Settings
from tests.conftest import MakeSettings
from tests.fakes.hub import Hub, running_hub
from tests.gguf_files import write_tiny_gguf


def names(folder: Path) -> list[str]:
    """The files in a folder of models, manifests aside."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir())
    return sorted(path.as_posix() for path in found if path.parts[0] != ".manifests")


@dataclass
class Store:
    """`resolve` and `pull` as in the service, without a pause that takes time."""

    hub: Hub
    settings: Settings
    tiny: bytes  # a GGUF file that is whole
    pauses: list[float] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        return self.settings.storage.models_folder

    def client(self) -> Client:
        async def pause(seconds: float) -> None:
            self.pauses.append(seconds)
            await asyncio.sleep(0)

        return Client(self.settings.hub, patience=Patience(sleep=pause))

    async def resolve(self, source: str, **wishes: Any) -> Plan:
        async with self.client() as client:
            return await resolve(source, self.settings, client=client, **wishes)

    async def pull(self, source: str, **wishes: Any) -> Pulled:
        async with self.client() as client:
            plan = await resolve(source, self.settings, client=client, **wishes)
            return await pull(plan, self.settings, client=client)

    def with_hub(self, **hub: Any) -> Store:
        changed = self.settings.model_copy(update={"hub": self.settings.hub.model_copy(update=hub)})
        return Store(self.hub, changed, self.tiny, self.pauses)

    @property
    def there(self) -> list[str]:
        return names(self.folder)


def gguf_entry(path: Path, name: str = "model", mmproj: Path | None = None) -> ModelEntry:
    return ModelEntry(name=name, path=path, params=LlamaParams(model=str(path)), mmproj=mmproj)


def hf_entry(path: Path, name: str = "model") -> ModelEntry:
    return ModelEntry(name=name, path=path, params=HfParams(model=str(path)), engine="hf")


def write_all(folder: Path, files: Mapping[str, bytes]) -> Path:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


@pytest.fixture
def settings(make_settings: MakeSettings) -> Settings:
    return make_settings()


@pytest.fixture
def models(settings: Settings) -> Path:
    settings.storage.models_folder.mkdir(parents=True)
    return settings.storage.models_folder


@pytest.fixture(scope="session")
def tiny_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("tiny")
    data = write_tiny_gguf(folder / "tiny.gguf").read_bytes()
    shutil.rmtree(folder)
    return data


@pytest.fixture
async def store(
    make_settings: MakeSettings, tiny_bytes: bytes, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Store]:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    async with running_hub() as hub:
        yield Store(hub, make_settings(hub={"endpoint": hub.address, "timeout": 5.0}), tiny_bytes)
