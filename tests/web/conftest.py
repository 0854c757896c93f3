"""A browser, and services for it to look at: one with a real model, and one with fakes for what must go wrong."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

import pytest
from playwright.sync_api import Browser, expect

from routes.web_app import BUILT
from tests.e2e.conftest import TEACHER, starter
from tests.e2e.service import Service, running
from tests.fakes.hub import Hub, running_hub
from tests.routes.stage import Fake, Stage
from tests.web.browser import AXE, DESKTOP, PATIENCE, Visitor, chromium, signed_in, started


class Visit(Protocol):
    """A visitor of that service; with a key, it is signed in."""

    def __call__(self, service: Service, key: str | None = None) -> Visitor: ...


__all__ = ["starter"]  # a fixture of theirs

StartStaged = Callable[..., AbstractContextManager[Service]]

expect.set_options(timeout=PATIENCE * 1000)


@pytest.fixture(autouse=True)
def _left_children_fail() -> None:
    """The browser is a child that stays; services are looked at where they end."""


@pytest.fixture(autouse=True)
def _blocking_fails() -> None:
    """Playwright has a loop in this thread, but no code of the service runs on it."""


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if chromium() is None:
        pytest.skip("there is no Chromium: apt-get install chromium")
    if not (BUILT / "index.html").is_file() or not AXE.is_file():
        pytest.skip("the web app is not built: scripts/test-web builds it")
    with started() as browser:
        yield browser


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    named = os.environ.get("WEB_SCREENSHOTS")
    folder = Path(named) if named else tmp_path_factory.mktemp("screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def visitors() -> list[Visitor]:
    """Those of this test."""
    return []


@pytest.fixture
def visit(browser: Browser, pictures: Path, visitors: list[Visitor]) -> Iterator[Visit]:
    """Makes visitors, each with a profile of its own. A test fails where something went wrong in a page of theirs."""

    def begin(service: Service, key: str | None = None) -> Visitor:
        context = browser.new_context(
            viewport={"width": DESKTOP[0], "height": DESKTOP[1]},
            color_scheme="light",
            locale="en-GB",
            storage_state=signed_in(service.url, key) if key else None,
        )
        visitors.append(Visitor(context, service.url, pictures))
        return visitors[-1]

    yield begin
    for visitor in visitors:
        visitor.context.close()
    for visitor in visitors:
        visitor.mishaps.check()


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory, starter: Path) -> Iterator[Service]:
    """The real service with SmolLM2, which tests share. Models differ by name only, so that each test has its own."""
    folder = tmp_path_factory.mktemp("web")
    (folder / "data").mkdir()
    (folder / "models").mkdir()
    (folder / "models" / "smol.gguf").symlink_to(starter)
    (folder / "models" / "found.gguf").symlink_to(starter)
    params = {"model": "smol.gguf", "ctxSize": 2048, "parallel": 2, "threads": 1, "nPredict": 200}
    smol = {
        "params": params,
        "template": "chatml",
        "personalities": {"geography teacher": TEACHER},
        "description": "Small, and quick to answer.",
    }
    models = {
        "smol": smol,
        "smol-two": smol,
        "smol-cold": {**smol, "ttl": 600},
        "smol-logged": smol,
        "missing": {"params": {"model": "no.gguf"}},
    }
    (folder / "data" / "models.json").write_text(json.dumps(models, indent=2))
    environment = {
        "GGUF_MODELS_DIR": str(folder / "models"),
        "LLAMAHERD_STORAGE__MODELS_FOLDER": str(folder / "models"),
        "LLAMAHERD_LLAMA__LAUNCHER": "embedded",
        "LLAMAHERD_ACTIVITY__SAMPLE_EVERY": "0.5",
        "LLAMAHERD_SERVER__DRAIN_TIMEOUT": "5",
    }
    with running(folder, environment) as service:
        yield service


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


@pytest.fixture
def fake(stage: Stage) -> Fake:
    """The fake llama-server of the model "parrot", which says what it is told."""
    return stage.model("parrot", ctx_size=1000)


@pytest.fixture
def start_staged(stage: Stage, visitors: list[Visitor]) -> StartStaged:
    """Start a service over the stage, whose models are fakes, with more settings as environment variables.

    Whoever visits it leaves before it ends: a page that reads something just then would tell of a mishap.
    """

    @contextmanager
    def start(**settings: str) -> Iterator[Service]:
        variables = {**stage.variables(), "LLAMAHERD_SERVER__DRAIN_TIMEOUT": "1", **settings}
        with running(stage.folder, variables) as service:
            yield service
            for visitor in visitors:
                visitor.context.close()

    return start


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A hub of models, which runs in a thread of its own."""
    ready: Future[Hub] = Future()
    over = threading.Event()

    async def run() -> None:
        async with running_hub() as hub:
            ready.set_result(hub)
            await asyncio.to_thread(over.wait)

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    try:
        yield ready.result(PATIENCE)
    finally:
        over.set()
        thread.join()
