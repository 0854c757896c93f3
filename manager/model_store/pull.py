"""Carries out a plan."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from manager.downloads import Client, DownloadFailed, Meter, NoRoom, Progress, check_room, fetch
from manager.errors import LoadFailed
from manager.gguf_header import read_header
from manager.model_store.choices import BadSource
from manager.model_store.hub import authorization, together
from manager.model_store.manifest import ManifestFile, known_files, manifest_file, read_manifest, write_manifest
from manager.model_store.placing import Pulled, place
from manager.model_store.plan import Plan, PlannedFile
from manager.model_store.reading import digest, git_blob, in_thread
from manager.model_store.resolve import client_for
from manager.settings import Settings


async def pull(
    plan: Plan,
    settings: Settings,
    progress: Progress | None = None,
    *,
    public_only: bool = False,
    client: Client | None = None,
) -> Pulled:
    """Fetch what is missing of a plan's files, or copy it where it is local, then write the manifest.

    `progress` gets the bytes of all files together, in the event loop, at most ten times a second. Raises
    DownloadFailed (NoRoom where the disk is too full); what has come stays, and the next call goes on from it, as it
    does after a cancellation. Models.json is not touched: see suggested_entry.
    """
    if plan.is_local:
        return await place(plan, "copy", progress)
    async with client_for(settings, public_only, client) as opened:
        return await _Pull(plan, opened, progress).run()


class _Pull:
    def __init__(self, plan: Plan, client: Client, progress: Progress | None) -> None:
        self._plan = plan
        self._client = client
        self._meter = Meter(progress)
        self._done = 0
        self._came = 0
        self._known: dict[Path, ManifestFile] = {}
        self._same_source = False

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
            manifest = await asyncio.to_thread(write_manifest, plan, [there])
        if manifest is None:
            raise BadSource(f"{plan.source}: nothing is to be fetched", param="source")
        self._meter.end(self._done)
        return Pulled(plan, manifest, self._came)

    def _look(self) -> None:
        """What is known of the files that are there."""
        plan = self._plan
        self._known = known_files(plan.models_folder)
        place = manifest_file(plan.models_folder, plan.model)
        before = None if place is None else read_manifest(place, plan.models_folder)
        self._same_source = before is not None and (before.source, before.revision) == (plan.source, plan.revision)

    async def _already(self, file: PlannedFile) -> ManifestFile | None:
        """The file, where it is there and the same. Raises BadSource where it is one that we know nothing of."""
        size = await asyncio.to_thread(_size, file.target)
        if size is None:
            return None
        known = self._known.get(file.target)
        if known is not None:
            same = known.size == size and self._is_same(file, known)
            return known if same else None
        if not await asyncio.to_thread(_is_listed, file, size):
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
        if file.sha256 is not None:
            return file.sha256 == known.sha256
        if self._plan.revision is not None:
            return self._same_source
        return file.etag is not None and (file.etag, file.size) == (known.etag, known.size)

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
            progress=self._told,
            client=self._client,
        )
        problem = await asyncio.to_thread(_wrong, file)
        if problem is not None:
            raise DownloadFailed(problem, elsewhere=True)
        return ManifestFile(file.target, fetched.size, fetched.sha256, fetched.etag)

    def _told(self, done: int, total: int | None) -> None:
        whole = self._plan.size
        if whole is None and len(self._plan.files) == 1:
            whole = total
        self._meter.tell(self._done + done, whole)


def _is_listed(file: PlannedFile, size: int) -> bool:
    """Whether a file that is there may be the one that the hub lists, its SHA-256 aside. Blocks."""
    if file.size != size or (file.sha256 is None and file.blob is None):
        return False
    return file.blob is None or git_blob(file.target) == file.blob


def _check_room(plan: Plan, missing: Sequence[PlannedFile]) -> None:
    """For all files together, less what has come of them."""
    parts = [file.target.with_name(file.target.name + ".part") for file in missing]
    have = sum(part.stat().st_size for part in parts if part.is_file())
    check_room(plan.model, sum(file.size or 0 for file in missing) - have)


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BadSource(f"{path} can't be read: {error.strerror}", param="source") from None


def _wrong(file: PlannedFile) -> str | None:
    """What is wrong with a file of which no digest was known; it is deleted then. Blocks."""
    reason = None
    if file.blob is not None and git_blob(file.target) != file.blob:
        reason = f"{file.target.name} is not the file that the hub lists: its content has another name in git"
    elif file.sha256 is None and file.blob is None and file.target.name.lower().endswith(".gguf"):
        reason = _gguf_problem(file.target)
    if reason is not None:
        file.target.unlink(missing_ok=True)
        return f"{reason}; what came was deleted"
    return None


def _gguf_problem(path: Path) -> str | None:
    """What is wrong with one file, be it a part of several of which others are still to come."""
    try:
        needed, size = read_header(path).needed, path.stat().st_size
    except LoadFailed as error:
        return error.message
    return f"{path.name} is cut off: {size:,} bytes of at least {needed:,}" if needed > size else None
