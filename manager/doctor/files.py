"""Folders that the service writes to, the file of keys, and whose rights it would have."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from manager.doctor.case import OTHERS, Case
from manager.doctor.finding import Finding, error, note, ok, warning
from manager.doctor.paths import Barred, is_there, nearest

WRITE: Final = os.W_OK | os.X_OK


def user(_: Case) -> Iterator[Finding]:
    if os.geteuid() == 0:
        yield note(
            "user",
            "This is root: what is told of rights is root's.",
            "ask as the service's user: sudo -u llamaherd llamaherd doctor",
        )


def folders(case: Case) -> Iterator[Finding]:
    storage, log = case.settings.storage, case.settings.log.folder
    wanted = {"storage.data_folder": storage.data_folder, "storage.cache_folder": storage.cache_folder}
    if log is not None:
        wanted["log.folder"] = log
    for setting, folder in wanted.items():
        yield _writable(setting, folder)


def _writable(setting: str, folder: Path) -> Finding:
    try:
        there = nearest(folder)
    except Barred as barred:
        return barred.told(setting)
    if not there.is_dir():
        # A device, say, is better left where it is.
        how = f"move it away, or set {setting} to another one" if there.is_file() else f"set {setting} to a folder"
        return error(setting, f"{there} is no folder.", how)
    if not os.access(there, WRITE):
        why = f"{there} can't be written" if there == folder else f"{folder} can't be made in {there}"
        how = f"sudo install -d -o $USER {folder}, or set {setting} to another folder"
        return error(setting, f"{why} by this user.", how)
    return ok(setting, f"{folder}{'' if there == folder else ' (will be made)'}")


def run_folder(case: Case) -> Iterator[Finding]:
    folder = case.settings.storage.run_folder
    try:
        if not is_there(folder):
            return
    except Barred as barred:
        yield barred.told("storage.run_folder")
        return
    seen = folder.stat()
    if seen.st_uid != os.geteuid() and os.geteuid() != 0:
        how = f"remove it, or set storage.run_folder to another one: {folder}"
        yield error("storage.run_folder", f"{folder} belongs to another user.", how)
    elif stat.S_IMODE(seen.st_mode) & OTHERS:
        yield warning("storage.run_folder", f"Others may look into {folder}.", f"chmod 700 {folder}")
    else:
        yield ok("storage.run_folder", str(folder))


def keys(case: Case) -> Iterator[Finding]:
    path = case.settings.storage.keys_file
    try:
        found = is_there(path)
    except Barred as barred:
        yield barred.told("storage.keys_file")
        return
    if not found:
        yield note(
            "keys",
            f"There is no {path}: the service asks for no key.",
            "make a key: llamaherd key create NAME",
        )
        return
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & OTHERS:
        yield warning("keys", f"Others can read {path} (mode {mode:o}).", f"chmod 600 {path}")
        return
    now = time.time()
    stored = case.keys.list()
    expired = [key.name for key in stored if key.expired(now)]
    yield ok("keys", f"{len(stored)} in {path}, mode {mode:o}")
    if expired:
        yield note(
            "expired keys", ", ".join(expired), "'llamaherd key list' shows their ids for 'llamaherd key revoke'"
        )
    if stored and len(expired) == len(stored):
        yield warning("keys", "Every key has expired: nobody can use the service.", "llamaherd key create NAME")


CHECKS: Final = (user, folders, run_folder, keys)
