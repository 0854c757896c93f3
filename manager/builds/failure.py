"""What the making of a build tells: how it goes on, and why it failed."""

from __future__ import annotations

from typing import Protocol

from manager.errors import HerdError


class BuildFailed(HerdError):
    """There is no build; the message says why, and what was there before is still there."""


class Tell(Protocol):
    """Whoever watches."""

    def say(self, text: str) -> None: ...

    def progress(self, done: int, total: int) -> None:
        """So many of all steps of the compilation are done."""
