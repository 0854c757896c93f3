"""The HTTP client of downloads: certificates checked, proxies of the environment, redirects followed with care."""

from __future__ import annotations

import ipaddress
import re
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Final, Self
from urllib.request import getproxies, proxy_bypass

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from manager.downloads.answers import NotPublic, translated
from manager.downloads.failure import DownloadFailed, plain
from manager.downloads.patience import Patience
from manager.public_hosts import Lookup, PublicResolver, is_public, look_up
from manager.settings_sections import HubSettings

MOST_REDIRECTS: Final = 10
_Place = tuple[str | None, int | None]  # host and port
_REDIRECTS: Final = (301, 302, 303, 307, 308)
_BUFFER: Final = 1024 * 1024
# A last label of these is taken for an IPv4 address by some, in whatever notation: 0x7f.1, 2130706433.
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*", re.IGNORECASE)


class Client:
    """A context of the event loop, for any number of downloads.

    `public_only`: https and public addresses alone are asked, but for the servers that the settings name, each with its
    scheme and port: for whom somebody far away has chosen the address. `lookup`, `public` and `trust` stand in for the
    resolver, `is_public` and the system's certificates in tests.
    """

    def __init__(
        self,
        settings: HubSettings,
        *,
        public_only: bool = False,
        patience: Patience | None = None,
        lookup: Lookup = look_up,
        public: Callable[[str], bool] = is_public,
        trust: ssl.SSLContext | None = None,
    ) -> None:
        self.settings = settings
        self.patience = patience or Patience()
        self.public_only = public_only
        self._known = {URL(address).origin() for address in (settings.endpoint, *settings.mirrors)}
        # Where the resolver lets us go whatever the address is.
        self._exempt: frozenset[_Place] = frozenset()
        self._lookup = lookup
        self._public = public
        self._trust = trust
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        resolver = None
        if self.public_only:
            self._exempt = frozenset(map(_place, self._known)) | _proxies()
            resolver = _Resolver(self._exempt, self._lookup, self._public)
        connector = aiohttp.TCPConnector(resolver=resolver, use_dns_cache=not self.public_only, ssl=self._trust or True)
        timeout = self.settings.timeout
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,  # proxies are looked up here; passwords of a .netrc are sent to nobody
            auto_decompress=False,
            read_bufsize=_BUFFER,
            headers={"Accept-Encoding": "identity", "User-Agent": "llamaherd"},
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=timeout, sock_read=timeout),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    @asynccontextmanager
    async def ask(
        self, url: str, headers: Mapping[str, str], own: Mapping[str, str] | None = None, method: str = "GET"
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer at the end of all redirects, whatever its status. `own` goes to the host of `url` alone.

        Raises Broken or DownloadFailed, also for what goes wrong while its body is read inside.
        """
        if self._session is None:
            raise RuntimeError("the client is not open")
        start = target = _parsed(url)
        for _ in range(MOST_REDIRECTS + 1):
            await self._check(target)
            sent = {**headers, **(own or {})} if target.origin() == start.origin() else dict(headers)
            proxy = _proxy(target)
            with translated(str(target)):
                async with self._session.request(
                    method, target, headers=sent, proxy=proxy, allow_redirects=False
                ) as response:
                    if response.status not in _REDIRECTS:
                        yield response
                        return
                    target = _target(target, response.headers.get("Location", ""))
        raise DownloadFailed(f"{plain(start)}: redirects more than {MOST_REDIRECTS} times")

    async def _check(self, url: URL) -> None:
        """Raises DownloadFailed for an address that may not be asked."""
        if not self.public_only or url.origin() in self._known:
            return
        host = url.raw_host or ""
        if url.scheme != "https" or url.raw_user is not None or url.raw_password is not None:
            raise DownloadFailed(f"{plain(url)}: only https addresses without a user are fetched from here")
        try:
            public = self._public(str(ipaddress.ip_address(host)))
        except ValueError:
            public = not _NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2])
            if public and (_proxy(url) is not None or _place(url) in self._exempt):
                public = await self._seems_public(host, url.port or 443)
        if not public:
            raise DownloadFailed(f"{plain(url)}: {host} is no host of the public internet")

    async def _seems_public(self, host: str, port: int) -> bool:
        """Of a host that our resolver will not judge, be it that a proxy looks it up. This machine may know nothing."""
        try:
            return all(map(self._public, await self._lookup(host, port)))
        except (OSError, UnicodeError):
            return True


class _Resolver(AbstractResolver):
    """Any address of the places that are `exempt`, of others public ones. Raises NotPublic."""

    def __init__(self, exempt: frozenset[_Place], lookup: Lookup, public: Callable[[str], bool]) -> None:
        def checked(address: str) -> bool:
            if not public(address):
                raise NotPublic("not a public host")
            return True

        self._exempt = exempt
        self._any = PublicResolver(lookup, lambda address: True)
        self._public = PublicResolver(lookup, checked)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        resolver = self._any if (host, port) in self._exempt else self._public
        return await resolver.resolve(host, port, family)

    async def close(self) -> None:
        """Nothing is held."""


def _parsed(text: str) -> URL:
    try:
        url = URL(text)
        whole = url.scheme in ("http", "https") and bool(url.host) and url.port is not None
    except ValueError:
        whole = False
    if not whole:
        raise DownloadFailed(f"{plain(text)!r} is not a valid http or https address")
    return url


def _target(url: URL, location: str) -> URL:
    try:
        return _parsed(str(url.join(URL(location)))) if location else _parsed("")
    except (ValueError, DownloadFailed):
        raise DownloadFailed(f"{plain(url)}: redirects to what is no http or https address", elsewhere=True) from None


def _proxy(url: URL) -> URL | None:
    """The proxy that the environment names for this address (https_proxy, http_proxy, no_proxy)."""
    proxies = getproxies()
    if proxy_bypass(f"{url.host}:{url.port}"):
        return None
    proxy = proxies.get(url.scheme) or proxies.get("all")
    return None if proxy is None else _proxy_url(proxy)


def _proxy_url(text: str) -> URL:
    try:
        url = URL(text if "://" in text else f"http://{text}")
    except ValueError:
        url = URL()
    if url.scheme not in ("http", "https") or not url.host:
        raise DownloadFailed("the proxy in the environment (https_proxy, http_proxy, all_proxy) is no http proxy")
    return url


def _proxies() -> frozenset[_Place]:
    named = (proxy for scheme, proxy in getproxies().items() if scheme in ("http", "https", "all"))
    return frozenset(_place(_proxy_url(proxy)) for proxy in named)


def _place(url: URL) -> _Place:
    return url.raw_host, url.port
