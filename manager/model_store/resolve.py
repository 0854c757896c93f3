"""What a source means: its files, and where they go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from yarl import URL

from manager.downloads import Client, Note, plain
from manager.gguf_file import split_name
from manager.mistakes import did_you_mean, shown
from manager.model_store.address import announced
from manager.model_store.choices import BadSource, Choice
from manager.model_store.hf_choice import choose_hf
from manager.model_store.hub import HubFile, Repository, file_urls, list_repository
from manager.model_store.local import plan_local
from manager.model_store.plan import Plan, PlannedFile, entry_name
from manager.model_store.quants import Model, choices_of, choose, is_gguf, models_of, projector_of, quant_of
from manager.model_store.source import HubSource, LocalSource, UrlSource, parse_source
from manager.model_store.targets import target_in
from manager.models_file import name_problem
from manager.settings import Settings


@dataclass(frozen=True, slots=True)
class _Wishes:
    name: str
    mmproj: bool
    allow_pickle: bool
    trust_remote_code: bool
    sha256: str | None
    note: Note | None


async def resolve(
    source: str,
    settings: Settings,
    *,
    quant: str | None = None,
    revision: str | None = None,
    name: str | None = None,
    mmproj: bool = True,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
    sha256: str | None = None,
    public_only: bool = False,
    client: Client | None = None,
    note: Note | None = None,
) -> Plan:
    """The plan of a source. Asks the hub; changes nothing on the disk.

    `source`: `org/repo`, `org/repo:Q4_K_M`, `org/repo@revision`, `org/repo/path/file.gguf`, the same behind `hf.co/` or
    as a page's address at the hub; any other https address of a GGUF file; or a path on this machine, which begins with
    `/`, `./`, `../` or `~`. With `public_only` (somebody far away asks) a path is refused, and addresses are asked as
    Client has it. `name`: of the entry, else it is made of the file's. `mmproj`: whether a projector that belongs to
    the model comes along. `allow_pickle`, `trust_remote_code`: whether files that run code are fetched. `sha256`:
    of the file at an address (hex). `note` is told what it waits for before it asks again.

    Raises BadSource where it means no model, ChoiceNeeded (with the choices) where it means several, DownloadFailed
    where the hub can't be asked.
    """
    problem = None if name is None else name_problem(name)
    if name is not None and problem is not None:
        raise BadSource(f"{shown(name)}: a model name {problem}", param="name")
    wishes = _Wishes(name or "", mmproj, allow_pickle, trust_remote_code, sha256, note)
    meant = parse_source(source, settings.hub, public_only=public_only)
    if not isinstance(meant, HubSource) and (quant or revision):
        raise BadSource("a quantisation or revision is chosen of a hub's repository only", param="quant")
    if sha256 is not None and not isinstance(meant, UrlSource):
        raise BadSource("a SHA-256 is given for the file at an address only; a hub tells its own", param="sha256")
    if isinstance(meant, LocalSource):
        return await asyncio.to_thread(
            plan_local,
            meant.path,
            settings.storage.models_folder,
            wishes.name,
            mmproj=mmproj,
            allow_pickle=allow_pickle,
            trust_remote_code=trust_remote_code,
        )
    async with client_for(settings, public_only, client) as opened:
        if isinstance(meant, UrlSource):
            return await _of_url(opened, meant.url, settings, wishes)
        wanted = _agreed("quant", meant.quant, quant), _agreed("revision", meant.revision, revision) or "main"
        return await _of_hub(opened, meant, *wanted, settings.storage.models_folder, wishes)


@asynccontextmanager
async def client_for(settings: Settings, public_only: bool, client: Client | None) -> AsyncIterator[Client]:
    """The given client, or one for this use."""
    if client is not None:
        yield client
        return
    async with Client(settings.hub, public_only=public_only) as own:
        yield own


def _agreed(what: str, one: str | None, other: str | None) -> str | None:
    if one is not None and other is not None and one.lower() != other.lower():
        raise BadSource(f"{what}: the source says {shown(one)}, and {shown(other)} is asked for", param=what)
    return other if one is None else one


async def _of_hub(
    client: Client, meant: HubSource, quant: str | None, revision: str, models_folder: Path, wishes: _Wishes
) -> Plan:
    repository = await list_repository(client, meant.repo, revision, wishes.note)
    source = f"{client.settings.endpoint}/{meant.repo}"
    if not any(is_gguf(file.path) for file in repository.files) and not meant.path and quant is None:
        return _of_hf(client, repository, source, models_folder, wishes)
    model, choices = _chosen(repository, meant, quant)
    projector = projector_of(model, repository.files) if wishes.mmproj else None
    folder = models_folder / meant.repo
    files = [*model.files, *([] if projector is None else [projector])]
    return Plan(
        name=wishes.name or entry_name(model.stem.rpartition("/")[2]),
        source=source,
        engine="llama",
        models_folder=models_folder,
        model=target_in(folder, model.files[0].path),
        files=tuple(_planned(client, repository, file, folder) for file in files),
        mmproj=None if projector is None else target_in(folder, projector.path),
        revision=repository.commit,
        quant=model.quant,
        choices=choices,
        named=bool(wishes.name),
    )


def _chosen(repository: Repository, meant: HubSource, quant: str | None) -> tuple[Model, tuple[Choice, ...]]:
    models = models_of(repository.files)
    path = meant.path
    if not models:
        raise BadSource(f"{meant.repo} holds no GGUF model", param="source")
    if not is_gguf(path):
        models = [model for model in models if not path or model.folder == path or model.folder.startswith(path + "/")]
        if not models:
            raise BadSource(f"{meant.repo} has no GGUF file in {shown(path)}", param="source")
        return choose(models, quant, meant.repo), choices_of(models)
    found = next((model for model in models if path in {file.path for file in model.files}), None)
    if found is None:
        known = [model.files[0].path for model in models]
        raise BadSource(f"{meant.repo} has no model {shown(path)}{did_you_mean(path, known)}", param="source")
    return choose([found], quant, f"{meant.repo}/{path}"), choices_of(models)


def _of_hf(client: Client, repository: Repository, source: str, models_folder: Path, wishes: _Wishes) -> Plan:
    chosen = choose_hf(
        repository.files,
        repository.name,
        allow_pickle=wishes.allow_pickle,
        trust_remote_code=wishes.trust_remote_code,
    )
    folder = models_folder / repository.name
    return Plan(
        name=wishes.name or entry_name(folder.name),
        source=source,
        engine="hf",
        models_folder=models_folder,
        model=folder,
        files=tuple(_planned(client, repository, file, folder) for file in chosen.files),
        revision=repository.commit,
        allow_pickle=chosen.pickled,
        trust_remote_code=chosen.code,
        named=bool(wishes.name),
    )


def _planned(client: Client, repository: Repository, file: HubFile, folder: Path) -> PlannedFile:
    return PlannedFile(
        target=target_in(folder, file.path),
        size=file.size,
        sha256=file.sha256,
        blob=file.blob,
        urls=file_urls(client.settings, repository.name, repository.commit, file.path),
    )


async def _of_url(client: Client, text: str, settings: Settings, wishes: _Wishes) -> Plan:
    url = URL(text)
    split = split_name(url.name)
    names = [url.name] if split is None else [split.sibling(part) for part in range(1, split.total + 1)]
    if wishes.sha256 is not None and len(names) > 1:
        raise BadSource("a SHA-256 is given for a single file only, and this model has several", param="sha256")
    folder = settings.storage.models_folder
    files = []
    for name in names:
        address = url.with_name(name, keep_query=True)
        target = target_in(folder, name)
        size, etag = await announced(client, address, wishes.note)
        files.append(PlannedFile(target, size=size, sha256=wishes.sha256, etag=etag, urls=(str(address),)))
    stem = url.name[: -len(".gguf")] if split is None else split.stem
    return Plan(
        name=wishes.name or entry_name(stem),
        source=plain(url.with_name(names[0])),
        engine="llama",
        models_folder=folder,
        model=files[0].target,
        files=tuple(files),
        quant=quant_of(stem),
        named=bool(wishes.name),
    )
