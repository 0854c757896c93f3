"""What a chat's text becomes in its answer: the seam for parsers of tool calls and reasoning, and plain content."""

from __future__ import annotations

from typing import Any, Protocol


class Deltas(Protocol):
    """Reads the text of one chat choice as it comes. Used once."""

    def feed(self, text: str) -> list[dict[str, Any]]:
        """OpenAI's delta objects for what this text adds; none where it must be held back."""

    def end(self) -> tuple[list[dict[str, Any]], str | None]:
        """The deltas of what was held back, and a finish_reason to give in place of "stop"."""

    def message(self) -> dict[str, Any]:
        """The whole message, after end()."""


class PlainDeltas:
    """All text is content."""

    def __init__(self) -> None:
        self._texts: list[str] = []

    def feed(self, text: str) -> list[dict[str, Any]]:
        self._texts.append(text)
        return [{"content": text}]

    def end(self) -> tuple[list[dict[str, Any]], str | None]:
        return [], None

    def message(self) -> dict[str, Any]:
        return {"role": "assistant", "content": "".join(self._texts)}
