"""Programs that stand in for others in tests, and how to make an executable of one."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.fakes.knobs import Knobs

PROGRAM = Path(__file__).with_name("llama_server.py")


def write_binary(folder: Path, **knobs: Any) -> Path:
    """Write an executable `llama-server` with these faults into `folder`; TypeError for an unknown knob.

    Knobs are the fields of `Knobs`; a path may be a Path. Each call overwrites the one before.
    """
    plain: dict[str, Any] = {name: str(value) if isinstance(value, Path) else value for name, value in knobs.items()}
    given = asdict(Knobs(**plain))
    binary = folder / "llama-server"
    python = f"{shlex.quote(sys.executable)} -S -E {shlex.quote(str(PROGRAM))}"
    # exec: the process that the service starts is the fake itself, with the same pid.
    binary.write_text(f'#!/bin/sh\nFAKE_LLAMA={shlex.quote(json.dumps(given))} exec {python} "$@"\n')
    binary.chmod(0o755)
    return binary
