"""What clients are told whose model can't be loaded: the error for a plan's refusal, with its numbers."""

from __future__ import annotations

from typing import Final

from manager.errors import InsufficientMemory, LoadFailed
from manager.groups import is_place
from manager.plan import Refusal, Why

GIB: Final = 1 << 30


def refusal_error(name: str, refusal: Refusal) -> LoadFailed:
    """The error with its numbers. Only what is larger than all that there is is not worth trying again."""
    reasons = []
    if refusal.lacks:
        lacks = " and ".join(_lack(resource, *numbers) for resource, numbers in refusal.lacks.items())
        reasons.append(f"it needs {lacks}")
    if refusal.beside:
        what = "pinned" if refusal.why is Why.PINNED else "loaded"
        reasons.append(f"{what} beside it: " + ", ".join(f"'{other}'" for other in refusal.beside))
    when = " now" if refusal.why is Why.NOW else ""
    message = f"The model '{name}' does not fit{when}: {'; '.join(reasons)}."
    memory = not all(is_place(resource) for resource in refusal.lacks)
    kind = InsufficientMemory if memory else LoadFailed
    return kind(message, should_retry=False if refusal.why is Why.NEVER else None)


def _lack(resource: str, need: int, there: int) -> str:
    if is_place(resource):
        return f"one of the {there} places of {resource}"
    return f"{need / GIB:.2f} GiB of {resource}, and there are {max(0, there) / GIB:.2f} GiB for it"
