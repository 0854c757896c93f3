"""The web app: its files, what a browser may do with them, and what others get at the same address."""

from __future__ import annotations

import gzip
import re
from pathlib import Path
from typing import Final

import pytest

from routes import web_app
from tests.routes.conftest import StartHerd
from tests.routes.herd import Answer, Herd
from tests.routes.stage import Fake, Stage

BROWSER: Final = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
INDEX: Final = b"<!doctype html><title>built</title>" + b"<p>it is long enough to be worth compressing</p>" * 9
SCRIPT: Final = b"export const long = 'enough to be worth compressing, as it says so again and again';" * 9


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of built files in place of the real one, which may not be there."""
    folder = tmp_path / "built"
    (folder / "assets").mkdir(parents=True)
    (folder / "index.html").write_bytes(INDEX)
    (folder / "icon.svg").write_bytes(b"<svg/>")
    (folder / "assets" / "index-abc.js").write_bytes(SCRIPT)
    (folder / "assets" / "notes.txt").write_bytes(b"not of the app")
    files = web_app.read_files(folder)
    monkeypatch.setattr(web_app, "read_files", lambda: files)
    return folder


@pytest.fixture
async def herd(built: Path, fake: Fake, start_herd: StartHerd) -> Herd:
    return await start_herd()


async def page(herd: Herd, **headers: str) -> Answer:
    return await herd.get("/", headers={**BROWSER, **headers})


async def test_a_browser_gets_the_page_and_others_a_line_of_text(herd: Herd) -> None:
    answer = await page(herd)
    assert (answer.status, answer.headers["Content-Type"], answer.body) == (200, "text/html; charset=utf-8", INDEX)
    assert answer.headers["Cache-Control"] == "no-cache"
    text = await herd.get("/")
    assert (text.status, text.body) == (200, b"llamaherd is running")
    assert "Accept" in text.headers["Vary"]
    assert "Accept" in answer.headers["Vary"]


async def test_no_script_and_no_style_within_the_page_may_run_and_nothing_from_elsewhere(herd: Herd) -> None:
    answer = await page(herd)
    policy = dict(rule.split(" ", 1) for rule in answer.headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert "unsafe" not in answer.headers["Content-Security-Policy"]
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


async def test_an_asset_is_kept_for_good_and_comes_compressed_to_who_takes_it(herd: Herd) -> None:
    path = "/assets/index-abc.js"
    plain = await herd.get(path, headers={"Accept-Encoding": "identity"})
    assert (plain.status, plain.body) == (200, SCRIPT)
    assert plain.headers["Content-Type"] == "text/javascript; charset=utf-8"
    assert "immutable" in plain.headers["Cache-Control"]
    assert "Content-Encoding" not in plain.headers
    async with herd.session.get(herd.server.make_url(path), auto_decompress=False) as response:
        zipped = await response.read()
        assert response.headers["Content-Encoding"] == "gzip"
        assert response.headers["Vary"] == "Accept-Encoding"
    assert len(zipped) < len(SCRIPT)
    assert gzip.decompress(zipped) == SCRIPT


async def test_a_page_that_a_browser_has_is_not_sent_again(herd: Herd) -> None:
    first = await page(herd)
    again = await page(herd, **{"If-None-Match": first.headers["ETag"]})
    assert (again.status, again.body) == (304, b"")
    assert again.headers["Content-Security-Policy"] == first.headers["Content-Security-Policy"]
    assert (await page(herd, **{"If-None-Match": 'W/"another"'})).body == INDEX


@pytest.mark.parametrize(
    "path",
    [
        "/assets/nothing.js",
        "/assets/notes.txt",
        "/assets/..%2Findex.html",
        "/assets/%2Fetc%2Fpasswd",
        "/assets/index-abc.js%00",
        "/manifest.webmanifest",
    ],
)
async def test_nothing_else_is_served(herd: Herd, path: str) -> None:
    assert (await herd.get(path)).status == 404


async def test_the_page_asks_for_no_key_where_the_service_does(
    built: Path, fake: Fake, stage: Stage, start_herd: StartHerd, make_key: object
) -> None:
    assert callable(make_key)
    make_key("somebody")
    herd = await start_herd()
    assert (await page(herd)).body == INDEX
    assert (await herd.get("/icon.svg")).headers["Content-Type"] == "image/svg+xml"
    assert (await herd.get("/admin/models")).status == 401


async def test_where_it_was_not_built_the_page_says_how(
    monkeypatch: pytest.MonkeyPatch, fake: Fake, start_herd: StartHerd
) -> None:
    monkeypatch.setattr(web_app, "read_files", dict)
    answer = await page(await start_herd())
    assert answer.status == 200
    assert b"npm ci &amp;&amp; npm run build" in answer.body
    assert not re.search(rb"<script|<style|\bstyle=", answer.body)
