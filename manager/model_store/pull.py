"""Carries out a plan."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

from manager.downloads import Client, DownloadFailed, Meter, NoRoom, Note, Progress, check_room, fetch
from manager.model_store.checking import is_listed, wrong
from manager.model_store.choices import BadSource
from manager.model_store.hub import authorization, together
from manager.model_store.manifest import Manifest, ManifestFile, manifest_file, manifests, write_manifest
from manager.model_store.owners import other_owner
from manager.model_store.placing import Pulled, place
from manager.model_store.plan import Plan, PlannedFile
from manager.model_store.reading import digest, in_thread
from manager.model_store.resolve import client_for
from manager.settings import Settings

# Seconds by which the times of files and ours may differ, as both are rounded.
_ROUNDED: Final = 0.001


async def pull(
    plan: Plan,
    settings: Settings,
    progress: Progress | None = None,
    *,
    public_only: bool = False,
    client: Client | None = None,
    note: Note | None = None,
) -> Pulled:
    """Fetch what is missing of a plan's files, or copy it where it is local, then write the manifest.

    `progress` gets the bytes of all files together, in the event loop, at most ten times a second;
    `note` is told what holds it up. Raises
    DownloadFailed (NoRoom where the disk is too full); what has come stays, and the next call goes on from it, as it
    does after a cancellation. Models.json is not touched: see suggested_entry.
    """
    if plan.is_local:
        return await place(plan, "copy", progress)
    async with client_for(settings, public_only, client) as opened:
        return await _Pull(plan, opened, settings.storage.models_file, progress, note).run()


class _Pull:
    def __init__(
        self, plan: Plan, client: Client, models_file: Path, progress: Progress | None, note: Note | None
    ) -> None:
        self._plan = plan
        self._client = client
        self._models_file = models_file
        self._meter = Meter(progress)
        self._note = note
        self._done = 0
        self._came = 0
        self._manifests: Sequence[Manifest] = ()
        self._known: dict[Path, tuple[ManifestFile, float]] = {}  # and when that was written down
        self._same_source = False
        self._changed: set[Path] = set()  # since they came, and not fetched again yet

    async def run(self) -> Pulled:
        plan = self._plan
        await asyncio.to_thread(self._look)
        manifest = None
        present = [await self._already(file) for file in plan.files]
        missing = [file for file, there in zip(plan.files, present, strict=True) if there is None]
        await asyncio.to_thread(_check_room, plan, missing)
        for file, there in zip(plan.files, present, strict=True):
            if there is None:
                there = await self._fetched(file)
                self._came += there.size
            self._done += there.size
            manifest = await asyncio.to_thread(self._write_down, there)
        if manifest is None:
            raise BadSource(f"{plan.source}: nothing is to be fetched", param="source")
        self._meter.end(self._done)
        return Pulled(plan, manifest, self._came)

    def _look(self) -> None:
        """What is known of the files that are there: of what several manifests name the newest counts."""
        plan = self._plan
        self._manifests = sorted(manifests(plan.models_folder), key=lambda manifest: manifest.made_at)
        for manifest in self._manifests:
            self._known |= {file.path: (file, manifest.made_at) for file in manifest.files}
        place = manifest_file(plan.models_folder, plan.model)
        self._same_source = any(
            (one.file, one.source, one.revision) == (place, plan.source, plan.revision) for one in self._manifests
        )

    async def _already(self, file: PlannedFile) -> ManifestFile | None:
        """The file, where it is there and the same. Raises BadSource where it is one that we know nothing of."""
        try:
            return await self._same(file, (await asyncio.to_thread(file.target.stat)).st_size)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise BadSource(f"{file.target} can't be read: {error.strerror}", param="source") from None

    async def _same(self, file: PlannedFile, size: int) -> ManifestFile | None:
        if file.target in self._known:
            known, written = self._known[file.target]
            same = known.size == size and await asyncio.to_thread(self._is_same, file, known)
            if same and await self._is_unchanged(known, written):
                return known
            await asyncio.to_thread(self._refuse_others, file)
            return None
        if not await asyncio.to_thread(is_listed, file, size):
            raise BadSource(
                f"{file.target} is there already and is another file; move it away, or take it as it is with "
                "llamaherd model import",
                param="source",
            )
        found = await in_thread(partial(digest, file.target))
        if file.sha256 not in (None, found):
            raise BadSource(
                f"{file.target} is there already and has another SHA-256 than the hub lists; move it away",
                param="source",
            )
        return ManifestFile(file.target, size, found)

    def _is_same(self, file: PlannedFile, known: ManifestFile) -> bool:
        """Whether what came is what is to come now. Blocks."""
        if file.sha256 is not None:
            return file.sha256 == known.sha256
        if file.blob is not None:
            return is_listed(file, known.size)
        if self._plan.revision is not None:
            return self._same_source
        return self._same_source and file.etag is not None and (file.etag, file.size) == (known.etag, known.size)

    async def _is_unchanged(self, known: ManifestFile, written: float) -> bool:
        """Whether it is what came. It is read again where anything was done to it since that was written down."""
        status = await asyncio.to_thread(known.path.stat)
        if max(status.st_mtime, status.st_ctime) <= written + _ROUNDED:
            return True
        if self._note is not None:
            self._note(f"reading {known.path.name} again: it was changed or touched since it came")
        if await in_thread(partial(digest, known.path)) == known.sha256:
            return True
        self._changed.add(known.path)
        return False

    def _refuse_others(self, file: PlannedFile) -> None:
        """Raise BadSource where another model would lose the file to ours. Blocks."""
        owner = other_owner(file.target, self._plan, self._manifests, self._models_file)
        if owner is not None:
            raise BadSource(
                f"{file.target} is there already, as a file of {owner}; remove that model, or move the file and change "
                "its path in models.json",
                param="source",
            )

    def _write_down(self, file: ManifestFile) -> Path:
        """Blocks."""
        manifest = write_manifest(self._plan, [file])
        self._changed.discard(file.path)
        later = time.time() + 1
        for path in self._changed:
            # Should we not come to it: it has to be newer than what was written, for the next pull to look at it.
            with contextlib.suppress(OSError):
                os.utime(path, (later, later))
        return manifest

    async def _fetched(self, file: PlannedFile) -> ManifestFile:
        """From the first server that has it. Raises DownloadFailed."""
        failures: list[DownloadFailed] = []
        for url in file.urls:
            try:
                return await self._fetched_from(url, file)
            except NoRoom:
                raise
            except DownloadFailed as error:
                failures.append(error)
                if not error.elsewhere:
                    break
        raise together(failures)

    async def _fetched_from(self, url: str, file: PlannedFile) -> ManifestFile:
        settings = self._client.settings
        fetched = await fetch(
            url,
            file.target,
            settings=settings,
            sha256=file.sha256,
            # What a server said beforehand of a file at an address is no promise; what a hub lists is.
            size=file.size if self._plan.revision is not None else None,
            headers=authorization(settings, url),
            check=partial(wrong, file),
            progress=self._told,
            note=self._note,
            client=self._client,
        )
        return ManifestFile(file.target, fetched.size, fetched.sha256, fetched.etag)

    def _told(self, done: int, total: int | None) -> None:
        whole = self._plan.size
        if whole is None and len(self._plan.files) == 1:
            whole = total
        self._meter.tell(self._done + done, whole)


def _check_room(plan: Plan, missing: Sequence[PlannedFile]) -> None:
    """For all files together, less what has come of them."""
    parts = [file.target.with_name(file.target.name + ".part") for file in missing]
    have = sum(part.stat().st_size for part in parts if part.is_file())
    check_room(plan.model, sum(file.size or 0 for file in missing) - have)
