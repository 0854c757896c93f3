"""Plain HTTP beside HTTPS: sends clients there, and answers the challenges of a certificate authority (RFC 8555)."""

from __future__ import annotations

import asyncio
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

from aiohttp import hdrs, web

from manager.addresses import host_of
from manager.errors import HerdError, InvalidRequest, PermissionDenied
from manager.short_answers import closing_response

CHALLENGES: Final = ".well-known/acme-challenge"
# A key authorization is a token, a dot and a digest: about 90 bytes.
MAX_CHALLENGE: Final = 4096
HTTPS_PORT: Final = 443
_CHALLENGE: Final = re.compile(rf"/{re.escape(CHALLENGES)}/([A-Za-z0-9_-]{{1,128}})")
_TARGET: Final = re.compile(r"/[!-~]*")
_NAME: Final = re.compile(r"[a-z0-9_.-]{1,253}")


class NotFound(HerdError):
    status = 404
    type = "not_found_error"
    code = "not_found"


class SentInClear(PermissionDenied):
    """A key came over plain HTTP. Sent on, its client would do the same again and again, and nobody would know."""

    code = "key_sent_in_clear"


class Redirect:
    """The handler. `port` is where clients find HTTPS, `admits` tells of a host whether they may be sent to it."""

    def __init__(self, port: int, webroot: Path | None, admits: Callable[[str], bool]) -> None:
        self._port = port
        self._webroot = webroot
        self._admits = admits

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            return await self._answer(request)
        except HerdError as error:
            return closing_response(error)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        challenge = _CHALLENGE.fullmatch(request.rel_url.raw_path)
        if self._webroot is not None and challenge and request.method in {hdrs.METH_GET, hdrs.METH_HEAD}:
            text = await asyncio.to_thread(read_challenge, self._webroot, challenge[1])
            response = web.Response(body=text, headers={"Content-Type": "text/plain"})
        else:
            location = self._location(request)
            if hdrs.AUTHORIZATION in request.headers:
                raise SentInClear(
                    "This is the port for plain HTTP: the key of this request was just sent in clear, and others may "
                    f"have read it. Replace it by a new one ('llamaherd key rotate'), and call {location} instead."
                )
            response = web.Response(status=308, headers={"Location": location})
        response.force_close()
        return response

    def _location(self, request: web.BaseRequest) -> str:
        host = host_of(request.headers.get(hdrs.HOST, ""))
        if host is None or not (":" in host or _NAME.fullmatch(host)) or not self._admits(host):
            raise InvalidRequest("The Host header names no host that this service is called by.")
        target = request.rel_url.raw_path_qs
        if not _TARGET.fullmatch(target):
            raise InvalidRequest("The URL has no path, or one with bytes that belong in no URL.")
        authority = f"[{host}]" if ":" in host else host
        return f"https://{authority}{'' if self._port == HTTPS_PORT else f':{self._port}'}{target}"


def read_challenge(webroot: Path, token: str) -> bytes:
    """The answer to a challenge. Blocks; raises NotFound where there is no small file of this name inside webroot."""
    folder = webroot / CHALLENGES
    try:
        if not folder.resolve(strict=True).is_relative_to(webroot.resolve()):
            raise NotFound("There is no such challenge.")
        handle = os.open(folder / token, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        raise NotFound("There is no such challenge.") from None
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_CHALLENGE:
            raise NotFound("There is no such challenge.")
        return os.read(handle, MAX_CHALLENGE)
    finally:
        os.close(handle)
