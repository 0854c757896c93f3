"""GET /docs and /redoc: two pages over /openapi.json, which ask no other host for anything."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple

from aiohttp import web

# Installed for these files only; nothing imports it.
PACKAGE: Final = "aiohttp_swagger3"
TYPES: Final = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".png": "image/png",
}
_HERE: Final = Path(__file__).parent
# Icons are data: URLs.
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'{}; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# The style elements that ReDoc makes: an empty one, whose rules it adds by script, and that of its scrollbar.
_REDOC_STYLES: Final = (
    " 'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=' 'sha256-DLDPR1ic47WIdK2WyeLkblb/tm2mQH+Jt/NNhZWu1k0='"
)
_SECONDS: Final = 3600
# ReDoc would load it from elsewhere, which the policy forbids; without it the picture is left out.
_LOGO: Final = b"https://cdn.redoc.ly/redoc/logo-mini.svg"


class Asset(NamedTuple):
    body: bytes
    content_type: str


ASSETS: Final = web.AppKey("assets", Mapping[str, Asset])


@functools.cache
def read_assets() -> Mapping[str, Asset]:
    """Every file of the pages, by name. Raises ModuleNotFoundError where the package with most of them is gone."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise ModuleNotFoundError(f"{PACKAGE} is not installed, which has the files of /docs and /redoc.")
    package = Path(found.origin).parent
    files = [
        *(_HERE / name for name in ("swagger.html", "swagger.js", "redoc.html", "redoc.js", "page.css")),
        *(package / "swagger_ui" / name for name in ("swagger-ui-bundle.js", "swagger-ui.css", "favicon-32x32.png")),
        package / "redoc_ui" / "redoc.standalone.js",
    ]
    return MappingProxyType(
        {file.name: Asset(file.read_bytes().replace(_LOGO, b"data:,"), TYPES[file.suffix]) for file in files}
    )


async def swagger(request: web.Request) -> web.Response:
    """GET /docs: the API to read and to try, with Swagger UI."""
    return _page(request, "swagger.html", _POLICY.format(""))


async def redoc(request: web.Request) -> web.Response:
    """GET /redoc: the API to read, with ReDoc."""
    return _page(request, "redoc.html", _POLICY.format(_REDOC_STYLES))


def _page(request: web.Request, name: str, policy: str) -> web.Response:
    page = request.app[ASSETS][name]
    return web.Response(
        body=page.body,
        content_type=page.content_type,
        charset="utf-8",
        headers={"Content-Security-Policy": policy},
    )


async def asset(request: web.Request) -> web.Response:
    """GET /docs/{asset}: a file of these pages."""
    found = request.app[ASSETS].get(request.match_info["asset"])
    if found is None:
        raise web.HTTPNotFound
    return web.Response(
        body=found.body,
        headers={"Content-Type": found.content_type, "Cache-Control": f"max-age={_SECONDS}"},
    )
