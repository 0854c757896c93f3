"""Forms with files (multipart/form-data), read whole and within the limits of every body."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

import aiohttp
from aiohttp import web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_exceptions import HttpProcessingError

from manager.errors import InvalidRequest
from routes.body import read_body

FORM: Final = "multipart/form-data"
_MOST_FIELDS: Final = 64
_STEP: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class Upload:
    """A form as it came. `fields` has the parts by their names."""

    raw: bytes
    fields: dict[str, bytes]

    def text(self, name: str) -> str | None:
        """A field that is a text; None where it is not there. Raises InvalidRequest."""
        value = self.fields.get(name)
        try:
            return None if value is None else value.decode()
        except UnicodeDecodeError:
            raise InvalidRequest(f"'{name}' must be a text in UTF-8.", param=name) from None


async def read_upload(request: web.Request) -> Upload:
    """The form that a request brings. Raises as `read_body` does, and InvalidRequest where it is no such form."""
    if request.content_type != FORM:
        raise InvalidRequest(f"The body must be a form ({FORM}).")
    raw = await read_body(request)
    loop = asyncio.get_running_loop()
    stream = aiohttp.StreamReader(BaseProtocol(loop), len(raw) + 1, loop=loop)
    stream.feed_data(raw)
    stream.feed_eof()
    try:
        return Upload(raw, await _fields(aiohttp.MultipartReader(request.headers, stream)))
    except (ValueError, HttpProcessingError):
        raise InvalidRequest(f"The body is not the form that its headers say ({FORM}).") from None


async def _fields(reader: aiohttp.MultipartReader) -> dict[str, bytes]:
    fields: dict[str, bytes] = {}
    while (part := await reader.next()) is not None:
        name = part.name if isinstance(part, aiohttp.BodyPartReader) else None
        if not isinstance(part, aiohttp.BodyPartReader) or not name:
            raise InvalidRequest("Every part of the form must be a field with a name.")
        if name in fields:
            raise InvalidRequest(f"'{name}' is there more than once.", param=name)
        if len(fields) == _MOST_FIELDS:
            raise InvalidRequest(f"The form has more than {_MOST_FIELDS} fields.")
        value = bytearray()
        while chunk := await part.read_chunk(_STEP):
            value += chunk
            await asyncio.sleep(0)  # nothing of it waits: others get their turn
        fields[name] = bytes(value)
    return fields
