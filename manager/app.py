"""The composition root: makes every long-lived object from the settings and hands it to the routes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Final

from aiohttp import web

import routes
from manager.audit import Audit
from manager.auth import ApiKey, KeyStore
from manager.catalog import load_catalog
from manager.confinement import Confinement
from manager.device_memory import DeviceMemories
from manager.engines import Engine
from manager.engines.kinds import Surroundings
from manager.engines.llama.native import choose_launcher
from manager.engines.llama.slots import forget_others
from manager.engines.unmade import made
from manager.entry import ModelEntry
from manager.errors import ConfigError
from manager.exposure import refuse_weakness, warn_of_keys_in_clear
from manager.home import return_home
from manager.log import AccessLog
from manager.log_recent import RecentLog
from manager.memory_devices import refuse_two_names
from manager.memory_ledger import Ledger
from manager.metrics import Metrics
from manager.pool import ModelPool
from manager.pulls import Pulls
from manager.reload import Reloader
from manager.remote_images import RemoteImages
from manager.run_folder import RunFolder
from manager.samples import keep_sampling
from manager.service import SERVICE, Service
from manager.settings import Settings
from manager.tls import ServerTls, follow
from manager.usage import Usage
from manager.watch import Watcher

logger = logging.getLogger(__name__)

FLUSH_KEYS_EVERY: Final = 60.0
LOOK_AT_KEYS_EVERY: Final = 1.0


def create_app(settings: Settings) -> web.Application:
    """The application, with nothing running yet. Raises ConfigError for any mistake in settings, keys or models."""
    keys = KeyStore(settings.storage.keys_file, keep_admin=True)
    keys.load()
    refuse_weakness(settings, keys)
    Confinement(settings.children).check()
    tls = ServerTls(settings.tls) if settings.tls.wanted else None
    if settings.llama.binary is not None or settings.llama.launcher == "native":
        choose_launcher(settings)
    catalog = load_catalog(settings)
    refuse_two_names(settings, catalog)
    run_folder = RunFolder(settings.storage.run_folder)
    metrics, ledger = Metrics(), Ledger(settings)
    pool = ModelPool(catalog, settings, engine_factory(settings, run_folder), ledger, metrics)
    app = web.Application(client_max_size=settings.server.max_body)
    recent_log = RecentLog()
    access_log = AccessLog(recent=recent_log) if settings.server.access_log else None
    service = app[SERVICE] = Service(
        settings=settings,
        keys=keys,
        pool=pool,
        keys_required=bool(len(keys)),
        access_log=access_log,
        audit=Audit(settings.storage.audit_file),
        usage=Usage(settings.storage.usage_file, settings.storage.usage_days),
        tls=tls,
        remote_images=RemoteImages(settings.media) if settings.media.remote else None,
        metrics=metrics,
        recent_log=recent_log,
    )
    service.reloader = Reloader(settings, keys, pool, lambda: _note_keys(service), tls)
    service.pulls = Pulls(settings, pool.feed, lambda: pool.catalog, service.reloader.reload)
    # In this order at start, in the opposite one at the end.
    if access_log is not None:
        app.cleanup_ctx.append(_written(access_log))
    app.cleanup_ctx.append(_audited)
    app.cleanup_ctx.append(_used)
    app.cleanup_ctx.append(_swept(run_folder))
    if service.remote_images is not None:
        app.cleanup_ctx.append(_fetching(service.remote_images))
    app.cleanup_ctx.append(_pool)
    app.cleanup_ctx.append(_sampled(ledger))
    app.cleanup_ctx.append(_reloads)
    if settings.scheduling.home is not None:
        app.cleanup_ctx.append(_at_home(settings.scheduling.home, settings.scheduling.home_after))
    app.cleanup_ctx.append(_keys_followed)
    app.cleanup_ctx.append(_keys_flushed)
    if tls is not None:
        app.cleanup_ctx.append(_renewed(tls))
    app.on_shutdown.append(_end_pulls)  # before the feeds, which tell of it
    app.on_shutdown.append(_end_feeds)
    routes.setup(app)
    return app


def engine_factory(settings: Settings, run_folder: RunFolder) -> Callable[[ModelEntry], Engine]:
    """How an entry becomes an engine. The catalog has refused engines that don't exist."""
    around = Surroundings(settings, run_folder)
    return lambda entry: made(entry, around)


def _written(access_log: AccessLog) -> Callable[[web.Application], AsyncIterator[None]]:
    async def write(_: web.Application) -> AsyncIterator[None]:
        async with _background(access_log.run()):
            yield

    return write


async def _audited(app: web.Application) -> AsyncIterator[None]:
    yield
    await asyncio.to_thread(app[SERVICE].audit.close)


