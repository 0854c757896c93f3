"""Service: the long-lived objects that HTTP handlers use, and the gate that closes when the service drains."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from aiohttp import web

from manager.addresses import Proxies
from manager.audit import Audit
from manager.auth import KeyStore
from manager.capture import Captures
from manager.errors import ShuttingDown
from manager.guesses import Guesses
from manager.history import History
from manager.inflight import InFlight
from manager.log import AccessLog
from manager.log_recent import RecentLog
from manager.metrics import Metrics
from manager.pool import ModelPool
from manager.pulls import Pulls
from manager.quota import Quotas
from manager.reload import Reloader
from manager.remote_images import RemoteImages
from manager.samples import Samples
from manager.settings import Settings
from manager.tls import ServerTls
from manager.usage import Usage


class DrainGate:
    """Counts the inference requests in flight; once closed it admits no more."""

    def __init__(self) -> None:
        self.in_flight = 0
        self.closed = asyncio.Event()
        self._empty = asyncio.Event()

    def check(self) -> None:
        """Raise ShuttingDown where nothing new is begun any more."""
        if self.closed.is_set():
            raise ShuttingDown("The service is shutting down.", retry_after=5)

    def enter(self) -> None:
        """Count a request in. Raises as `check`; else `leave` must follow."""
        self.check()
        self.in_flight += 1

    def leave(self) -> None:
        self.in_flight -= 1
        if not self.in_flight:
            self._empty.set()

    def close(self) -> None:
        self.closed.set()

    async def wait_empty(self) -> None:
        """Until nothing is in flight. Only meaningful once the gate is closed."""
        while self.in_flight:
            self._empty.clear()
            await self._empty.wait()


@dataclass(slots=True, kw_only=True)
class Service:
    """What `app` makes and handlers find under SERVICE."""

    settings: Settings
    keys: KeyStore
    pool: ModelPool
    # Decided at start and never relaxed: a service whose last key is revoked does not become an open one.
    keys_required: bool
    access_log: AccessLog | None  # None: not wanted
    audit: Audit
    usage: Usage
    tls: ServerTls | None = None  # None: plain HTTP
    remote_images: RemoteImages | None = None  # None: not wanted
    recent_log: RecentLog = field(default_factory=RecentLog)
    metrics: Metrics = field(default_factory=Metrics)
    guesses: Guesses = field(default_factory=Guesses)
    quotas: Quotas = field(default_factory=Quotas)
    gate: DrainGate = field(default_factory=DrainGate)
    inflight: InFlight = field(default_factory=InFlight)
    history: History = field(init=False)
    captures: Captures = field(init=False)
    samples: Samples = field(init=False)
    proxies: Proxies = field(init=False)
    reloader: Reloader = field(init=False)  # it tells the service of new keys, and so is made after it
    pulls: Pulls = field(init=False)  # they have models.json read again by that

    def __post_init__(self) -> None:
        self.proxies = Proxies(self.settings.server.trusted_proxies)
        activity = self.settings.activity
        self.history = History(activity.history)
        self.captures = Captures(enabled=activity.capture, size=activity.capture_size, keep=activity.capture_keep)
        self.samples = Samples(every=activity.sample_every, most=activity.samples)


SERVICE: web.AppKey[Service] = web.AppKey("service", Service)
