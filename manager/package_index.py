"""Fetches pinned files from the package index with pip, which knows the user's index, proxy and certificates."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from manager.errors import HerdError


class FetchFailed(HerdError):
    """It could not be had; the message says why and nothing half-written is left."""


@dataclass(frozen=True, slots=True)
class Pinned:
    """One version of a package, and its file by the hex SHA-256. `options` go to pip, as `--no-binary` does."""

    requirement: str
    sha256: str
    options: tuple[str, ...] = ("--only-binary=:all:",)


def download(pinned: Pinned, folder: Path, *, quiet: bool) -> Path:
    """The file, which is put into a folder that holds no other of its kind. Blocks; raises FetchFailed.

    pip checks the digest before anything else; of a source distribution it then asks the build system for its name and
    version. pip's progress goes to standard error.
    """
    listed = folder / "requirements.txt"
    listed.write_text(f"{pinned.requirement} --hash=sha256:{pinned.sha256}\n", encoding="utf-8")
    command = ["download", "--no-cache-dir", "--no-deps", "--require-hashes", "--requirement", str(listed)]
    # TMPDIR: on the same disk, and removed with the folder.
    said = pip([*command, "--dest", str(folder), *pinned.options], {"TMPDIR": str(folder)}, quiet=quiet)
    files = [path for path in folder.iterdir() if path.name.endswith((".whl", ".tar.gz", ".zip"))]
    if said is not None or len(files) != 1:
        raise FetchFailed(_reason(pinned.requirement, said or ""))
    return files[0]


def install(requirements: Sequence[str], folder: Path, *, quiet: bool) -> None:
    """Put packages, with no dependencies of theirs, into a folder. Blocks; raises FetchFailed."""
    command = ["install", "--no-deps", "--only-binary=:all:", "--target", str(folder)]
    said = pip([*command, *requirements], {}, quiet=quiet)
    if said is not None:
        raise FetchFailed(_reason(" ".join(requirements), said))


def pip(arguments: Sequence[str], environment: Mapping[str, str], *, quiet: bool) -> str | None:
    """Run it; None where it did well, else what it said on standard error."""
    command = [sys.executable, "-m", "pip", arguments[0], "--disable-pip-version-check", "--no-input", *arguments[1:]]
    # The arguments are constants and paths of our own; no shell is involved.
    done = subprocess.run(  # noqa: S603
        [*command, *(["--quiet"] if quiet else [])],
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    return None if done.returncode == 0 else done.stderr or f"exit status {done.returncode}"


def _reason(requirement: str, said: str) -> str:
    if "DO NOT MATCH THE HASHES" in said:
        return f"What the package index sent for {requirement} is not the expected file (SHA-256 differs)."
    if "No module named pip" in said:
        return f"pip is missing in {sys.prefix}, and {requirement} is fetched with it: run scripts/start."
    errors = [line for line in said.splitlines() if line.startswith("ERROR:")] or said.splitlines()[-1:]
    return "\n".join([f"pip could not download {requirement}; is the package index reachable?", *errors])
