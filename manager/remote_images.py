"""Fetches images by https for requests that name them so, and from nowhere but the public internet.

Whoever asks chooses the address, so it must not lead to what only this machine can reach. Names are resolved here,
every address of a name is looked at, and the connection goes to the very addresses that were looked at.
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import Final, Self

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from manager.media_kinds import TELLING, image_kind
from manager.settings_sections import MediaSettings

# Addresses of a host, by its name and port.
Lookup = Callable[[str, int], Awaitable[Sequence[str]]]

REDIRECTS: Final = (301, 302, 303, 307, 308)
MOST_REDIRECTS: Final = 3
# Connections of all requests together; more wait.
CONNECTIONS: Final = 32
PIECE: Final = 64 * 1024
# Neither blanks and control characters nor what programs read differently.
_PLAIN: Final = re.compile(r"https://[^\x00-\x20\x7f-\xa0\\]+")
# A last label of these is taken for an IPv4 address by some, in whatever notation: 0x7f.1, 2130706433.
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*", re.IGNORECASE)
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")


class ImageRefused(Exception):
    """Why an image is not fetched; `tells` nothing of what is in the networks around this machine."""

    def __init__(self, tells: str = "") -> None:
        super().__init__(tells)
        self.tells = tells


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet; of one that carries an IPv4 address, that one counts."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        carried = ip.ipv4_mapped or ip.sixtofour
        if ip in _NAT64:
            carried = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if carried is not None:
            return is_public(str(carried))
        if ip.teredo is not None or ip.is_site_local or ip.scope_id is not None:
            return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


async def look_up(host: str, port: int) -> list[str]:
    """The addresses that the system's resolver has for a host. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


class PublicResolver(AbstractResolver):
    """Hosts whose addresses are all public. Raises OSError for others."""

    def __init__(self, lookup: Lookup, public: Callable[[str], bool]) -> None:
        self._lookup = lookup
        self._public = public

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        addresses = list(dict.fromkeys(await self._lookup(host, port)))
        if not addresses or not all(map(self._public, addresses)):
            raise OSError("not a public host")
        return [_result(host, port, address) for address in addresses]

    async def close(self) -> None:
        """Nothing is held."""


def _result(host: str, port: int, address: str) -> ResolveResult:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=socket.AI_NUMERICHOST)


class RemoteImages:
    """One client for all requests, which keeps neither cookies nor connections. A context of the event loop.

    `lookup`, `public` and `trust` stand in for the resolver, `is_public` and the system's certificates in tests.
    """

    def __init__(
        self,
        settings: MediaSettings,
        *,
        lookup: Lookup = look_up,
        public: Callable[[str], bool] = is_public,
        trust: ssl.SSLContext | None = None,
    ) -> None:
        self.settings = settings
        self._public = public
        self._resolver = PublicResolver(lookup, public)
        self._trust = trust or ssl.create_default_context()
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(
            resolver=self._resolver, use_dns_cache=False, ssl=self._trust, limit=CONNECTIONS, force_close=True
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
            headers={"Accept": "image/*", "Accept-Encoding": "identity", "User-Agent": "llamaherd"},
            timeout=aiohttp.ClientTimeout(total=self.settings.timeout),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End what is being fetched."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def fetch(self, url: str, room: Room) -> str:
        """The image at `url` as a data URL; its bytes are taken off `room`. Raises ImageRefused."""
        if self._session is None:
            raise ImageRefused
        try:
            async with asyncio.timeout(self.settings.timeout):
                data = await self._follow(self._session, self._checked(url), room)
        except (OSError, ValueError, RuntimeError, aiohttp.ClientError):
            raise ImageRefused from None
        kind = image_kind(data[:TELLING])
        if kind is None:
            raise ImageRefused
        return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"

    def _checked(self, text: str) -> URL:
        """What may be asked for, as far as its text tells. Raises ImageRefused."""
        try:
            url = URL(text)
            host, port = url.raw_host, url.port
        except ValueError:
            raise ImageRefused("is not a valid URL") from None
        if not _PLAIN.fullmatch(text) or url.scheme != "https" or not host or not port:
            raise ImageRefused("is not a valid https URL")
        if url.user is not None or url.password is not None:
            raise ImageRefused("must not hold a user or a password")
        try:
            literal = str(ipaddress.ip_address(host))
        except ValueError:
            if _NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2]):
                raise ImageRefused("names no host of the public internet") from None
        else:
            if not self._public(literal):
                raise ImageRefused("names no host of the public internet")
        return url

    async def _follow(self, session: aiohttp.ClientSession, url: URL, room: Room) -> bytes:
        """The body at the end of at most so many redirects, each of which is held to the same rules."""
        for _ in range(MOST_REDIRECTS + 1):
            async with session.get(url, allow_redirects=False) as response:
                if response.status not in REDIRECTS:
                    return await _body(response, room, self.settings.max_size)
                target = response.headers.get("Location", "")
            try:
                url = self._checked(str(url.join(URL(target))))
            except ImageRefused:
                raise ImageRefused from None  # where others lead is not what the request said
        raise ImageRefused


class Room:
    """How many bytes the images of one request may still take together."""

    def __init__(self, left: int) -> None:
        self.left = left

    def take(self, size: int) -> None:
        """Raises ImageRefused where so much is not left."""
        self.left -= size
        if self.left < 0:
            raise ImageRefused


async def _body(response: aiohttp.ClientResponse, room: Room, most: int) -> bytes:
    headers: Mapping[str, str] = response.headers
    encoded = headers.get("Content-Encoding", "identity").lower() != "identity"
    if response.status != 200 or encoded or not response.content_type.startswith("image/"):
        raise ImageRefused
    if (response.content_length or 0) > most:
        raise ImageRefused
    body = bytearray()
    async for piece in response.content.iter_chunked(PIECE):
        body += piece
        room.take(len(piece))
        if len(body) > most:
            raise ImageRefused
    return bytes(body)