async def _used(app: web.Application) -> AsyncIterator[None]:
    """Usage is written, and what keys have used today is known again."""
    service = app[SERVICE]
    async with service.usage.kept():
        service.quotas.seed(await service.usage.tokens_since(service.quotas.day_began()))
        yield


def _fetching(images: RemoteImages) -> Callable[[web.Application], AsyncIterator[None]]:
    async def fetch(_: web.Application) -> AsyncIterator[None]:
        async with images:
            yield

    return fetch


def _renewed(tls: ServerTls) -> Callable[[web.Application], AsyncIterator[None]]:
    async def renew(_: web.Application) -> AsyncIterator[None]:
        async with _background(follow(tls)):
            yield

    return renew


def _swept(run_folder: RunFolder) -> Callable[[web.Application], AsyncIterator[None]]:
    async def sweep(app: web.Application) -> AsyncIterator[None]:
        killed = await asyncio.to_thread(run_folder.sweep)
        service = app[SERVICE]
        await asyncio.to_thread(forget_others, service.settings.storage.slots_folder, service.pool.catalog.names)
        if killed:
            logger.warning("killed children=%d that an earlier manager left", killed)
        yield

    return sweep


async def _pool(app: web.Application) -> AsyncIterator[None]:
    yield
    await app[SERVICE].pool.close()


def _sampled(ledger: Ledger) -> Callable[[web.Application], AsyncIterator[None]]:
    async def sample(app: web.Application) -> AsyncIterator[None]:
        service = app[SERVICE]
        memories = DeviceMemories(service.pool, ledger)
        async with _background(keep_sampling(service.samples, service.inflight, memories, service.pool.feed)):
            yield

    return sample


async def _reloads(app: web.Application) -> AsyncIterator[None]:
    """Changed files are read again, where that is wanted."""
    service = app[SERVICE]
    async with contextlib.AsyncExitStack() as stack:
        if service.settings.storage.watch:
            watcher = Watcher(service.settings.storage, service.reloader.try_reload)
            await stack.enter_async_context(_background(watcher.run()))
        yield
        await service.reloader.close()


def _at_home(name: str, after: float) -> Callable[[web.Application], AsyncIterator[None]]:
    async def stay(app: web.Application) -> AsyncIterator[None]:
        async with _background(return_home(app[SERVICE].pool, name, after)):
            yield

    return stay


def _note_keys(service: Service) -> None:
    """Once there were keys, one is asked for."""
    if not service.keys_required and len(service.keys):
        service.keys_required = True
        warn_of_keys_in_clear(service.settings)


async def _keys_followed(app: web.Application) -> AsyncIterator[None]:
    """A key that is made or revoked on the command line counts within a second, over HTTP at once."""
    service, loop = app[SERVICE], asyncio.get_running_loop()

    def tell(event: str, key: ApiKey) -> None:  # in a thread, and whether or not the client still waits
        loop.call_soon_threadsafe(_key_changed, service, event, key.id)

    service.keys.on_change = tell
    async with _background(_follow_keys(service)):
        yield


def _key_changed(service: Service, event: str, key_id: str) -> None:
    _note_keys(service)
    service.pool.feed.publish("key", {"event": event, "id": key_id})


async def _follow_keys(service: Service) -> None:
    refused = ""
    while True:
        # A look at the file's time and not an event: events are not made in network folders.
        await asyncio.sleep(LOOK_AT_KEYS_EVERY)
        try:
            if await asyncio.to_thread(service.keys.reload_if_changed):
                logger.info("keys read again keys=%d", len(service.keys))
            _note_keys(service)  # whoever has read them
            refused = ""
        except ConfigError as error:
            if error.message != refused:
                logger.error("keys not read again, the old ones stay: %s", error.message)
            refused = error.message


async def _keys_flushed(app: web.Application) -> AsyncIterator[None]:
    keys = app[SERVICE].keys
    async with _background(_flush_keys(keys)):
        yield
    await _flush(keys)


async def _flush_keys(keys: KeyStore) -> None:
    while True:
        await asyncio.sleep(FLUSH_KEYS_EVERY)
        await _flush(keys)


async def _flush(keys: KeyStore) -> None:
    try:
        await asyncio.to_thread(keys.flush)
    except ConfigError as error:  # a full disk; what is not written now is written next time
        logger.error("the last use of keys is not written: %s", error.message)


async def _end_pulls(app: web.Application) -> None:
    await app[SERVICE].pulls.close()


async def _end_feeds(app: web.Application) -> None:
    app[SERVICE].pool.end_feeds()


@contextlib.asynccontextmanager
async def _background(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a background task had ended", exc_info=error)
