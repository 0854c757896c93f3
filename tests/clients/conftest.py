"""The two services that the clients share: one with real models, and one whose models fail as told.

Both require keys.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final

import pytest

from tests.conftest import EMPTY_GGUF
from tests.e2e.conftest import (
    _left_children_fail as _left_children_fail,
)  # the services start in whichever test is first
from tests.e2e.conftest import starter as starter
from tests.e2e.service import Service, running
from tests.e2e.test_https import tls
from tests.fakes import write_binary

# Models whose engine can't answer their first chat: one for each client that tries again.
FLAKY: Final = ("flaky-python", "flaky-node", "flaky-anthropic")


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory, starter: Path) -> Iterator[Service]:
    """Real llama.cpp with SmolLM2, for chats and for embeddings. `endless` answers one request at
    a time, up to its last token.

    "Call NAME with X." makes it call the tool NAME. An answer of `smol:exact` does not depend on what was asked before.
    """
    folder = tmp_path_factory.mktemp("clients")
    (folder / "data" / "templates").mkdir(parents=True)
    shutil.copy(Path(__file__).with_name("tools.jinja"), folder / "data" / "templates")
    smol = {"model": str(starter), "ctxSize": 4096, "parallel": 2, "threads": 1, "nPredict": 40}
    vectors = {"model": str(starter), "ctxSize": 512, "threads": 1, "embedding": True, "pooling": "mean"}
    models: dict[str, Any] = {
        "smol": {
            "params": smol,
            "template": "tools",
            "aliases": ["gpt-4o-mini"],
            "personalities": {"pirate": "You are a pirate."},
            "profiles": {"exact": {"request": {"set": {"cache_prompt": False}}}},
        },
        "endless": {"params": {**smol, "parallel": 1}, "request": {"set": {"ignore_eos": True}}},
        "vectors": {"params": vectors},
    }
    with _service(folder, models, LLAMAHERD_LLAMA__LAUNCHER="embedded") as service:
        yield service


@pytest.fixture(scope="session")
def faulty_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a certificate in it that an authority of its own has signed."""
    folder = tmp_path_factory.mktemp("faulty")
    tls(folder, "self-signed", "localhost", "127.0.0.1")
    return folder


@pytest.fixture(scope="session")
def authority(faulty_folder: Path) -> Path:
    """Whom a client has to trust for `faulty_service`."""
    return faulty_folder / "ssl" / "llamaherd-ca.pem"


@pytest.fixture(scope="session")
def faulty_service(faulty_folder: Path) -> Iterator[Service]:
    """Fakes in llama.cpp's place, and `broken`, whose file can't be loaded. It speaks HTTPS."""
    folder = faulty_folder
    binary = write_binary(folder, error_status=503, faulty_requests=1, faults_on=("/v1/chat/completions",))
    (folder / "fake.gguf").write_bytes(EMPTY_GGUF)
    (folder / "broken.gguf").write_bytes(EMPTY_GGUF[:-4])
    models: dict[str, Any] = {name: {"params": {"model": str(folder / "fake.gguf")}} for name in FLAKY}
    models["broken"] = {"params": {"model": str(folder / "broken.gguf")}}
    environment = {
        "LLAMAHERD_LLAMA__LAUNCHER": "native",
        "LLAMAHERD_LLAMA__BINARY": str(binary),
        "LLAMAHERD_TLS__HOST": "localhost",
    }
    with _service(folder, models, **environment) as service:
        yield service


def _service(folder: Path, models: Mapping[str, Any], **environment: str) -> AbstractContextManager[Service]:
    (folder / "data").mkdir(exist_ok=True)
    (folder / "data" / "models.json").write_text(json.dumps(models))
    return running(folder, environment)
