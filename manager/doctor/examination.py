"""Asks every check of every area. One that breaks is a finding like another, and the rest go on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Final, TypeAlias

from manager.doctor import certificates, config, engine, files, gpu, memory, models, ports, system
from manager.doctor.case import Case, NotLookedAt
from manager.doctor.finding import Finding, error, note, warning
from manager.errors import ConfigError, HerdError

Check: TypeAlias = Callable[[Case], Iterable[Finding]]

# In the order in which they are shown: what others hang on comes first.
AREAS: Final[Mapping[str, tuple[Check, ...]]] = {
    "config": config.CHECKS,
    "system": system.CHECKS,
    "engine": engine.CHECKS,
    "gpu": gpu.CHECKS,
    "memory": memory.CHECKS,
    "models": models.CHECKS,
    "files": files.CHECKS,
    "ports": ports.CHECKS,
    "certificates": certificates.CHECKS,
}


def examine(case: Case, areas: Mapping[str, tuple[Check, ...]] = AREAS) -> list[Finding]:
    """Never raises. Blocks for a second or two, and longer where llama-server looks for its devices."""
    with _quiet():
        return [replace(finding, area=area) for area, checks in areas.items() for finding in _asked(case, checks)]


def _asked(case: Case, checks: Iterable[Check]) -> list[Finding]:
    findings: dict[Finding, None] = {}  # two checks may want the same thing that can't be had
    for check in checks:
        try:
            for finding in check(case):
                findings[finding] = None
        except NotLookedAt as reason:
            findings[note("not looked at", f"{reason}.")] = None
        except Exception as failure:  # whatever it is, the other checks can do without
            findings[_broken(check.__name__.replace("_", " "), failure)] = None
    return list(findings)


def _broken(name: str, failure: Exception) -> Finding:
    match failure:
        case ConfigError():
            return error(name, failure.message)
        case HerdError():
            return warning(name, failure.message)
        case OSError():
            return warning(name, f"Could not be told: {failure}.")
        case _:  # its message may be anything
            return warning(name, f"Could not be told: {type(failure).__name__}.")


@contextmanager
def _quiet() -> Iterator[None]:
    """What others would log of what they find, the findings tell."""
    ours, silence = logging.getLogger("manager"), logging.NullHandler()
    propagated = ours.propagate
    ours.addHandler(silence)
    ours.propagate = False
    try:
        yield
    finally:
        ours.removeHandler(silence)
        ours.propagate = propagated
