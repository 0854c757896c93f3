"""What is to be fetched or imported, and where it goes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from manager.model_store.choices import Choice


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """One file. `target` is absolute; `size` in bytes and `sha256` in hex where the hub tells them.

    `blob`: git's name of the content, where no sha256 is told; `etag` what the server told beforehand.
    `urls`: where it is, to be tried in turn; empty for a file of this machine, which is `local` then.
    """

    target: Path
    size: int | None = None
    sha256: str | None = None
    blob: str | None = None
    etag: str | None = None
    urls: tuple[str, ...] = ()
    local: Path | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """One model. `model` is the GGUF file (of a split one the first part) or the folder; paths are absolute.

    `name`: for the entry in models.json. `source`: where it comes from, in one line, `revision` the hub's commit.
    `named`: whether somebody chose that name. `choices`: the quantisations among which `quant` was chosen.
    `allow_pickle`, `trust_remote_code`: the files need it.
    """

    name: str
    source: str
    engine: Literal["llama", "hf"]
    models_folder: Path
    model: Path
    files: tuple[PlannedFile, ...]
    mmproj: Path | None = None
    revision: str | None = None
    quant: str | None = None
    choices: tuple[Choice, ...] = ()
    allow_pickle: bool = False
    trust_remote_code: bool = False
    named: bool = False

    @property
    def size(self) -> int | None:
        """Bytes of all files; None where that of one is not known before it is fetched."""
        sizes = [file.size for file in self.files]
        return None if None in sizes else sum(size or 0 for size in sizes)

    @property
    def is_local(self) -> bool:
        return any(file.local is not None for file in self.files)


def entry_name(stem: str) -> str:
    """The name of a model's entry, made of that of its file or folder: a comma would end it (models_file)."""
    return stem.replace(",", "_")
