"""Carries the bytes of one file: asks, goes on where it broke off, begins anew where that can't be trusted."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Final, NoReturn

import aiohttp

from manager.downloads.answers import judge
from manager.downloads.body import Writer, pieces
from manager.downloads.client import Client
from manager.downloads.failure import Broken, DownloadFailed, plain
from manager.downloads.part import Part, Version
from manager.downloads.patience import Tries
from manager.downloads.progress import Meter, Note

_RANGE: Final = re.compile(r"bytes (?:(?P<first>\d{1,18})-(?P<last>\d{1,18})|\*)/(?P<total>\d{1,18}|\*)")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for. `headers` are for the host of `url` alone."""

    url: str
    sha256: str | None
    size: int | None
    headers: Mapping[str, str]


class Transfer:
    """One download from its part to the last byte. It holds nothing beyond `run`."""

    def __init__(self, client: Client, part: Part, wanted: Wanted, meter: Meter, note: Note | None = None) -> None:
        self._client = client
        self._part = part
        self._wanted = wanted
        self._meter = meter
        self._note = note
        self._shown = plain(wanted.url)
        self._address = hashlib.sha256(wanted.url.encode()).hexdigest()
        self._version: Version | None = None

    async def run(self) -> str | None:
        """All bytes are in the part then; returns their ETag. Raises DownloadFailed."""
        await self._take_up()
        tries = Tries(self._client.patience, self._shown, self._note)
        most = self._part.done
        while not self._is_whole():
            try:
                await self._once()
                break
            except Broken as why:
                if self._part.done > most:
                    most = self._part.done
                    tries.progressed()
                await tries.failed(why, self._have())
        return None if self._version is None else self._version.etag

    async def _take_up(self) -> None:
        """Go on from what is there, where it is of the same content."""
        part, wanted = self._part, self._wanted
        self._version = await asyncio.to_thread(part.open)
        if self._is_ours(self._version):
            await asyncio.to_thread(part.hash_again)
        most = self._total()
        if not part.done or (most is not None and part.done > most):
            await self._anew()
        if wanted.size is not None:
            await asyncio.to_thread(part.check_room, wanted.size)

    def _is_ours(self, version: Version | None) -> bool:
        """Whether bytes of that version can be gone on from."""
        if version is None or version.sha256 != self._wanted.sha256:
            return False
        if self._wanted.sha256 is not None:
            return True  # wherever they came from: the digest will tell
        return version.address == self._address and version.condition is not None

    def _is_whole(self) -> bool:
        """Whether there is nothing left to ask for, as the digest will tell."""
        return self._wanted.sha256 is not None and bool(self._part.done) and self._part.done == self._total()

    def _total(self) -> int | None:
        if self._wanted.size is not None:
            return self._wanted.size
        return None if self._version is None else self._version.total

    def _have(self) -> str:
        total = self._total()
        return f"; {self._part.done:,} of {'?' if total is None else f'{total:,}'} bytes are there"

    async def _anew(self) -> None:
        self._version = None
        await asyncio.to_thread(self._part.rewind)

    async def _once(self) -> None:
        """One request, to the end of the file. Raises Broken where another may bring more."""
        if not self._is_ours(self._version):
            await self._anew()
        async with self._client.ask(self._wanted.url, self._conditions(), self._wanted.headers) as response:
            if response.status == 416 and self._part.done:
                await self._past_the_end(response)
                return
            judge(response)
            self._refuse_odd(response)
            total = await self._begin(response)
            await self._receive(response, total)
        if total is not None and self._part.done < total:
            raise Broken("the answer ended too early")

    def _conditions(self) -> dict[str, str]:
        if not self._part.done or self._version is None:
            return {}
        headers = {"Range": f"bytes={self._part.done}-"}
        if self._version.address == self._address and self._version.condition is not None:
            headers["If-Range"] = self._version.condition
        return headers

    def _refuse_odd(self, response: aiohttp.ClientResponse) -> None:
        encoding = response.headers.get("Content-Encoding", "identity").lower()
        if encoding not in ("identity", ""):
            self._refuse(f"the server sends it compressed ({encoding[:20]}) though it was asked not to")
        if response.content_type == "text/html":
            self._refuse("the server sends a web page in its place; is the address that of the file itself?")
        if response.status not in (200, 206):
            self._refuse(f"the server answered {response.status}, which brings no file")

    async def _begin(self, response: aiohttp.ClientResponse) -> int | None:
        """Where the bytes go that follow, and how many there will be in all, where that is known."""
        if response.status == 206:
            announced = await self._checked_range(response)
        else:
            announced = response.content_length
            await self._anew()
        expected = self._wanted.size
        if expected is not None and announced is not None and announced != expected:
            self._refuse(f"the server announces {announced:,} bytes, and it should have {expected:,}")
        total = announced if announced is not None else self._total()
        self._version = Version(
            url=self._shown,
            address=self._address,
            etag=response.headers.get("ETag"),
            modified=response.headers.get("Last-Modified"),
            total=total,
            sha256=self._wanted.sha256,
        )
        if total is not None:
            await asyncio.to_thread(self._part.check_room, total)
        await asyncio.to_thread(self._part.remember, self._version)
        return total

    async def _checked_range(self, response: aiohttp.ClientResponse) -> int | None:
        """The total of a partial answer that begins where ours ends, is of the same version, and goes to the end."""
        found = _RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
        total = None if found is None or found["total"] == "*" else int(found["total"])
        known = self._total()
        fits = (
            found is not None
            and found["first"] is not None
            and int(found["first"]) == self._part.done
            and (total is None or int(found["last"]) == total - 1)
            and (known is None or total in (None, known))
        )
        version, etag = self._version, response.headers.get("ETag")
        if version is not None and version.address == self._address and None not in (version.etag, etag):
            fits = fits and version.etag == etag
        if not fits:
            await self._anew()
            raise Broken("the server sent another part than it was asked for")
        return total

    async def _past_the_end(self, response: aiohttp.ClientResponse) -> None:
        """Nothing follows what is there: either that is all, or it is of something else."""
        found = _RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
        total = self._total() if found is None or found["total"] == "*" else int(found["total"])
        if total != self._part.done or self._wanted.size not in (None, total):
            await self._anew()
            raise Broken("the file at the server became shorter")
        if self._version is not None:
            self._version = replace(self._version, total=total)

    async def _receive(self, response: aiohttp.ClientResponse, total: int | None) -> None:
        writer = Writer(self._part)
        done = self._part.done
        self._meter.tell(done, total)
        try:
            async with aclosing(pieces(response.content)) as coming:
                async for piece in coming:
                    done += len(piece)
                    if total is not None and done > total:
                        break
                    await writer.put(piece)
                    self._meter.tell(done, total)
        finally:
            await writer.end()
        if total is not None and done > total:
            await asyncio.to_thread(self._part.discard)
            self._refuse(f"the server sends more than the {total:,} bytes that it should have")

    def _refuse(self, says: str) -> NoReturn:
        raise DownloadFailed(f"{self._shown}: {says}", elsewhere=True)
