"""Fetches images by https for requests that name them so, and from nowhere but the public internet.

Whoever asks chooses the address, so it must not lead to what only this machine can reach. Names are resolved here,
every address of a name is looked at, and the connection goes to the very addresses that were looked at.
"""

from __future__ import annotations

import asyncio
import binascii
import ipaddress
import re
import ssl
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from types import TracebackType
from typing import Any, Final, Self

import aiohttp
from yarl import URL

from manager.media_kinds import TELLING, image_kind
from manager.public_hosts import Lookup, PublicResolver, is_public, look_up
from manager.settings_sections import MediaSettings

REDIRECTS: Final = (301, 302, 303, 307, 308)
MOST_REDIRECTS: Final = 3
# Connections of all requests together; more wait.
CONNECTIONS: Final = 32
# Of these, the requests of one key get so many.
MOST_OF_KEY: Final = 8
PIECE: Final = 64 * 1024
# Bytes that are encoded in one go, between which others get their turn; a multiple of 3.
ENCODED_AT_ONCE: Final = 768 * 1024
# Neither blanks and control characters nor what programs read differently.
_PLAIN: Final = re.compile(r"https://[^\x00-\x20\x7f-\xa0\\]+")
# A user before the host, be it an empty one.
_USER: Final = re.compile(r"https://[^/?#]*@")
# A last label of these is taken for an IPv4 address by some, in whatever notation: 0x7f.1, 2130706433.
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*", re.IGNORECASE)


class ImageRefused(Exception):
    """Why an image is not fetched; `tells` nothing of what is in the networks around this machine."""

    def __init__(self, tells: str = "") -> None:
        super().__init__(tells)
        self.tells = tells


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
        self._turns: dict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(MOST_OF_KEY))  # by key

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

    async def fetch(self, url: str, room: Room, *, times: int = 1, key: str | None = None) -> str:
        """The image at `url` as a data URL, which takes its length off `room` so many `times`. Raises ImageRefused.

        `key`: the id of the key that asks.
        """
        if self._session is None:
            raise ImageRefused
        try:
            async with asyncio.timeout(self.settings.timeout), self._turn(key):
                data = await self._follow(self._session, self.check(url), room, times)
        except (OSError, ValueError, RuntimeError, aiohttp.ClientError):
            raise ImageRefused from None
        kind = image_kind(data[:TELLING])
        if kind is None:
            raise ImageRefused
        return await _data_url(kind, data)

    def _turn(self, key: str | None) -> AbstractAsyncContextManager[Any]:
        """Waits while this key has as many connections as one gets. Those without a key can't be told apart."""
        return self._turns[key] if key else nullcontext()

    def check(self, text: str) -> URL:
        """What may be asked for, as far as its text tells. Raises ImageRefused."""
        try:
            url = URL(text)
            host, port = url.raw_host, url.port
        except ValueError:
            raise ImageRefused("is not a valid URL") from None
        if not _PLAIN.fullmatch(text) or url.scheme != "https" or not host or not port:
            raise ImageRefused("is not a valid https URL")
        if _USER.match(text):
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

    async def _follow(self, session: aiohttp.ClientSession, url: URL, room: Room, times: int) -> bytearray:
        """The body at the end of at most so many redirects, each of which is held to the same rules."""
        for _ in range(MOST_REDIRECTS + 1):
            async with session.get(url, allow_redirects=False) as response:
                if response.status not in REDIRECTS:
                    return await _body(response, room, times, self.settings.max_size)
                target = response.headers.get("Location", "")
            try:
                url = self.check(str(url.join(URL(target))))
            except ImageRefused:
                raise ImageRefused from None  # where others lead is not what the request said
        raise ImageRefused


class Room:
    """How many bytes of base64 the images of one request may still take together."""

    def __init__(self, left: int) -> None:
        self.left = left

    def take(self, size: int, times: int = 1) -> None:
        """Make room for so many bytes before base64. Raises ImageRefused where that is not left."""
        self.left -= (size + 2) // 3 * 4 * times
        if self.left < 0:
            raise ImageRefused


async def _body(response: aiohttp.ClientResponse, room: Room, times: int, most: int) -> bytearray:
    headers: Mapping[str, str] = response.headers
    encoded = headers.get("Content-Encoding", "identity").lower() != "identity"
    if response.status != 200 or encoded or not response.content_type.startswith("image/"):
        raise ImageRefused
    if (response.content_length or 0) > most:
        raise ImageRefused
    body = bytearray()
    async for piece in response.content.iter_chunked(PIECE):
        body += piece
        room.take(len(piece), times)
        if len(body) > most:
            raise ImageRefused
    return body


async def _data_url(kind: str, data: bytearray) -> str:
    pieces = [f"data:image/{kind};base64,"]
    for start in range(0, len(data), ENCODED_AT_ONCE):
        pieces.append(binascii.b2a_base64(data[start : start + ENCODED_AT_ONCE], newline=False).decode())
        await asyncio.sleep(0)
    return "".join(pieces)
