"""How an API writes its answers, where it does so in another way than the engines, which write OpenAI's."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from manager.errors import HerdError
from manager.short_answers import error_object
from routes import sse

# Changes a whole, successful JSON answer.
Finish = Callable[[dict[str, Any]], dict[str, Any]]
# Makes another stream out of the engine's. What it yields is whole: something else may be written between two pieces.
Reframe = Callable[[AsyncIterator[bytes]], AsyncIterator[bytes]]


def _failed(error: HerdError) -> bytes:
    return sse.data_frame(error_object(error))


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """`finish` and `reframe`: None hands on what the engine says, byte for byte.

    `headers` are those of a stream, `failed` makes its last piece where it fails, and `pulse` what keeps a quiet one
    alive, with a word on why it is quiet that no client needs to read.
    """

    finish: Finish | None = None
    reframe: Reframe | None = None
    headers: Mapping[str, str] = field(default_factory=lambda: sse.HEADERS)
    failed: Callable[[HerdError], bytes] = _failed
    pulse: Callable[[str], bytes] = sse.comment


OPENAI: Final = Form()
