"""The body of an answer on its way to the disk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import aiohttp

from manager.downloads.part import BLOCK, Part


async def pieces(content: aiohttp.StreamReader) -> AsyncGenerator[bytes]:
    """All that comes, also what came just before the connection broke."""
    try:
        async for piece in content.iter_any():
            yield piece
    except (aiohttp.ClientError, OSError):
        # The reader raises before it gives out what it holds, which may be all that a poor line brings in one go.
        for piece in tuple(getattr(content, "_buffer", ())):
            yield piece
        raise


class Writer:
    """Puts blocks into the part in a thread, one at a time, while the next one comes."""

    def __init__(self, part: Part) -> None:
        self._part = part
        self._pieces: list[bytes] = []
        self._size = 0
        self._writing: asyncio.Future[None] | None = None

    async def put(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self._size += len(piece)
        if self._size >= BLOCK:
            await self._flush()

    async def end(self) -> None:
        """Everything is written then. What broke off was worth having, too."""
        await self._flush()
        await self._written()

    async def _flush(self) -> None:
        await self._written()
        if self._pieces:
            block, self._pieces, self._size = b"".join(self._pieces), [], 0
            self._writing = asyncio.get_running_loop().run_in_executor(None, self._part.append, block)

    async def _written(self) -> None:
        if self._writing is not None:
            await asyncio.wait([self._writing])  # cancelling us must not lose sight of it
            writing, self._writing = self._writing, None
            writing.result()
