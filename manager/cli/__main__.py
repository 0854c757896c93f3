"""`python -m manager.cli` is `llamaherd`."""

from __future__ import annotations

from manager.cli import main

main()
