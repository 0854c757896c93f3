"""Finding texts in a stream whose pieces may cut them."""

from __future__ import annotations

from collections.abc import Iterable


class Markers:
    """Looks for texts in a stream: the first of them, and how much of its end may be the beginning of one."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = sorted({text for text in texts if text}, key=len, reverse=True)
        self._beginnings = {text[:size] for text in self._texts for size in range(1, len(text))}
        self._longest = len(self._texts[0]) if self._texts else 0

    def first(self, text: str) -> tuple[int, str] | None:
        """Where the first one begins, and which; the longest of several at one place."""
        found = [(at, -len(each), each) for each in self._texts if (at := text.find(each)) >= 0]
        return (min(found)[0], min(found)[2]) if found else None

    def held(self, text: str) -> int:
        """How many characters at the end may become one."""
        sizes = range(min(self._longest - 1, len(text)), 0, -1)
        return next((size for size in sizes if text[-size:] in self._beginnings), 0)
