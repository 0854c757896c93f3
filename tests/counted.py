"""Texts that count how often they are compared, which tells how often a list was gone through."""

from __future__ import annotations

from typing import ClassVar


class Counted(str):
    """A text. `compared`: how often any of them was, since somebody set it to 0."""

    __slots__ = ()
    compared: ClassVar[int] = 0

    def __eq__(self, other: object) -> bool:
        Counted.compared += 1
        return str.__eq__(self, other) is True

    def __hash__(self) -> int:
        return str.__hash__(self)
