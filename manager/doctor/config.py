"""Which configuration files are read, and the mistakes in them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

from manager.doctor.case import Case
from manager.doctor.finding import Finding, error, note, ok, warning
from manager.settings import Settings
from manager.settings_layers import DOTENV, variable_names

PAGE: Final = "mend it there, and look again: llamaherd config check"


def mistakes(case: Case) -> Iterator[Finding]:
    for line in (case.mistake or "").splitlines():
        yield error("settings", line, PAGE)


def sources(case: Case) -> Iterator[Finding]:
    if case.given is not None:
        path = case.given.config_path
        yield ok("YAML file", str(path) if path else "none (CONFIG_PATH is not set, nor --config)")
    dotenv = DOTENV.absolute()
    yield ok(".env", str(dotenv) if dotenv.is_file() else f"none in {dotenv.parent}")
    known = variable_names(Settings)
    names = sorted(name for name, value in os.environ.items() if value and name.upper() in known)
    yield ok("environment", ", ".join(names) or "no variable of ours is set")


def dangerous(case: Case) -> Iterator[Finding]:
    server = case.settings.server
    for name in ("dangerously_serve_without_keys", "dangerously_send_keys_in_clear"):
        if getattr(server, name):
            yield warning(f"server.{name}", "It is on.", f"set server.{name} to false, unless a proxy guards the way")
    if not case.settings.memory.admission:
        yield note("memory.admission", "It is off: every load is tried, whether there is room or not.")


CHECKS: Final = (mistakes, sources, dangerous)
