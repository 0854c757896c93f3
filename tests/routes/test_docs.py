"""The pages over the description: whole without any other host, and nothing in them that a policy must allow."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import pytest

from routes import docs
from tests.routes.conftest import StartHerd
from tests.routes.herd import Herd
from tests.routes.stage import Fake

PAGES: Final = ("/docs", "/redoc")


@pytest.mark.parametrize("page", PAGES)
async def test_a_page_and_all_that_it_names_is_served(herd: Herd, page: str) -> None:
    answer = await herd.get(page)
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    named = re.findall(r'(?:href|src)="([^"]+)"', answer.body.decode())
    assert len(named) >= 4
    for name in named:
        file = await herd.get(f"/{name}")
        kind = docs.TYPES["." + name.rpartition(".")[2]]
        assert (file.status, file.headers["Content-Type"]) == (200, kind), name
        assert file.headers["Cache-Control"] == "max-age=3600"
        assert file.body


@pytest.mark.parametrize("page", PAGES)
async def test_a_page_may_load_from_its_own_origin_only_and_run_no_script_within_it(herd: Herd, page: str) -> None:
    answer = await herd.get(page)
    policy = dict(rule.split(" ", 1) for rule in answer.headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == "'self'"
    assert "unsafe" not in answer.headers["Content-Security-Policy"]
    assert "http" not in answer.headers["Content-Security-Policy"]
    assert policy["frame-ancestors"] == "'none'"
    text = answer.body.decode()
    assert "//" not in text.replace("<!DOCTYPE html>", "")
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\bstyle=|\bon\w+=", text)


@pytest.mark.parametrize("script", ["swagger.js", "redoc.js"])
async def test_the_pages_read_the_description_of_this_service(herd: Herd, script: str) -> None:
    assert '"openapi.json"' in (await herd.get(f"/docs/{script}")).body.decode()


async def test_redoc_looks_for_no_logo_elsewhere(herd: Herd) -> None:
    bundle = (await herd.get("/docs/redoc.standalone.js")).body
    assert b"Redoc" in bundle
    assert b"cdn." not in bundle


@pytest.mark.parametrize("name", ["nothing.js", "__init__.py", "..%2F__init__.py", "%2Fetc%2Fpasswd", "swagger.js%00"])
async def test_nothing_else_is_served(herd: Herd, name: str) -> None:
    assert (await herd.get(f"/docs/{name}")).status == 404


async def test_the_pages_need_no_key_and_are_the_same_with_one(
    fake: Fake, start_herd: StartHerd, make_key: Callable[..., str]
) -> None:
    key = make_key("admin")
    herd = await start_herd()
    for page in PAGES:
        without = await herd.get(page)
        assert without.status == 200
        assert without.body == (await herd.get(page, key=key)).body


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docs, "PACKAGE", "no_such_package_of_pages")
    docs.read_assets.cache_clear()
    with pytest.raises(ModuleNotFoundError, match="no_such_package_of_pages"):
        docs.read_assets()
    docs.read_assets.cache_clear()
