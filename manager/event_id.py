"""Ids of numbered events: how a reader that comes back says where it left off."""

from __future__ import annotations

import re
import secrets
from typing import Final, NamedTuple, Self

_FORM: Final = re.compile(r"([0-9a-f]{8})-([0-9]{1,18})")


class EventId(NamedTuple):
    """As text `<run>-<number>`: numbers mean something only within a run, which is drawn where counting begins."""

    run: str
    number: int

    def __str__(self) -> str:
        return f"{self.run}-{self.number}"

    @classmethod
    def parse(cls, text: str | None) -> Self | None:
        """None for what is no id: a reader that names one has read nothing of ours."""
        match = _FORM.fullmatch(text or "")
        return cls(match[1], int(match[2])) if match else None


def draw_run() -> str:
    """The name of a new run."""
    return secrets.token_hex(4)
