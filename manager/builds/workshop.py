"""Where a build is made, beside the list of builds, and how it gets into the list: tried, and all at once."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout

from manager.builds.failure import BuildFailed, Tell
from manager.builds.kept import (
    ABOUT,
    AUTOMATIC,
    BINARY_NAME,
    CHOSEN,
    GONE,
    NAME,
    SHARED,
    Build,
    builds_folder,
    discard,
    find,
    write_whole,
)
from manager.builds.smoke import smoke_test
from manager.errors import ConfigError
from manager.settings import Settings

# Gives the model of the smoke test.
Model = Callable[[], Path]

_TEMPORARY: Final = ".build-"
_TAKEN: Final = frozenset({AUTOMATIC, CHOSEN, "logs", "tools"})


@contextmanager
def workshop(folder: Path) -> Iterator[Path]:
    """A new folder beside the builds, for one maker at a time, that is gone in the end. Blocks.

    Raises BuildFailed where another process makes a build, or nothing can be written.
    """
    with locked(folder, "A build can't be made"):
        # Of one that was killed: the lock says that none is at work.
        for left in [*folder.glob(f"{_TEMPORARY}*"), *folder.glob(f"{GONE}*")]:
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=_TEMPORARY) as temporary:
            yield Path(temporary)


@contextmanager
def locked(folder: Path, failure: str) -> Iterator[None]:
    """Whoever makes or removes a build is alone inside. Blocks.

    Raises BuildFailed where another process is, or, with `failure` and the reason, where nothing can be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout:
        raise BuildFailed(f"Another build is being made or removed in {folder}: wait until it is done.") from None
    except OSError as error:
        raise BuildFailed(f"{failure} in {folder}: {error.filename or ''} {error.strerror}") from error


def check_name(name: str) -> str:
    """Raise ConfigError where a build can't be called so."""
    if not NAME.fullmatch(name) or name.startswith(SHARED) or name in _TAKEN:
        raise ConfigError(f"--name: {name!r} can't name a build: letters, digits and . _ + - make a name.")
    return name


def check_room(folder: Path, needed: int) -> None:
    """Raise BuildFailed where so many bytes are not free. Blocks."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise BuildFailed(
            f"{needed // 10**6} MB are needed in {folder}, and {free // 10**6} MB are free. "
            "Set LLAMAHERD_STORAGE__CACHE_FOLDER to a folder with room."
        )


def admit(made: Path, name: str, about: Mapping[str, Any], settings: Settings, tell: Tell, model: Path | None) -> Build:
    """Try what lies in a folder of the workshop, and put it into the list, in place of one with the same name. Blocks.

    `about` goes to build.json. Without a model nothing is tried. Raises BuildFailed where the smoke test fails.
    """
    tried = None
    if model is not None:
        tell.say("Smoke test: loading a small model and generating ...")
        smoke = smoke_test(made / about.get("binary", BINARY_NAME), model, settings)
        tried = str(smoke)
        if about["backend"] != "cpu" and not smoke.devices:
            tried += ": this machine has no GPU for it"
        tell.say(f"It works, {tried}.")
    described = {**about, "made_at": time.time(), "smoke_test": tried}
    write_whole(made / ABOUT, json.dumps(described, indent=2, ensure_ascii=False) + "\n")
    folder = builds_folder(settings)
    if (folder / name).exists():
        discard(folder / name)
    made.rename(folder / name)
    return find(folder, name)
