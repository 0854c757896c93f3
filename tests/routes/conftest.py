"""The service of these tests: the real application on a real socket, with fakes as its children."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Protocol, TypeVar

import aiohttp
import pytest
from aiohttp.test_utils import TestServer

from manager.app import create_app
from manager.auth import KeyStore
from tests.conftest import MakeSettings
from tests.routes.herd import Herd
from tests.routes.stage import Fake, Stage

T = TypeVar("T")


def outside(work: Callable[[], T]) -> T:
    """What the command line would do in a process of its own: off the event loop, which it must not block."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(work).result()


class StartHerd(Protocol):
    def __call__(self, **sections: dict[str, Any]) -> Awaitable[Herd]: ...


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


@pytest.fixture
async def start_herd(stage: Stage, make_settings: MakeSettings) -> AsyncIterator[StartHerd]:
    """Starts the service over the stage as it is then; arguments are sections of settings."""
    async with AsyncExitStack() as stack:

        async def start(**sections: dict[str, Any]) -> Herd:
            settings = outside(lambda: make_settings(**stage.sections(sections)))
            server = TestServer(create_app(settings))
            # As manager.server does it: TestServer's runner has handler_cancellation on.
            await server.start_server(access_log=None, shutdown_timeout=1.0)
            stack.push_async_callback(server.close)
            session = await stack.enter_async_context(aiohttp.ClientSession())
            return Herd(server, session)

        yield start


@pytest.fixture
def fake(stage: Stage) -> Fake:
    """The fake of the one model of `herd`, which is named "alpha"."""
    return stage.model("alpha", personalities={"pirate": "Talk like a pirate."})


@pytest.fixture
async def herd(fake: Fake, start_herd: StartHerd) -> Herd:
    """A service without keys, with the model "alpha", which is not loaded."""
    return await start_herd()


@pytest.fixture
def make_key(stage: Stage) -> Callable[..., str]:
    """Stores a key as the command line does, and returns it."""

    def make(name: str, *scopes: str, expires: float | None = None, **limits: Any) -> str:
        store = KeyStore(stage.keys_file)
        return outside(lambda: store.create(name, "", scopes or ("inference", "admin"), expires, **limits))[0]

    return make


@pytest.fixture
async def ruled(fake: Fake, make_key: Callable[..., str], start_herd: StartHerd) -> Herd:
    """A service whose client holds the only key, "boss"."""
    key = make_key("boss")
    herd = await start_herd()
    herd.key = key
    return herd
