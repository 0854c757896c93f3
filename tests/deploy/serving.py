"""A service with one model, `fake`, for the files of deploy/ to be tried on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tests.conftest import EMPTY_GGUF
from tests.e2e.service import Service, running
from tests.fakes import write_binary

DEPLOY: Final = Path(__file__).parents[2] / "deploy"


@contextmanager
def serving(folder: Path, environment: dict[str, str] | None = None, **knobs: Any) -> Iterator[Service]:
    """It runs in `folder`; `knobs` are those of the fake llama-server."""
    (folder / "fake.gguf").write_bytes(EMPTY_GGUF)
    chosen = {
        "LLAMAHERD_LLAMA__LAUNCHER": "native",
        "LLAMAHERD_LLAMA__BINARY": str(write_binary(folder, **knobs)),
        "LLAMAHERD_LOG__FOLDER": "",
        "MODEL_PATH": str(folder / "fake.gguf"),
        "MODEL_NAME": "fake",
    }
    with running(folder, chosen | (environment or {})) as service:
        yield service
