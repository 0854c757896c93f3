"""GET /: the web app, whose files `npm run build` in web/ puts into `built`. It speaks only the public HTTP API."""

from __future__ import annotations

import functools
import gzip
import hashlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple

from aiohttp import web

BUILT: Final = Path(__file__).parent / "built"
PAGE: Final = "index.html"
TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".md": "text/markdown; charset=utf-8",
    ".svg": "image/svg+xml",
    ".webmanifest": "application/manifest+json",
}
# Nothing from elsewhere, and no script or style within the page. Pictures of a conversation are data: and blob: URLs.
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
# The names of assets change with what is in them; those of the other files stay.
_FOR_GOOD: Final = "public, max-age=31536000, immutable"
_ASK_AGAIN: Final = "no-cache"
# What programs expect that know only Ollama: they look here whether anybody is there.
RUNNING: Final = "llamaherd is running"
_NOT_BUILT: Final = """\
<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>llamaherd</title></head><body>
<h1>llamaherd is running</h1>
<p>Its web app was not built. Where Node 20 or newer is installed, <code>./scripts/start</code> builds it;
by hand: <code>cd web &amp;&amp; npm ci &amp;&amp; npm run build</code>, then start the service again.</p>
<p>The API is there all the same: <a href="docs">its documentation</a>.</p>
</body></html>
"""


class File(NamedTuple):
    """`zipped` is `body` by gzip, None where that is no shorter."""

    body: bytes
    zipped: bytes | None
    content_type: str
    etag: str


FILES: Final = web.AppKey("web_files", Mapping[str, File])


@functools.cache
def read_files(folder: Path = BUILT) -> Mapping[str, File]:
    """Every file of the web app by its path in the folder; none where it was not built. Blocks."""
    found = sorted(file for file in folder.rglob("*") if file.suffix in TYPES and file.is_file())
    return MappingProxyType({file.relative_to(folder).as_posix(): _read(file) for file in found})


def _read(file: Path) -> File:
    body = file.read_bytes()
    zipped = gzip.compress(body, mtime=0)
    # Weak: it is of what the file holds, compressed or not.
    etag = f'W/"{hashlib.sha256(body).hexdigest()[:32]}"'
    return File(body, zipped if len(zipped) < len(body) else None, TYPES[file.suffix], etag)


async def page(request: web.Request) -> web.Response:
    """GET /: the web app, for browsers. All others get a line of text, which tells that the service runs."""
    if "text/html" not in request.headers.get("Accept", ""):
        return web.Response(text=RUNNING, headers={"Vary": "Accept"})
    file = request.app[FILES].get(PAGE)
    if file is None:
        response = web.Response(text=_NOT_BUILT, content_type="text/html", headers=_HEADERS)
    else:
        response = _response(request, file, _ASK_AGAIN)
    response.headers["Vary"] = "Accept, Accept-Encoding"
    return response


async def asset(request: web.Request) -> web.Response:
    """GET /assets/{name}: a file of the web app, which never changes under its name."""
    return _found(request, f"assets/{request.match_info['name']}", _FOR_GOOD)


async def icon(request: web.Request) -> web.Response:
    """GET /icon.svg: the icon of the web app."""
    return _found(request, "icon.svg", _ASK_AGAIN)


async def manifest(request: web.Request) -> web.Response:
    """GET /manifest.webmanifest: by which a phone keeps the web app beside its others."""
    return _found(request, "manifest.webmanifest", _ASK_AGAIN)


async def licenses(request: web.Request) -> web.Response:
    """GET /licenses.md: the licences of what the web app is made of."""
    return _found(request, "licenses.md", _ASK_AGAIN)


def _found(request: web.Request, name: str, cached: str) -> web.Response:
    file = request.app[FILES].get(name)
    if file is None:
        raise web.HTTPNotFound
    return _response(request, file, cached)


def _response(request: web.Request, file: File, cached: str) -> web.Response:
    headers = {**_HEADERS, "Cache-Control": cached, "ETag": file.etag, "Vary": "Accept-Encoding"}
    if request.headers.get("If-None-Match") == file.etag:
        return web.Response(status=304, headers=headers)
    headers["Content-Type"] = file.content_type
    if file.zipped is not None and "gzip" in request.headers.get("Accept-Encoding", ""):
        return web.Response(body=file.zipped, headers={**headers, "Content-Encoding": "gzip"})
    return web.Response(body=file.body, headers=headers)
