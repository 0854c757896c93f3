"""The engine echo: it answers with the last message of the user, shouted or backwards, word by word."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Final, Literal

from pydantic import Field

from manager.engines.kinds import EngineKind, Surroundings
from manager.engines.simple import SIMPLE_PATHS, Body, SimpleEngine, text_of
from manager.entry import ModelEntry
from manager.errors import InvalidRequest, LoadFailed
from manager.params import ModelParams

# Voices that need no file; any other `model` is refused when it is loaded.
VOICES: Final[Mapping[str, Callable[[str], str]]] = {"shouting": str.upper, "backwards": lambda text: text[::-1]}
# A word with the space before it: what the engine calls a token.
WORD: Final = re.compile(r"\s*\S+")


class EchoParams(ModelParams):
    """The keys of `params`: those of every model, and one of its own. Both spellings of keys come for free."""

    end_with: Literal["", "!", "?"] = Field(default="", description="What every answer ends with.")
    word_delay: float = Field(default=0.0, ge=0, le=10, description="Seconds before each word.")


class EchoEngine(SimpleEngine):
    """One life of one model."""

    # It draws no lots: whatever these say, its answer is the same.
    fields = frozenset({"temperature", "top_p", "seed"})
    window = 1000

    def __init__(self, entry: ModelEntry, params: EchoParams) -> None:
        super().__init__(entry)
        self._params = params
        self._voice: Callable[[str], str] = str

    async def load(self) -> None:
        voice = VOICES.get(self._params.model)
        if voice is None:
            known = ", ".join(VOICES)
            raise LoadFailed(f"There is no voice '{self._params.model}'; there are: {known}.", should_retry=False)
        self._voice = voice
        self.log.feed(f"the voice {self._params.model} is ready\n".encode())

    def count(self, text: str) -> int:
        return len(WORD.findall(text))

    async def answer(self, body: Body) -> AsyncGenerator[str, None]:
        told = next((text_of(message) for message in reversed(body["messages"]) if message["role"] == "user"), "")
        if not told.strip():
            raise InvalidRequest("There is nothing to echo.", param="messages")
        for word in WORD.findall(self._voice(told) + self._params.end_with):
            await asyncio.sleep(self._params.word_delay)
            yield word


def make(entry: ModelEntry, _: Surroundings) -> EchoEngine:
    """The engine for one life of the model."""
    params = entry.params
    assert isinstance(params, EchoParams)  # noqa: S101  the service has read them with the class that KIND names
    return EchoEngine(entry, params)


KIND: Final = EngineKind(params=EchoParams, make=make, paths=SIMPLE_PATHS)
