"""Asks a model hub what a repository holds: its commit and the tree of its files, from its mirrors where it fails."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

import orjson
from yarl import URL

from manager.downloads import Broken, Client, DownloadFailed, Note, Tries, judge, plain
from manager.settings_sections import HubSettings

logger = logging.getLogger(__name__)

_COMMIT: Final = re.compile(r"[0-9a-f]{7,64}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_SHA1: Final = re.compile(r"[0-9a-f]{40}")
_LINK: Final = re.compile(r'<([^<>]+)>\s*;[^,]*rel="next"')
# Far above any real repository; who answers for ever must not keep us busy.
_MOST_PAGES: Final = 500
_LARGEST_PAGE: Final = 64 * 1024**2


@dataclass(frozen=True, slots=True)
class HubFile:
    """`path` is relative to the repository, as the hub says it: not to be trusted. `size` is in bytes.

    `sha256` (hex) is known of large files, `blob` (git's name of the content, hex) of the others.
    """

    path: str
    size: int
    sha256: str | None = None
    blob: str | None = None


@dataclass(frozen=True, slots=True)
class Repository:
    name: str
    commit: str
    files: tuple[HubFile, ...]


def authorization(settings: HubSettings, url: str) -> dict[str, str]:
    """The header with the hub's token, for an address of `endpoint`; nothing for others."""
    if settings.token is None or URL(url).origin() != URL(settings.endpoint).origin():
        return {}
    return {"Authorization": f"Bearer {settings.token.get_secret_value()}"}


def file_urls(settings: HubSettings, repo: str, commit: str, path: str) -> tuple[str, ...]:
    """Where a file of a repository is: at the hub, and at its mirrors."""
    return tuple(
        f"{address}/{repo}/resolve/{quote(commit, safe='')}/{quote(path)}"
        for address in (settings.endpoint, *settings.mirrors)
    )


async def list_repository(client: Client, repo: str, revision: str, note: Note | None = None) -> Repository:
    """The files of a repository at that revision. `note` is told of pauses. Raises DownloadFailed."""
    settings = client.settings
    failures: list[DownloadFailed] = []
    for address in (settings.endpoint, *settings.mirrors):
        try:
            return await _listed(client, address, repo, revision, note)
        except DownloadFailed as error:
            failures.append(error)
            if not error.elsewhere:
                break
            logger.info("hub=%s repo=%s event=failed", address, repo)
    raise together(failures)


def together(failures: list[DownloadFailed]) -> DownloadFailed:
    """One failure that says what each of them says."""
    if len(failures) == 1:
        return failures[0]
    last = failures[-1]
    return DownloadFailed(
        "\n".join(error.message for error in failures), answered=last.answered, elsewhere=last.elsewhere
    )


async def _listed(client: Client, address: str, repo: str, revision: str, note: Note | None) -> Repository:
    info, _ = await _json(client, f"{address}/api/models/{repo}/revision/{quote(revision, safe='')}", note)
    commit = info.get("sha") if isinstance(info, dict) else None
    if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
        raise DownloadFailed(f"{address} does not answer as a model hub does: {repo} has no commit", elsewhere=True)
    files: list[HubFile] = []
    url = f"{address}/api/models/{repo}/tree/{commit}?recursive=true"
    for _ in range(_MOST_PAGES):
        page, following = await _json(client, url, note)
        if not isinstance(page, list):
            raise DownloadFailed(f"{address} does not answer as a model hub does: {repo} has no tree", elsewhere=True)
        files += [_file(entry) for entry in page if isinstance(entry, dict) and entry.get("type") == "file"]
        if following is None:
            return Repository(repo, commit, tuple(files))
        url = following
    raise DownloadFailed(f"{address}: the list of the files of {repo} does not end")


def _file(entry: Mapping[str, Any]) -> HubFile:
    lfs = entry.get("lfs")
    lfs = lfs if isinstance(lfs, dict) else {}
    path, size = entry.get("path"), lfs.get("size", entry.get("size"))
    if not isinstance(path, str) or type(size) is not int or size < 0:
        raise DownloadFailed("the hub's list of files has one without a path or a size", elsewhere=True)
    # Some write "sha256:" before it.
    sha256 = str(lfs.get("oid", lfs.get("sha256", ""))).lower().rpartition(":")[2]
    blob = str(entry.get("oid", "")).lower()
    return HubFile(
        path,
        size,
        sha256 if _SHA256.fullmatch(sha256) else None,
        blob if not lfs and _SHA1.fullmatch(blob) else None,
    )


async def _json(client: Client, url: str, note: Note | None) -> tuple[Any, str | None]:
    """What is there, and the address of the next page. Raises DownloadFailed."""
    tries = Tries(client.patience, plain(url), note, first=True)
    while True:
        try:
            return await _json_once(client, url)
        except Broken as why:
            await tries.failed(why)


async def _json_once(client: Client, url: str) -> tuple[Any, str | None]:
    own = authorization(client.settings, url)
    async with client.ask(url, {"Accept": "application/json"}, own) as response:
        judge(response)
        body = bytearray()
        async for piece in response.content.iter_any():
            body += piece
            if len(body) > _LARGEST_PAGE:
                raise DownloadFailed(f"{plain(url)}: the answer is too long")
        link = _LINK.search(response.headers.get("Link", ""))
        try:
            following = None if link is None else str(response.url.join(URL(link[1])))
            return orjson.loads(body), following
        except ValueError:
            raise DownloadFailed(f"{plain(url)} does not answer as a model hub does: no JSON", elsewhere=True) from None
