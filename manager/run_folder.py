"""The private folder of sockets and process records, and the sweep of children whose manager is gone."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import secrets
import signal
import stat
import tempfile
from pathlib import Path
from typing import Final

import orjson
import psutil

from manager.errors import ConfigError

logger = logging.getLogger(__name__)

# sun_path holds 108 bytes on Linux and 104 on macOS, the closing zero included (unix(7)).
SOCKET_PATH_MOST: Final = 100
SOCKET_NAME: Final = len("/0123456789abcdef.sock")
# What we put into the folder; whatever else is there is not ours to touch.
OURS: Final = re.compile(r"[0-9a-f]{16}\.(sock|json|part)")


class RunFolder:
    """A 0700 folder. Where `wanted` is too long for a socket's path, one under the system's temporary folder."""

    def __init__(self, wanted: Path) -> None:
        self.path = _private_folder(_short(wanted.absolute()))
        self._owner = _identity(os.getpid())

    def new_socket(self) -> Path:
        return self.path / f"{secrets.token_hex(8)}.sock"

    def record(self, socket: Path, pid: int) -> None:
        """Remember the child of this socket, for a sweep after we died."""
        with contextlib.suppress(psutil.NoSuchProcess):  # it may have ended already
            record = {"boot": _boot(), "manager": self._owner, "child": _identity(pid)}
            part = socket.with_suffix(".part")  # another manager's sweep must not read half a record
            part.write_bytes(orjson.dumps(record))
            part.replace(socket.with_suffix(".json"))

    def forget(self, socket: Path) -> None:
        """Remove what a reaped child left."""
        socket.unlink(missing_ok=True)
        socket.with_suffix(".json").unlink(missing_ok=True)

    def sweep(self) -> int:
        """Kill the children whose manager is gone and remove their files; returns how many were killed."""
        killed = 0
        for record_file in self.path.glob("*.json"):
            if not OURS.fullmatch(record_file.name):
                continue
            try:
                record = orjson.loads(record_file.read_bytes())
                manager, child = record["manager"], record["child"]
                if _alive(manager):
                    continue
                # After a new start of the machine the numbers are somebody else's.
                if record["boot"] == _boot() and (_alive(child) or _group_outlives(child)):
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(child["pid"], signal.SIGKILL)
                        killed += 1
            except (OSError, ValueError, KeyError, TypeError):
                logger.warning("run record %s can't be read and is removed", record_file.name)
            self.forget(record_file.with_suffix(".sock"))
        return killed


def _short(path: Path) -> Path:
    if len(os.fsencode(path)) + SOCKET_NAME <= SOCKET_PATH_MOST:
        return path
    # The same data folder always gets the same name, so that a later start finds what to sweep.
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"llamaherd-{os.getuid()}-{digest}"


def _private_folder(path: Path) -> Path:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        info = path.lstat()
    except OSError as error:
        raise ConfigError(f"the run folder {path} can't be made: {error.strerror}") from error
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.getuid():
        raise ConfigError(f"the run folder {path} is not a folder of ours")
    if stat.S_IMODE(info.st_mode) != 0o700:
        if any(not OURS.fullmatch(entry.name) for entry in path.iterdir()):
            raise ConfigError(f"the run folder {path} is open to others and holds other files: it needs its own folder")
        path.chmod(0o700)
    return path


def _boot() -> str:
    """Which run of the machine this is; empty where the system does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _identity(pid: int) -> dict[str, float]:
    """A process for certain: a number alone can come again."""
    return {"pid": pid, "started": psutil.Process(pid).create_time()}


def _alive(identity: dict[str, float]) -> bool:
    try:
        process = psutil.Process(int(identity["pid"]))
        return process.create_time() == identity["started"] and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:  # none has that number, or somebody else's has it now
        return False


def _group_outlives(leader: dict[str, float]) -> bool:
    """Whether others of its process group are left. As long as they are, nobody else gets the leader's number."""
    number = int(leader["pid"])
    with contextlib.suppress(psutil.NoSuchProcess):
        if psutil.Process(number).create_time() != leader["started"]:
            return False  # the number came again
    return any(_in_group(process, number) for process in psutil.process_iter())


def _in_group(process: psutil.Process, number: int) -> bool:
    try:
        return os.getpgid(process.pid) == number and process.status() != psutil.STATUS_ZOMBIE
    except (ProcessLookupError, PermissionError, psutil.Error):
        return False
