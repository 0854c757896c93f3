"""Reads what somebody typed as the source of a model. Asks nobody."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from yarl import URL

from manager.downloads import plain
from manager.mistakes import shown
from manager.model_store.choices import BadSource
from manager.settings_sections import HubSettings

HUB_HOSTS: Final = ("huggingface.co", "www.huggingface.co", "hf.co")
_REMOTE: Final = "org/repo, org/repo:Q4_K_M or https://host/file.gguf"
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,95}")
_REVISION: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/-]{0,199}")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_PAGES: Final = frozenset({"resolve", "blob", "raw", "tree"})
_NO_MODELS: Final = frozenset({"datasets", "spaces", "api", "docs", "papers", "collections", "models"})
_LOCAL: Final = ("/", "./", "../", "~")
_IMPORTED: Final = (
    "over HTTP a model comes from the hub or from an https address; files of the machine itself are for "
    "`llamaherd model import` there"
)


@dataclass(frozen=True, slots=True)
class HubSource:
    """`path`: a file or a folder of the repository, empty for all of it."""

    repo: str
    path: str = ""
    quant: str | None = None
    revision: str | None = None


@dataclass(frozen=True, slots=True)
class UrlSource:
    url: str


@dataclass(frozen=True, slots=True)
class LocalSource:
    path: Path


Source = HubSource | UrlSource | LocalSource


def parse_source(text: str, hub: HubSettings, *, public_only: bool = False) -> Source:
    """What a source is. Raises BadSource.

    `public_only`: of somebody far away. No path is meant then, and no address but one of https without a user; only the
    hub that is set, or a mirror, may be asked as it is.
    """
    text = text.strip()
    if public_only and text.startswith((*_LOCAL, "file:")):
        raise BadSource(f"{_shown(text)}: {_IMPORTED}", param="source")
    source = None if _CONTROL.search(text) else _meant(text, hub)
    if source is None:
        examples = _REMOTE if public_only else f"{_REMOTE}, or ./file.gguf"
        raise BadSource(f"{_shown(text)} is no source of a model; write {examples}", param="source")
    if public_only and isinstance(source, UrlSource) and not _may_be_asked(URL(source.url), hub):
        raise BadSource(f"{_shown(text)}: only https addresses without a user are fetched from here", param="source")
    return source


def _meant(text: str, hub: HubSettings) -> Source | None:
    if text.startswith(_LOCAL):
        return LocalSource(Path(text).expanduser())
    if re.match(r"https?://", text, re.IGNORECASE):
        return _of_address(text, hub)
    if "://" in text:
        raise BadSource(f"{_shown(text)}: only http and https addresses are fetched", param="source")
    host, _, rest = text.partition("/")
    return _of_repository(rest if host.lower() in HUB_HOSTS else text)


def _may_be_asked(url: URL, hub: HubSettings) -> bool:
    """Whether the address alone lets `downloads.Client` ask there; whether its host is public comes out later."""
    if url.origin() in {URL(address).origin() for address in (hub.endpoint, *hub.mirrors)}:
        return True
    return url.scheme == "https" and url.raw_user is None and url.raw_password is None


def _of_address(text: str, hub: HubSettings) -> Source | None:
    try:
        url = URL(text)
        host = url.host
    except ValueError:
        host = None
    if not host:
        raise BadSource(f"{_shown(text)} is not a valid address", param="source")
    known = next((address for address in (hub.endpoint, *hub.mirrors) if text.startswith(address + "/")), None)
    page = None
    if known is not None:
        page = _without_query(text[len(known) + 1 :])
    elif host in HUB_HOSTS:
        page = _without_query(text.split("/", 3)[3] if text.count("/") > 2 else "")
    is_file = url.path.lower().endswith(".gguf")
    if page is not None and (not is_file or not _PAGES.isdisjoint(page.split("/")[2:3])):
        return _of_repository(page)
    if not is_file:
        raise BadSource(f"{_shown(text)} is no address of a .gguf file", param="source")
    return UrlSource(text.partition("#")[0])


def _without_query(path: str) -> str:
    """The part of an address that names something; a slash in one of its names stays one."""
    return unquote(re.split(r"[?#]", path, maxsplit=1)[0]).strip("/")


def _of_repository(rest: str) -> HubSource | None:
    """`org/repo`, then a path or the words of a page's address, then `@revision` and `:quantisation` in any order.

    None where that is no repository.
    """
    rest, _, revision = rest.partition("@")
    rest, _, quant = rest.partition(":")
    if ":" in revision:
        revision, _, quant = revision.partition(":")
    parts = rest.split("/")
    if len(parts) < 2 or parts[0] in _NO_MODELS or not all(_is_name(part) for part in parts[:2]):
        return None
    repo, path = "/".join(parts[:2]), parts[2:]
    if len(path) > 1 and path[0] in _PAGES:
        revision, path = revision or path[1], path[2:]
        if path[:1] and revision == "refs" and len(path) > 1:  # refs/pr/3 or refs/convert/parquet
            revision, path = "/".join([revision, *path[:2]]), path[2:]
    if revision and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise BadSource(f"{shown(revision)} is no revision", param="source")
    return HubSource(repo, "/".join(path), quant or None, revision or None)


def _shown(text: str) -> str:
    """What was typed, an address without its secrets."""
    return shown(plain(text) if "://" in text else text)


def _is_name(name: str) -> bool:
    return bool(_NAME.fullmatch(name)) and ".." not in name
