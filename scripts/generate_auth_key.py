#!/usr/bin/env python3
"""Make an API key and print it, this once: generate_auth_key.py NAME [DESCRIPTION] [--admin].

The key alone goes to standard output, everything else to standard error. `llamaherd key create` can do more.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"


def main() -> None:
    parser = argparse.ArgumentParser(description="Make an API key and print it, this once.")
    parser.add_argument("name", help="a name that no other valid key has")
    parser.add_argument("description", nargs="?", default="", help="what the key is for")
    parser.add_argument("--admin", action="store_true", help="the key may also load and unload models")
    arguments = parser.parse_args()
    python = VENV / "bin" / "python"
    if not python.exists():
        sys.exit(f"{VENV} is not there yet: run {ROOT / 'scripts' / 'start'} once.")
    os.chdir(ROOT)  # where the service of scripts/start has its data
    command = [str(python), "-m", "manager.cli", "key", "create", f"--description={arguments.description}"]
    command += ["--scope", "inference", *(["--scope", "admin"] if arguments.admin else []), "--", arguments.name]
    os.execv(python, command)  # noqa: S606 no shell; what is run is our own command


if __name__ == "__main__":
    main()
