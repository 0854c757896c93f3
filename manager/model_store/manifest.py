"""What is known of a model's files: whence they came, their sizes and digests. A file of JSON for each model.

It lies in `.manifests` of the folder of models, under the model's own path there. All of it blocks.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, ValidationError

from manager.errors import HerdError
from manager.model_store.plan import Plan
from manager.model_store.targets import relative

logger = logging.getLogger(__name__)

FOLDER: Final = ".manifests"


@dataclass(frozen=True, slots=True)
class ManifestFile:
    """`path` is absolute, `size` in bytes, `sha256` in hex; `etag` as the server gave it, for a file at an address."""

    path: Path
    size: int
    sha256: str
    etag: str | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """`file` is where it is written. `made_at` in seconds since the epoch."""

    file: Path
    source: str
    revision: str | None
    made_at: float
    files: tuple[ManifestFile, ...]


class _WrittenFile(BaseModel):
    """As it stands on the disk: `path` is relative to the folder of models, which may move."""

    model_config = ConfigDict(strict=True)
    path: str
    size: int
    sha256: str
    etag: str | None = None


class _Written(BaseModel):
    model_config = ConfigDict(strict=True)
    source: str
    revision: str | None = None
    made_at: float
    files: list[_WrittenFile]


def manifests(models_folder: Path) -> list[Manifest]:
    """All that can be read."""
    found = (read_manifest(file, models_folder) for file in sorted((models_folder / FOLDER).rglob("*.json")))
    return [manifest for manifest in found if manifest is not None]


def manifest_file(models_folder: Path, model: Path) -> Path | None:
    """Where the manifest of a model (its first file, or its folder) lies; None for one outside of the folder."""
    inside = relative(model, models_folder)
    return None if inside is None else models_folder / FOLDER / f"{inside}.json"


def read_manifest(file: Path, models_folder: Path) -> Manifest | None:
    """None where there is none, or none that can be read. Of its files those in the folder of models count."""
    try:
        written = _Written.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        logger.warning("manifest=%s skipped=%s", file, type(error).__name__)
        return None
    files = (
        ManifestFile(models_folder / one.path, one.size, one.sha256, one.etag)
        for one in written.files
        if relative(models_folder / one.path, models_folder) is not None
    )
    return Manifest(file, written.source, written.revision, written.made_at, tuple(files))


def known_files(models_folder: Path) -> dict[Path, ManifestFile]:
    """What any manifest says of a file, by its path; the newest counts."""
    ordered = sorted(manifests(models_folder), key=lambda manifest: manifest.made_at)
    return {file.path: file for manifest in ordered for file in manifest.files}


def write_manifest(plan: Plan, files: Iterable[ManifestFile]) -> Path:
    """Write what is known of a plan's files; of those that did not come yet, what was known stays."""
    place = manifest_file(plan.models_folder, plan.model)
    if place is None:
        raise HerdError(f"{plan.model} is not in the folder of models {plan.models_folder}")
    before = read_manifest(place, plan.models_folder)
    targets = {file.target for file in plan.files}
    known = {file.path: file for file in (before.files if before else ()) if file.path in targets}
    known |= {file.path: file for file in files}
    written: dict[str, Any] = {
        "source": plan.source,
        "revision": plan.revision,
        "made_at": round(time.time(), 3),
        "files": [_as_written(file, plan.models_folder) for file in known.values()],
    }
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        new = place.with_name(place.name + ".new")
        with new.open("w", encoding="utf-8") as file:
            file.write(json.dumps(written, indent=2, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        new.replace(place)
    except OSError as error:
        raise HerdError(f"{place}: can't be written: {error.strerror}") from error
    return place


def _as_written(file: ManifestFile, models_folder: Path) -> dict[str, Any]:
    etag = {} if file.etag is None else {"etag": file.etag}
    return {"path": relative(file.path, models_folder), "size": file.size, "sha256": file.sha256, **etag}
