"""With which launchers of llama.cpp the tests run: TEST_LAUNCHERS, by default all that there are.

scripts/test takes embedded, scripts/test-native takes native.
"""

from __future__ import annotations

import os
from pathlib import Path

from manager.engines.llama.native import find_binary
from manager.settings import load_settings

WANTED = os.environ.get("TEST_LAUNCHERS", "embedded native").split()


def native_binary() -> Path | None:
    """The llama-server that the settings, PATH or the cache name; None where there is none, or it is not wanted.

    Where no other launcher is wanted, there must be one: else every test would be skipped, and all would seem well.
    """
    binary = find_binary(load_settings()) if "native" in WANTED else None
    if binary is None and WANTED == ["native"]:
        raise RuntimeError("TEST_LAUNCHERS is native, and there is no llama-server: set LLAMAHERD_LLAMA__BINARY")
    return binary


def launchers() -> list[str]:
    """Those that are wanted and there, by name."""
    return [
        *(["embedded"] if "embedded" in WANTED else []),
        *(["native"] if native_binary() is not None else []),
    ]
