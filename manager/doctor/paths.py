"""Folders as this user may see them."""

from __future__ import annotations

import os
from pathlib import Path

from manager.doctor.finding import Finding, error


class Barred(Exception):
    """A folder above a path may not be entered: what is there can't be told."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"This user may not enter {folder}.")
        self.folder = folder

    def told(self, setting: str) -> Finding:
        """`setting`: that of the path."""
        how = f"sudo chown -R USER: {self.folder}, or sudo chmod o+x {self.folder}, or set {setting} to another place"
        return error(setting, str(self), how)


def nearest(path: Path) -> Path:
    """The path, or the nearest folder above it that is there. Raises Barred."""
    for folder in reversed(Path(os.path.realpath(path)).parents):
        if os.access(folder, os.F_OK) and folder.is_dir() and not os.access(folder, os.X_OK):
            raise Barred(folder)
    return next(one for one in (path, *path.parents) if one.exists())


def is_there(path: Path) -> bool:
    """Whether it exists. Raises Barred."""
    return nearest(path) == path
