"""Watcher: hears that models.json, a template or a model folder changed, and says so once it is quiet again."""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from watchfiles import Change, watch
from watchfiles.main import FileChange

from manager.settings_sections import StorageSettings

logger = logging.getLogger(__name__)
# It counts what it hears at INFO, and lists it at DEBUG: of copying a model that is a line every tenth of a second.
logging.getLogger("watchfiles").setLevel(logging.WARNING)

# How long a file is left alone before it counts as written, and one in a model folder, which may still be copied: where
# watchfiles has to poll, it sees such a file change once a second, for it compares times in whole seconds.
SETTLE: Final = 0.3
SETTLE_MODELS: Final = 2.0
# After a call, this many times what it took passes before the next, at least SETTLE and at most REST_MOST: a large
# folder in which something changes all the time must not keep the service busy with reading it.
REST: Final = 3.0
REST_MOST: Final = 10.0
# The file's version and the folders' identities are looked at this often: no event tells of a mount, of a folder that
# comes back, or of a change on a network drive.
LOOK_EVERY: Final = 0.25
# Folders that can't be watched are read this often in place of that.
READ_EVERY: Final = 60.0
# Events of one file are heard at least this often, in milliseconds: well within SETTLE.
GROUPED_MS: Final = 150
STEP_MS: Final = 50
END_WITHIN: Final = 1.0

# Names of what is not whole yet, or never meant to be read.
PASSING: Final = (".part", ".partial", ".tmp", ".incomplete", ".download", ".crdownload", ".lock", "~")

Version = tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class _Sight:
    """What was there at a look: the version of models.json, and the folders by device and inode."""

    file: Version
    folders: dict[Path, Version]


class Watcher:
    """Calls `changed` after changes, one call at a time; what changes during a call leads to one more."""

    def __init__(
        self,
        storage: StorageSettings,
        changed: Callable[[], Awaitable[None]],
        *,
        settle: float = SETTLE,
        settle_models: float = SETTLE_MODELS,
    ) -> None:
        self._file = storage.models_file
        models = [storage.models_folder, storage.gguf_models_dir, storage.hf_models_dir]
        self._folders = list(dict.fromkeys(path for path in (storage.templates_folder, *models) if path is not None))
        self._roots = _beginnings(*self._folders)
        # Where one of those folders is also the data folder, what the service itself writes is no news.
        self._own = _beginnings(storage.run_folder, storage.slots_folder, storage.keys_file, storage.memory_file)
        self._quick = _beginnings(storage.models_file, storage.templates_folder)
        self._changed = changed
        self._settle = settle
        self._settle_models = settle_models
        self._due: dict[str, float] = {}  # when each path that changed will have been quiet for long enough
        self._wake = asyncio.Event()
        self._stop = threading.Event()
        self._warned = ""

    async def run(self) -> None:
        """Watch until cancelled, and end at once then. The first call comes when it listens, for what was before."""
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()

        def in_loop(call: Callable[..., object], *arguments: object) -> None:
            with suppress(RuntimeError):  # it is closed: a network drive held the thread for longer than END_WITHIN
                loop.call_soon_threadsafe(call, *arguments)

        def follow() -> None:
            try:
                self._follow(lambda settles: in_loop(self._hear, settles))
            except Exception:
                logger.exception("changes of models are not seen any more; SIGHUP reads them")
            finally:
                in_loop(ended.set)

        # A thread of its own: starting to listen walks through all folders, and a dead network drive holds it for ever.
        threading.Thread(target=follow, name="watch", daemon=True).start()
        try:
            await self._call_when_quiet()
        finally:
            self._stop.set()
            with suppress(TimeoutError):
                async with asyncio.timeout(END_WITHIN):
                    await ended.wait()

    async def _call_when_quiet(self) -> None:
        loop = asyncio.get_running_loop()
        not_before = 0.0
        while True:
            await self._wake.wait()
            now = loop.time()
            first = max(not_before, min(self._due.values()))
            if first > now:
                # No longer than that: what is heard meanwhile may be due earlier.
                await asyncio.sleep(min(first - now, self._settle))
                continue
            self._due = {path: due for path, due in self._due.items() if due > now}
            if not self._due:
                self._wake.clear()
            await self._changed()
            not_before = loop.time() + max(self._settle, min(REST * (loop.time() - now), REST_MOST))

    def _hear(self, settles: Mapping[str, float]) -> None:
        """Take in what changed: by path, how long it is left alone."""
        now = asyncio.get_running_loop().time()
        for path, settle in settles.items():
            self._due[path] = now + settle
        self._wake.set()

    # In the thread

    def _follow(self, tell: Callable[[Mapping[str, float]], object]) -> None:
        file = str(self._file)
        while not self._stop.is_set():
            sight = self._look()
            news = [file]  # what happened before it listens, which it does by the first of the signs
            for changes in self._signs(list(sight.folders)):
                news += [path for _, path in changes if self._counts(path)]
                now = self._look()
                if now.file != sight.file:
                    news.append(file)
                if news:
                    tell({path: self._settle_of(path) for path in news})
                if now.folders != sight.folders or any(self._moves(*change) for change in changes):
                    break
                sight, news = now, []

    def _signs(self, folders: list[Path]) -> Iterator[set[FileChange]]:
        """Changes as they come, and an empty set each LOOK_EVERY. It ends to be told afresh what to listen to."""
        if folders:
            try:
                yield from self._listen(folders)
                return
            except (OSError, RuntimeError) as error:
                self._warn(error)
        for _ in range(int(READ_EVERY / LOOK_EVERY)) if folders else itertools.count():
            if self._stop.wait(LOOK_EVERY):
                return
            yield set()

    def _listen(self, folders: list[Path]) -> Iterator[set[FileChange]]:
        return watch(
            *folders,
            watch_filter=None,
            debounce=GROUPED_MS,
            step=STEP_MS,
            stop_event=self._stop,
            rust_timeout=int(LOOK_EVERY * 1000),
            yield_on_timeout=True,
            ignore_permission_denied=True,
        )

    def _look(self) -> _Sight:
        folders = {folder: _identity(folder) for folder in self._folders}
        return _Sight(_version(self._file), {folder: seen for folder, seen in folders.items() if seen is not None})

    def _settle_of(self, path: str) -> float:
        return self._settle if f"{path}/".startswith(self._quick) else self._settle_models

    def _counts(self, path: str) -> bool:
        """Whether a change there can change a model: not of a file that is not whole yet, hidden, or our own."""
        if path.endswith(PASSING) or f"{path}/".startswith(self._own):
            return False
        return any(f"{path}/".startswith(root) and "/." not in path[len(root) - 1 :] for root in self._roots)

    def _moves(self, change: Change, path: str) -> bool:
        """Whether there is now something else to listen to: a folder came or went, or there is a link to a new one."""
        if f"{path}/" in self._roots:
            return change is not Change.modified
        return change is Change.added and Path(path).is_symlink() and Path(path).is_dir()

    def _warn(self, error: Exception) -> None:
        if str(error) != self._warned:
            self._warned = str(error)
            logger.warning("model folders can't be watched, they are read every %g s: %s", READ_EVERY, error)


def _beginnings(*paths: Path) -> tuple[str, ...]:
    """How the path of each, or of what is in it, begins, where every path ends with a slash."""
    return tuple(f"{path}/" for path in paths)


def _version(path: Path) -> Version:
    try:
        stat = path.stat()
    except (OSError, ValueError):
        return None
    return stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_size


def _identity(folder: Path) -> Version:
    try:
        stat = folder.stat()
    except (OSError, ValueError):
        return None
    return stat.st_dev, stat.st_ino
